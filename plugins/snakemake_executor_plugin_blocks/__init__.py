"""Snakemake executor ``blocks``: the local executor, with warm processes for blockwise jobs."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from concurrent.futures import Future
from typing import Any

from snakemake.exceptions import SpawnedJobError
from snakemake.executors.local import Executor as LocalExecutor
from snakemake_interface_executor_plugins.settings import CommonSettings

from snakemake_blocks.launch import start_warm_host
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


class Executor(LocalExecutor):  # type: ignore[misc]
    """Runs our jobs in forked processes of a warm host, and every other job as Snakemake does."""

    def __post_init__(self) -> None:
        super().__post_init__()
        # One per number of threads: numerical libraries read it when they are imported.
        self._hosts: dict[int, WarmHost] = {}

    def run_jobs(self, jobs: Sequence[Any]) -> None:
        """Start jobs."""
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

    def run_single_job(self, job: Any) -> Future[None]:
        """Return the future of a job."""
        if not self._is_ours(job):
            return super().run_single_job(job)  # type: ignore[no-any-return]
        self.workflow.async_run(job.prepare())
        return self.pool.submit(self.cached_or_run, job, self._run_warm, job)  # type: ignore[no-any-return]

    def _is_ours(self, job: Any) -> bool:
        deployed = self.workflow.deployment_settings.deployment_method
        return job.rule.shellcmd == COMMAND and not deployed and not job.is_shadow

    def _run_warm(self, job: Any) -> None:
        threads = int(job.threads)
        if threads not in self._hosts:
            self._hosts[threads] = WarmHost(start_warm_host(threads))
        status = self._hosts[threads].run(
            str(job.output[0]),
            attempt=job.attempt,
            log=str(job.log[0]),
            folder=self.workflow.workdir_init,
        )
        if status:
            raise SpawnedJobError  # the scheduler reports job, log and rule

    def shutdown(self) -> None:
        """Wait for running jobs, then let the hosts go."""
        super().shutdown()
        for host in self._hosts.values():
            host.close()

    def cancel(self) -> None:
        """Stop: as shutdown, since a signal has reached the jobs as well."""
        self.shutdown()
