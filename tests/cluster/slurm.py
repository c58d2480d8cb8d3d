"""A real one-node SLURM for tests, from Debian's packages, in a temporary directory.

Nothing outside that directory is touched and only the loopback interface is used. Two shell uses,
from the root of the repository::

    python -m tests.cluster.slurm install            # apt-get; needs root
    python -m tests.cluster.slurm run -- COMMAND...  # COMMAND with such a SLURM around it
"""

import contextlib
import fnmatch
import os
import pwd
import secrets
import shlex
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Literal, NamedTuple, Self

from .keeper import MARK, Keeper, marked

Daemon = Literal["munged", "slurmctld", "slurmd"]

PACKAGES = ("munge", "slurm-wlm")
APT_COMMANDS = (
    ("apt-get", "update", "-q"),
    ("apt-get", "install", "-q", "-y", "--no-install-recommends", *PACKAGES),
)
PARTITION = "main"

_DAEMONS: tuple[Daemon, ...] = ("munged", "slurmctld", "slurmd")
_CLIENTS = ("munge", "sbatch", "scancel", "scontrol", "sinfo", "squeue", "srun")
_ADMIN_FOLDERS = ("/usr/local/sbin", "/usr/sbin", "/sbin")  # not on the PATH of a Debian user
_CLIENT_SETTINGS = ("SLURM_", "SBATCH_", "SCANCEL_", "SINFO_", "SQUEUE_", "SRUN_")
_PATIENCE = 300.0

_CONFIGURATION = """\
ClusterName=blocks
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller_port}
SlurmdPort={node_port}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={directory}/munge.socket
# Listen on the loopback address only.
CommunicationParameters=NoCtldInAddrAny,NoInAddrAny
StateSaveLocation={directory}/slurmctld
SlurmdSpoolDir={directory}/slurmd
SlurmctldPidFile={directory}/slurmctld.pid
SlurmdPidFile={directory}/slurmd.pid
SlurmctldLogFile={directory}/slurmctld.log
SlurmdLogFile={directory}/slurmd.log
# Without systemd and without cgroups.
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
MpiDefault=none
# Several jobs share the node.
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
DefMemPerCPU=200
# More CPUs may be declared than there are.
SlurmdParameters=config_overrides
ReturnToService=2
SchedulerParameters=sched_interval=1,sched_min_interval=0,bf_interval=2,defer_batch=0
# Finished jobs stay visible to squeue.
MinJobAge=3600
SlurmdTimeout={node_timeout}
KillWait={kill_wait}
NodeName={host} NodeAddr=127.0.0.1 CPUs={cpus} RealMemory={memory} State=UNKNOWN
PartitionName={partition} Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


class ClusterError(RuntimeError):
    """A test cluster did not do what it was asked for."""


class Verdict(NamedTuple):
    """An answer with its reason; true or false as `ok` is."""

    ok: bool
    reason: str

    def __bool__(self) -> bool:
        return self.ok


class SlurmJob(NamedTuple):
    """A job as squeue shows it; Snakemake's comments name rule and wildcards."""

    id: int
    state: str
    comment: str


def available() -> Verdict:
    """Whether a `SlurmCluster` can be brought up here.

    Returns
    -------
    Verdict
        With the reason if not.
    """
    if not sys.platform.startswith("linux"):
        return Verdict(False, f"SLURM is run on Linux only, this is {sys.platform}")
    missing = [name for name in (*_DAEMONS, *_CLIENTS) if _binary(name) is None]
    if missing:
        return Verdict(
            False,
            f"SLURM is not installed (no {', '.join(missing)}); "
            "as root: python -m tests.cluster.slurm install",
        )
    return Verdict(True, "SLURM is installed")


def installable() -> Verdict:
    """Whether `install` can work here.

    Returns
    -------
    Verdict
        With the reason if not.
    """
    if shutil.which("apt-get") is None:
        return Verdict(False, "there is no apt-get; install munge and SLURM by hand")
    if os.geteuid() != 0:
        return Verdict(False, "installing packages needs root")
    return Verdict(True, "apt-get can be run as root")


def install() -> None:
    """Install SLURM and munge with apt-get, unless they are there already.

    Raises
    ------
    ClusterError
        If `installable` says no.
    subprocess.CalledProcessError
        If apt-get fails.
    """
    if available():
        print("SLURM is installed")
        return
    verdict = installable()
    if not verdict:
        raise ClusterError(verdict.reason)
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    for command in APT_COMMANDS:
        subprocess.run(command, check=True, env=environment)


class SlurmCluster:
    """A SLURM with one node on this machine, for the length of a ``with`` statement.

    Parameters
    ----------
    cpus : int
        CPUs that the node declares; may be more than the machine has.
    memory : int
        Memory that the node declares, in MB; SLURM counts it and does not enforce it.
    kill_wait : int
        Seconds between SIGTERM and SIGKILL of a job at its walltime or at scancel.
    node_timeout : int
        Seconds after which the controller gives up a node whose slurmd is dead.

    Attributes
    ----------
    directory : Path
        Configuration, logs and state; gone at the end.
    env : dict of str to str
        Environment for processes that use the cluster.
    snakemake_arguments : tuple of str
        What ``snakemake`` needs to use this cluster, which has no accounting database.

    Raises
    ------
    ClusterError
        On entering, if SLURM is not installed or does not come up.
    """

    snakemake_arguments = (
        "--executor", "slurm",
        "--slurm-status-command", "squeue",  # sacct is there and fails: Snakemake would never end
        # Looks come after 3, 16 and 39 s: each that finds nothing new adds 10 s to the interval.
        "--slurm-init-seconds-before-status-checks", "3",
    )  # fmt: skip

    def __init__(
        self, *, cpus: int = 8, memory: int = 16000, kill_wait: int = 5, node_timeout: int = 300
    ) -> None:
        self._cpus = cpus
        self._memory = memory
        self._kill_wait = kill_wait
        self._node_timeout = node_timeout
        self._running: dict[Daemon, subprocess.Popen[bytes]] = {}
        self.env: dict[str, str] = {}

    def __enter__(self) -> Self:
        verdict = available()
        if not verdict:
            raise ClusterError(verdict.reason)
        self.directory = Path(tempfile.mkdtemp(prefix="slurm-"))
        self._keeper = Keeper(self.directory)
        try:
            self._write_configuration()
            for daemon in _DAEMONS:
                self.start(daemon)
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._end()

    def start(self, daemon: Daemon) -> None:
        """Start one daemon and wait until it answers.

        Parameters
        ----------
        daemon : {'munged', 'slurmctld', 'slurmd'}
            Which one; must not be running.
        """
        if daemon in self._running:
            raise ClusterError(f"{daemon} is already running")
        with (self.directory / f"{daemon}.out").open("ab") as output:
            self._running[daemon] = subprocess.Popen(
                self._daemon_command(daemon),
                cwd=self.directory,
                env=self.env,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self.wait_for(lambda: self._answers(daemon), what=f"{daemon} to answer")
        if self._running.keys() >= {"slurmctld", "slurmd"}:
            self.wait_for(self._node_is_up, what="the node to be up")

    def kill(self, daemon: Daemon) -> None:
        """Kill one daemon with SIGKILL; jobs that it started go on.

        A killed slurmctld forgets its last seconds: a job that ended in them may be run again.

        Parameters
        ----------
        daemon : {'munged', 'slurmctld', 'slurmd'}
            Which one; must be running.
        """
        process = self._running.pop(daemon)
        process.kill()
        process.wait()

    def stop(self, daemon: Daemon) -> None:
        """End one daemon in order, with SIGTERM; jobs that it started go on.

        Parameters
        ----------
        daemon : {'munged', 'slurmctld', 'slurmd'}
            Which one; must be running.
        """
        process = self._running.pop(daemon)
        process.terminate()
        process.wait(_PATIENCE)

    def restart(self, daemon: Daemon) -> None:
        """Stop one daemon and start it again; it takes up its state from disk.

        Parameters
        ----------
        daemon : {'munged', 'slurmctld', 'slurmd'}
            Which one; must be running.
        """
        self.stop(daemon)
        self.start(daemon)

    def run(self, *command: str) -> str:
        """Run a command against the cluster.

        Parameters
        ----------
        *command : str
            A program and its arguments, such as ``"squeue", "--me"``.

        Returns
        -------
        str
            What it printed.

        Raises
        ------
        ClusterError
            If it fails, with its complaint.
        """
        done = self._try(*command)
        if done.returncode != 0:
            raise ClusterError(f"{' '.join(command)}: {done.stderr.strip()}")
        return done.stdout

    def jobs(self, comment: str = "*", *, state: str = "*") -> list[SlurmJob]:
        """All jobs since the start, finished ones included, in the order of their ids.

        Parameters
        ----------
        comment, state : str
            Shell patterns; Snakemake's comments are ``rule_NAME_wildcards_VALUE``, states are
            SLURM's long ones, such as ``RUNNING``.
        """
        listing = self.run("squeue", "--noheader", "--states=all", "--format=%A|%T|%k")
        fields = (line.split("|", 2) for line in listing.splitlines())
        jobs = sorted(SlurmJob(int(number), status, remark) for number, status, remark in fields)
        return [
            job
            for job in jobs
            if fnmatch.fnmatchcase(job.comment, comment) and fnmatch.fnmatchcase(job.state, state)
        ]

    def wait_for_job(
        self, comment: str = "*", *, state: str = "RUNNING", timeout: float = _PATIENCE
    ) -> SlurmJob:
        """Wait until a job is in a state.

        Parameters
        ----------
        comment, state : str
            Shell patterns, as for `jobs`.
        timeout : float
            Seconds after which to give up.

        Returns
        -------
        SlurmJob
            The first such job.

        Raises
        ------
        ClusterError
            If there is none in time.
        """
        self.wait_for(
            lambda: bool(self.jobs(comment, state=state)),
            what=f"a job {comment} to be {state}",
            timeout=timeout,
        )
        return self.jobs(comment, state=state)[0]

    def cancel(self, job: SlurmJob) -> None:
        """Let scancel end a job: SIGTERM, and SIGKILL after the kill wait."""
        self.run("scancel", str(job.id))

    def processes(self, job: SlurmJob) -> set[int]:
        """Process ids of what a job runs; SLURM may call it ended some time before they are."""
        mine = marked(MARK, str(self.directory))
        return mine & marked("SLURM_JOB_ID", str(job.id))

    def programs(self, job: SlurmJob) -> dict[int, str]:
        """What a job runs: the command and the parent of every process."""
        found = {}
        for pid in self.processes(job):
            with contextlib.suppress(OSError):
                words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
                parent = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1]
                found[pid] = f"{b' '.join(words).decode()}(child of {parent})"
        return found

    def expire(self, job: SlurmJob) -> None:
        """Let a job hit its walltime at the controller's next look, which comes every 30 s.

        SLURM counts walltimes in whole minutes; this makes tests of them shorter. What follows is
        the real thing: SIGTERM, SIGKILL after the kill wait, state TIMEOUT.
        """
        self.run("scontrol", "update", f"JobId={job.id}", "EndTime=now+1")

    def logs(self) -> str:
        """What the daemons wrote, one after the other."""
        files = sorted([*self.directory.glob("*.out"), *self.directory.glob("*.log")])
        return "\n".join(f"== {file.name}\n{file.read_text(errors='replace')}" for file in files)

    def wait_for(
        self, condition: Callable[[], bool], *, what: str, timeout: float = _PATIENCE
    ) -> None:
        """Wait until a condition holds while all started daemons are alive.

        Parameters
        ----------
        condition : callable
            Called about 20 times a second.
        what : str
            The condition in words.
        timeout : float
            Seconds after which to give up.

        Raises
        ------
        ClusterError
            If it does not hold in time or a daemon dies, with the logs.
        """
        deadline = time.monotonic() + timeout
        while not condition():
            dead = [name for name, process in self._running.items() if process.poll() is not None]
            if dead:
                raise ClusterError(f"{', '.join(dead)} ended by itself\n{self.logs()}")
            if time.monotonic() > deadline:
                raise ClusterError(f"waited {timeout:.0f} s in vain for {what}\n{self.logs()}")
            time.sleep(0.05)

    def _write_configuration(self) -> None:
        # Sockets and keys: munged wants a folder that others may enter and not write to.
        self.directory.chmod(0o755)
        key = self.directory / "munge.key"
        key.touch(mode=0o600)
        key.write_bytes(secrets.token_bytes(128))
        for folder in ("slurmctld", "slurmd"):
            (self.directory / folder).mkdir()
        controller_port, node_port = _free_ports()
        configuration = self.directory / "slurm.conf"
        configuration.write_text(
            _CONFIGURATION.format(
                host=socket.gethostname().partition(".")[0],
                controller_port=controller_port,
                node_port=node_port,
                user=pwd.getpwuid(os.geteuid()).pw_name,
                directory=self.directory,
                cpus=self._cpus,
                memory=self._memory,
                kill_wait=self._kill_wait,
                node_timeout=self._node_timeout,
                partition=PARTITION,
            )
        )
        commands = self.directory / "bin"
        commands.mkdir()
        # slurm-jobstep 0.6.1 drops SLURM_CONF before it calls srun inside of a job.
        srun = commands / "srun"
        srun.write_text(
            "#!/bin/sh\n"
            f"SLURM_CONF={shlex.quote(str(configuration))}\n"
            "export SLURM_CONF\n"
            f'exec {shlex.quote(_binary("srun") or "srun")} "$@"\n'
        )
        srun.chmod(0o755)
        path = (str(commands), os.environ.get("PATH", os.defpath), *_ADMIN_FOLDERS)
        self.env = {
            **_without_client_settings(os.environ),
            "PATH": os.pathsep.join(path),
            "SLURM_CONF": str(configuration),
            MARK: str(self.directory),
        }

    def _daemon_command(self, daemon: Daemon) -> Sequence[str]:
        program = _binary(daemon)
        if program is None:
            raise ClusterError(f"{daemon} is not installed")
        if daemon != "munged":
            return (program, "-D")
        files = {
            "key-file": "munge.key",
            "socket": "munge.socket",
            "pid-file": "munged.pid",
            "seed-file": "munge.seed",
            "log-file": "munged.log",
        }
        return (
            program,
            "--foreground",
            "--force",  # a killed munged leaves its socket behind
            *(f"--{option}={self.directory / name}" for option, name in files.items()),
        )

    def _answers(self, daemon: Daemon) -> bool:
        questions: dict[Daemon, tuple[str, ...]] = {
            "munged": ("munge", "--no-input", "--socket", str(self.directory / "munge.socket")),
            "slurmctld": ("scontrol", "ping"),
            "slurmd": ("scontrol", "show", "slurmd"),
        }
        return self._try(*questions[daemon]).returncode == 0

    def _node_is_up(self) -> bool:
        state = self._try("sinfo", "--noheader", "--format=%T").stdout.strip()
        return state in {"idle", "mixed", "allocated", "completing"}  # "idle*" does not respond

    def _try(self, *command: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command, env=self.env, capture_output=True, text=True, check=False, timeout=60
        )

    def _end(self) -> None:
        self._keeper.close()
        for process in self._running.values():
            process.wait()
        self._running.clear()


def _binary(name: str) -> str | None:
    folders = (os.environ.get("PATH", os.defpath), *_ADMIN_FOLDERS)
    return shutil.which(name, path=os.pathsep.join(folders))


def _without_client_settings(environment: Mapping[str, str]) -> dict[str, str]:
    """An environment without what an outer SLURM job left there."""
    return {k: v for k, v in environment.items() if not k.startswith(_CLIENT_SETTINGS)}


def _free_ports() -> tuple[int, int]:
    with socket.socket() as first, socket.socket() as second:
        for each in (first, second):
            each.bind(("127.0.0.1", 0))
        return first.getsockname()[1], second.getsockname()[1]


def _main(arguments: Sequence[str]) -> int:
    match arguments:
        case ["install"]:
            install()
            return 0
        case ["run", "--", *command] if command:
            with SlurmCluster() as cluster:
                return subprocess.run(command, env=cluster.env, check=False).returncode
        case _:
            print(__doc__, file=sys.stderr)
            return 2


if __name__ == "__main__":
    sys.exit(_main(sys.argv[1:]))
