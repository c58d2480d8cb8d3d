"""Snakemake executor ``blocks``: the local executor, with warm processes for blockwise jobs."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from concurrent.futures import Future
from functools import partial
from typing import Any

from snakemake.exceptions import SpawnedJobError
from snakemake.executors.local import Executor as LocalExecutor
from snakemake_interface_executor_plugins.executors.base import SubmittedJobInfo
from snakemake_interface_executor_plugins.settings import CommonSettings

from snakemake_blocks.launch import start_warm_host
from snakemake_blocks.lookahead import LookAhead
from snakemake_blocks.snakefile import COMMAND
from snakemake_blocks.warm import WarmHost

__all__ = ["Executor", "common_settings"]

common_settings = CommonSettings(
    non_local_exec=False,
    implies_no_shared_fs=False,
    job_deploy_sources=False,
    pass_envvar_declarations_to_cmd=True,
    auto_deploy_default_storage_provider=False,
)


# Snakemake's default limit, in jobs per second, which cannot be told from one that was asked for.
_RATE_LIMIT = 100
# What we use of Snakemake's scheduler without a promise that later versions have it.
_INTERNALS = ("_errors", "_lock", "_open_jobs", "_tofinish", "_user_kill")


class Executor(LocalExecutor):  # type: ignore[misc]
    """Runs our jobs in forked processes of a warm host, and every other job as Snakemake does."""

    def __post_init__(self) -> None:
        super().__post_init__()
        # One per number of threads: numerical libraries read it when they are imported.
        self._hosts: dict[int, WarmHost] = {}
        self._ahead: LookAhead[Any] = LookAhead(self.cores, begin=self._begin, tell=self._finish)
        self._lent = 0

    def run_jobs(self, jobs: Sequence[Any]) -> None:
        """Start jobs."""
        for name in _INTERNALS:  # fail here, in the main thread, rather than wait for ever
            getattr(self.workflow.scheduler, name)
        self._lift_rate_limit()
        super().run_jobs(jobs)

    def _lift_rate_limit(self) -> None:
        """Take away the limit of jobs per second that is there to spare schedulers of clusters.

        It delays local jobs, too, and each round of the scheduler starts a timer for one more
        round, so that 2,000 jobs make 6,000 rounds of which each looks at every job. A lower
        limit than the default is somebody's wish and stays.
        """
        scheduler = self.workflow.scheduler
        limiter = scheduler.job_rate_limiter
        if limiter is not None and limiter.max_jobs >= _RATE_LIMIT * limiter.timespan:
            scheduler.job_rate_limiter = None
            scheduler.resources["_job_count"] = sys.maxsize

    def run_job(self, job: Any) -> None:
        """Start a job, or let it wait for a core."""
        if self._is_ours(job):
            self.workflow.async_run(job.prepare())
            self.report_job_submission(SubmittedJobInfo(job))
        self._ahead.add(job, job.scheduler_resources["_cores"])

    def _begin(self, job: Any) -> None:
        """Start a job that has its cores."""
        try:
            if self._is_ours(job):
                ended = partial(self._callback, SubmittedJobInfo(job))
                self._run_warm(job).add_done_callback(ended)
            else:
                super().run_job(job)
        except Exception as error:
            self._ahead.has_ended(job)
            self.workflow.scheduler.executor_error_callback(error)

    def run_single_job(self, job: Any) -> Future[Any]:
        """Return the future of a member of a group, or of a job that is not ours."""
        if not self._is_ours(job):
            return super().run_single_job(job)  # type: ignore[no-any-return]
        self.workflow.async_run(job.prepare())
        return self._run_warm(job)

    def _is_ours(self, job: Any) -> bool:
        if job.is_group() or job.is_shadow:
            return False
        deployed = self.workflow.deployment_settings.deployment_method
        return job.rule.shellcmd == COMMAND and not deployed

    def _run_warm(self, job: Any) -> Future[None]:
        threads = int(job.threads)
        if threads not in self._hosts or self._hosts[threads].has_died:
            self._hosts[threads] = WarmHost(start_warm_host(threads))
        status = self._hosts[threads].run(
            str(job.output[0]),
            attempt=job.attempt,
            log=str(job.log[0]),
            folder=self.workflow.workdir_init,
        )
        ended: Future[None] = Future()
        status.add_done_callback(partial(_settle, ended))
        return ended

    def _callback(self, job_info: SubmittedJobInfo, future: Future[Any]) -> None:
        """Take note of a job's end, in the thread that noticed it."""
        scheduler = self.workflow.scheduler
        if scheduler._user_kill or (scheduler._errors and not scheduler.keepgoing):
            for job in self._ahead.drop():
                scheduler.error_callback(job)
        self._ahead.has_ended(job_info.job)
        super()._callback(job_info, future)

    def report_job_success(self, job_info: SubmittedJobInfo) -> None:
        """Tell the scheduler soon that a job has ended well."""
        self._ahead.to_tell(job_info.job)

    def _finish(self, jobs: list[Any]) -> None:
        """Do for many jobs, in one round of the scheduler, what its callback does for one.

        It also gets more cores to give away, or less, so that as many jobs wait here as are wanted.
        """
        scheduler = self.workflow.scheduler
        with scheduler._lock:
            scheduler._tofinish += jobs
            more = max(self._ahead.wanted - self._lent, -scheduler.resources["_cores"])
            scheduler.resources["_cores"] += more
            self._lent += more
            scheduler._open_jobs.release()

    def shutdown(self) -> None:
        """Wait for running jobs, then let the hosts go."""
        self._ahead.close()
        super().shutdown()
        for host in self._hosts.values():
            host.close()

    def cancel(self) -> None:
        """Stop: as shutdown, since a signal has reached the jobs as well."""
        self.shutdown()


def _settle(ended: Future[None], status: Future[int]) -> None:
    """End a job's future as Snakemake understands it: with an error, or with nothing."""
    error = status.exception()
    if error is None and status.result():
        error = SpawnedJobError()  # the scheduler reports job, log and rule
    if error is not None:
        ended.set_exception(error)
    else:
        ended.set_result(None)
