"""What we use of Snakemake without a promise that other versions have it: all, and only here.

Every name was read in Snakemake 9.27.1, and is in 9.19, the oldest that is tested. Where one lacks,
the executor ``blocks`` does what Snakemake's own local executor does, the logger ``blocks`` prints
plain messages, and each says so once. Generated Snakefiles name ``workflow.remote_exec`` and
``workflow.register_resource``, too; without them Snakemake itself says which line it cannot read.
"""

from __future__ import annotations

import importlib
import logging
import sys
import threading
from collections.abc import Callable, Sequence
from importlib.metadata import distribution
from operator import attrgetter
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from snakemake_blocks.errors import InputError

__all__ = [
    "NAMES",
    "Conductor",
    "PlainFormatter",
    "call_sigterm_in_thread",
    "is_main_process",
    "local_executor",
    "main_of_snakemake",
    "message_formatter",
    "missing_names",
    "module_prefix",
    "profile_folders",
    "register_limit",
    "spawned_job_error",
]

NAMES = {
    "executor": ("_callback", "cores", "run_jobs", "run_single_job"),
    "workflow": ("async_run", "deployment_settings", "scheduler", "workdir_init"),
    "scheduler": (
        "_errors",
        "_lock",
        "_open_jobs",
        "_tofinish",
        "_user_kill",
        "error_callback",
        "executor_error_callback",
        "job_rate_limiter",
        "keepgoing",
        "resources",
    ),
    "job": (
        "attempt",
        "is_group",
        "is_shadow",
        "log",
        "output",
        "prepare",
        "rule",
        "scheduler_resources",
        "threads",
    ),
}
"""By what bears them: attributes of the executor, its workflow, its scheduler, and a job."""

# Snakemake's default limit, in jobs per second, which cannot be told from one that was asked for.
_RATE_LIMIT = 100


def missing_names(executor: Any, jobs: Sequence[Any]) -> list[str]:
    """Return the names that this Snakemake lacks, each as ``scheduler._lock``.

    Parameters
    ----------
    executor : snakemake.executors.local.Executor
        The executor, in a running workflow.
    jobs : sequence
        The first jobs that it got; a group counts by its members.
    """
    workflow = getattr(executor, "workflow", None)
    owners = {
        "executor": [executor],
        "workflow": [workflow],
        "scheduler": [getattr(workflow, "scheduler", None)],
        "job": [job for one in jobs for job in _members(one)],
    }
    found = {
        f"{kind}.{name}"
        for kind, names in NAMES.items()
        for owner in owners[kind]
        for name in names
        if not hasattr(owner, name)
    }
    scheduler = owners["scheduler"][0]
    deeper: list[tuple[str, Callable[[], Any]]] = [
        ("scheduler.resources[_cores]", lambda: scheduler.resources["_cores"]),
        ("scheduler.resources[_job_count]", lambda: scheduler.resources["_job_count"]),
        ("scheduler._open_jobs.release", lambda: scheduler._open_jobs.release),
        (
            "scheduler.job_rate_limiter.max_jobs",
            lambda: scheduler.job_rate_limiter is None or scheduler.job_rate_limiter.max_jobs,
        ),
        (
            "scheduler.job_rate_limiter.timespan",
            lambda: scheduler.job_rate_limiter is None or scheduler.job_rate_limiter.timespan,
        ),
        (
            "workflow.deployment_settings.deployment_method",
            lambda: workflow.deployment_settings.deployment_method,  # type: ignore[union-attr]
        ),
        ("snakemake.executors.local.Executor", lambda: _named(*_LOCAL_EXECUTOR)),
        ("snakemake.exceptions.SpawnedJobError", lambda: _named(*_SPAWNED_JOB_ERROR)),
        ("job.rule.shellcmd", lambda: [job.rule.shellcmd for job in owners["job"]]),
        (
            "job.scheduler_resources[_cores]",
            lambda: [job.scheduler_resources["_cores"] for job in owners["job"]],
        ),
    ]
    for name, read in deeper:
        try:
            read()
        except (AttributeError, ImportError, KeyError, TypeError):
            found.add(name)
    return sorted(n for n in found if not any(n.startswith((f"{m}.", f"{m}[")) for m in found))


def _members(job: Any) -> list[Any]:
    """Return a job, or the jobs of a group; of one that cannot be asked, itself."""
    is_group = getattr(job, "is_group", None)
    return list(job) if callable(is_group) and is_group() else [job]


_LOCAL_EXECUTOR = "snakemake.executors.local", "Executor"
_SPAWNED_JOB_ERROR = "snakemake.exceptions", "SpawnedJobError"
_FORMATTER = "snakemake.logging", "DefaultFormatter"
_SCHEDULER = "snakemake.scheduling.job_scheduler", "JobScheduler"


def _named(module: str, name: str) -> Any:
    return getattr(importlib.import_module(module), name)


def local_executor() -> Any:
    """Return the class of Snakemake's local executor, also if it has another name."""
    try:
        return _named(*_LOCAL_EXECUTOR)
    except AttributeError:
        real = _named("snakemake_interface_executor_plugins.executors.real", "RealExecutor")
        there = vars(importlib.import_module(_LOCAL_EXECUTOR[0])).values()
        kinds = (c for c in there if isinstance(c, type) and issubclass(c, real))
        return next(kind for kind in kinds if kind is not real)


def spawned_job_error() -> type[Exception]:
    """Return what Snakemake takes for the failure of a job that says why in its log."""
    try:
        found: type[Exception] = _named(*_SPAWNED_JOB_ERROR)
    except AttributeError:
        return RuntimeError  # nobody raises it: all jobs run as Snakemake does
    return found


def message_formatter(*, show_failed_logs: bool) -> tuple[Any, str]:
    """Return what makes a text of a record, and what this Snakemake lacks for its own texts."""
    try:
        return _named(*_FORMATTER)(quiet=set(), show_failed_logs=show_failed_logs), ""
    except (AttributeError, ImportError):
        return PlainFormatter(), ".".join(_FORMATTER)
    except TypeError as error:
        return PlainFormatter(), f"{'.'.join(_FORMATTER)} of this form ({error})"


class PlainFormatter(logging.Formatter):
    """Makes a text of what every version of Snakemake says with a record."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the message; of a job that failed, its rule and log."""
        rule, log = getattr(record, "rule_name", ""), getattr(record, "log", None) or ()
        about = [f"rule {rule}"] * bool(rule) + [f"log: {', '.join(map(str, log))}"] * bool(log)
        if record.levelno < logging.ERROR:
            return str(record.msg or "")
        return ", ".join([str(record.msg or "a job failed"), *about])


def main_of_snakemake() -> Callable[[], None]:
    """Return what the command ``snakemake`` calls."""
    commands = distribution("snakemake").entry_points.select(group="console_scripts")
    main: Callable[[], None] = commands["snakemake"].load()
    return main


def is_main_process(workflow: Any) -> bool:
    """Tell whether a Snakefile is read to run jobs, and not by one of them."""
    return bool(_of_workflow(workflow, "is_main_process"))


def register_limit(workflow: Any, name: str, most: int) -> None:
    """Let all running jobs together have so much of a resource, unless more is asked for."""
    _of_workflow(workflow, "register_resource")(name, most)


def module_prefix(workflow: Any) -> str:
    """Return what Snakemake puts before the paths of the module that is being read."""
    marker = "snakemake-blocks-probe"
    modify = _of_workflow(workflow, "modifier.path_modifier.modify")
    return str(modify(marker, "output")).removesuffix(marker)


def _of_workflow(workflow: Any, name: str) -> Any:
    try:
        return attrgetter(name)(workflow)
    except AttributeError:
        raise InputError(
            f"this Snakemake has no workflow.{name}, which a module needs; use the Snakefile that "
            "`snakemake-blocks generate` writes, or a newer snakemake-blocks"
        ) from None


class Conductor:
    """The scheduler that an executor works for.

    Parameters
    ----------
    workflow : snakemake.workflow.Workflow
        The running workflow; nothing of it may be missing (:func:`missing_names`).
    """

    def __init__(self, workflow: Any) -> None:
        self._scheduler = workflow.scheduler
        self._lent = 0

    def lift_rate_limit(self) -> None:
        """Take away the limit of jobs per second that is there to spare schedulers of clusters.

        It delays local jobs, too, and each round of the scheduler starts a timer for one more
        round, so that 2,000 jobs make 6,000 rounds of which each looks at every job. A lower
        limit than the default is somebody's wish and stays.
        """
        limiter = self._scheduler.job_rate_limiter
        if limiter is not None and limiter.max_jobs >= _RATE_LIMIT * limiter.timespan:
            self._scheduler.job_rate_limiter = None
            self._scheduler.resources["_job_count"] = sys.maxsize

    @property
    def is_ending(self) -> bool:
        """Whether no further job is to begin."""
        scheduler = self._scheduler
        return bool(scheduler._user_kill or (scheduler._errors and not scheduler.keepgoing))

    def take_back(self, jobs: Sequence[Any]) -> None:
        """Give back jobs that will not begin."""
        for job in jobs:
            self._scheduler.error_callback(job)

    def fail(self, error: BaseException) -> None:
        """End the workflow, and say why."""
        self._scheduler.executor_error_callback(error)

    def finish(self, jobs: Sequence[Any], wanted: int) -> None:
        """Do for many jobs, in one round of the scheduler, what its callback does for one.

        Parameters
        ----------
        jobs : sequence
            Jobs that ended well.
        wanted : int
            Cores beyond those there are that the scheduler shall have to give away from now on.
        """
        scheduler = self._scheduler
        with scheduler._lock:
            scheduler._tofinish += jobs
            more = max(wanted - self._lent, -scheduler.resources["_cores"])
            scheduler.resources["_cores"] += more
            self._lent += more
            scheduler._open_jobs.release()


def call_sigterm_in_thread() -> None:
    """Have Snakemake's handler of SIGTERM called in a thread; without one, change nothing.

    It takes a lock that is not reentrant. If the signal comes while the main thread holds that
    lock, as it does while it notes finished jobs, Snakemake 9 waits for itself for ever.
    """
    try:
        scheduler = _named(*_SCHEDULER)
        handle = scheduler.exit_gracefully
    except (AttributeError, ImportError):
        return
    # Its put may be called from a signal handler, unlike most of what threads have.
    asked: SimpleQueue[Any] = SimpleQueue()

    def serve() -> None:
        while True:
            handle(asked.get())

    threading.Thread(target=serve, daemon=True).start()
    scheduler.exit_gracefully = lambda this, *_: asked.put(this)


def profile_folders() -> tuple[Path, Path]:
    """Return where Snakemake looks profiles up by name: the user's folder, the site's."""
    try:
        from snakemake.common import get_appdirs
    except ImportError:
        from platformdirs import PlatformDirs  # what Snakemake asks, and needs itself

        folders: Any = PlatformDirs("snakemake", "snakemake")
    else:
        folders = get_appdirs()
    return Path(folders.user_config_dir), Path(folders.site_config_dir)
