"""What we use of Snakemake without a promise that other versions have it: all, and only here.

Every name was read in Snakemake 9.27.1. Where one lacks, the executor ``blocks`` does what
Snakemake's own local executor does, and says so once.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from queue import SimpleQueue
from typing import Any

__all__ = ["NAMES", "Conductor", "call_sigterm_in_thread", "missing_names", "profile_folders"]

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
        ("job.rule.shellcmd", lambda: [job.rule.shellcmd for job in owners["job"]]),
        (
            "job.scheduler_resources[_cores]",
            lambda: [job.scheduler_resources["_cores"] for job in owners["job"]],
        ),
    ]
    for name, read in deeper:
        try:
            read()
        except (AttributeError, KeyError, TypeError):
            found.add(name)
    return sorted(found)


def _members(job: Any) -> list[Any]:
    """Return a job, or the jobs of a group; of one that cannot be asked, itself."""
    is_group = getattr(job, "is_group", None)
    return list(job) if callable(is_group) and is_group() else [job]


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
    from snakemake.scheduling.job_scheduler import JobScheduler

    handle = getattr(JobScheduler, "exit_gracefully", None)
    if handle is None:
        return
    # Its put may be called from a signal handler, unlike most of what threads have.
    asked: SimpleQueue[Any] = SimpleQueue()

    def serve() -> None:
        while True:
            handle(asked.get())

    threading.Thread(target=serve, daemon=True).start()
    JobScheduler.exit_gracefully = lambda scheduler, *_: asked.put(scheduler)


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
