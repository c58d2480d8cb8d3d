"""A toy workflow of plain Snakemake, and real runs of it."""

import os
import signal
import subprocess
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

_SNAKEFILE = """\
SECONDS = {seconds!r}
MINUTES = {minutes!r}


localrules:
    all,


rule all:
    input:
        expand("out/{{job}}", job=SECONDS),


rule toy:
    output:
        {output},
    params:
        seconds=lambda wildcards: SECONDS[wildcards.job],
    threads: {threads}
    resources:
        mem_mb=100,
        runtime=lambda wildcards: MINUTES.get(wildcards.job, 30),
    shell:
        "echo start >> starts_{{wildcards.job}}; "
        "sleep {{params.seconds}}; {command}"
"""


def write_toy(
    folder: Path,
    seconds: Mapping[str, float],
    *,
    minutes: Mapping[str, int] | None = None,
    threads: int = 1,
    touch: bool = False,
) -> None:
    """Write a Snakefile with one job for each name, which makes ``out/NAME``.

    Parameters
    ----------
    folder : Path
        Where; must exist.
    seconds : mapping of str to float
        How long each job sleeps before it writes its output.
    minutes : mapping of str to int, optional
        Walltimes; 30 for jobs that it does not name.
    threads : int
        Threads, and so slots, of each job.
    touch : bool
        Let Snakemake, not the job, make the outputs, by ``touch()``.
    """
    text = _SNAKEFILE.format(
        seconds=dict(seconds),
        minutes=dict(minutes or {}),
        threads=threads,
        output='touch("out/{job}")' if touch else '"out/{job}"',
        command="true" if touch else "echo done > {output}",
    )
    (folder / "Snakefile").write_text(text)


def starts(folder: Path, job: str) -> int:
    """How often a toy job was really started."""
    file = folder / f"starts_{job}"
    return len(file.read_text().splitlines()) if file.exists() else 0


class SnakemakeRun:
    """A running ``snakemake``, killed at the end of a ``with`` statement if it still runs.

    Parameters
    ----------
    python : Path
        Python of the environment that has Snakemake and the executor plugin.
    folder : Path
        With a Snakefile; becomes the working directory.
    *arguments : str
        For ``snakemake``.
    env : mapping of str to str
        Environment, usually of a cluster.
    """

    def __init__(self, python: Path, folder: Path, *arguments: str, env: Mapping[str, str]) -> None:
        self._log = folder / "snakemake.log"
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [str(python), "-m", "snakemake", *arguments],
                cwd=folder,
                env={**env, "XDG_CACHE_HOME": str(folder / "cache")},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
        if error is not None:
            print(self.log)  # pytest shows it with the failure

    @property
    def log(self) -> str:
        """What it printed so far."""
        return self._log.read_text(errors="replace")

    def interrupt(self) -> None:
        """Send what Ctrl-C sends."""
        self._process.send_signal(signal.SIGINT)

    def wait(self, timeout: float = 600.0) -> int:
        """Exit code, once it has ended.

        Raises
        ------
        subprocess.TimeoutExpired
            If it does not end in time.
        """
        return self._process.wait(timeout)
