"""Snakemake executor ``blocks``: the local executor, with a host process for blockwise jobs."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future
from functools import partial
from pathlib import Path
from typing import Any

from snakemake_interface_executor_plugins.executors.base import SubmittedJobInfo
from snakemake_interface_executor_plugins.settings import CommonSettings

from snakemake_blocks.engine.internals import (
    Conductor,
    local_executor,
    missing_names,
    spawned_job_error,
)
from snakemake_blocks.engine.launch import start_host
from snakemake_blocks.engine.lookahead import LookAhead
from snakemake_blocks.engine.snakefile import COMMAND
from snakemake_blocks.errors import BlocksError
from snakemake_blocks.plan.paths import find_run_directory
from snakemake_blocks.work.host import Host

__all__ = ["Executor", "common_settings"]

common_settings = CommonSettings(
    non_local_exec=False,
    implies_no_shared_fs=False,
    job_deploy_sources=False,
    pass_envvar_declarations_to_cmd=True,
    auto_deploy_default_storage_provider=False,
)


class Executor(local_executor()):  # type: ignore[misc]
    """Runs our jobs in forked processes of a host, and every other job as Snakemake does.

    In a Snakemake that lacks something that this needs, all jobs run as Snakemake does.
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        # One per number of threads, which numerical libraries read when they are imported, and per
        # run directory: a process can import only one of two modules of the same name.
        self._hosts: dict[tuple[int, str], Host] = {}
        self._ahead: LookAhead[Any] | None = None
        self._conductor: Conductor | None = None
        self._is_plain = False

    def run_jobs(self, jobs: Sequence[Any]) -> None:
        """Start jobs."""
        if self._conductor is None and not self._is_plain:
            self._prepare(jobs)
        super().run_jobs(jobs)

    def _prepare(self, jobs: Sequence[Any]) -> None:
        """Look whether this Snakemake has all that is needed, before the first job."""
        lacking = missing_names(self, jobs)
        if lacking:
            self._is_plain = True
            self.logger.warning(
                f"executor blocks: this Snakemake has no {', '.join(lacking)}; jobs run as with "
                "--executor local, which takes longer. A newer snakemake-blocks may know it"
            )
            return
        self._conductor = Conductor(self.workflow)
        self._conductor.lift_rate_limit()
        self._ahead = LookAhead(
            self.cores, begin=self._begin, tell=self._finish, fail=self._conductor.fail
        )

    def run_job(self, job: Any) -> None:
        """Start a job, or let it wait for a core."""
        if self._ahead is None:
            super().run_job(job)
            return
        if self._is_ours(job):
            self.workflow.async_run(job.prepare())
            self.report_job_submission(SubmittedJobInfo(job))
        self._ahead.add(job, job.scheduler_resources["_cores"])

    def _begin(self, job: Any) -> None:
        """Start a job that has its cores."""
        assert self._ahead is not None and self._conductor is not None
        try:
            if self._is_ours(job):
                ended = partial(self._callback, SubmittedJobInfo(job))
                self._run_in_host(job).add_done_callback(ended)
            else:
                super().run_job(job)
        except Exception as error:
            self._ahead.has_ended(job)
            self._conductor.fail(error)

    def run_single_job(self, job: Any) -> Future[Any]:
        """Return the future of a member of a group, or of a job that is not ours."""
        if self._ahead is None or not self._is_ours(job):
            return super().run_single_job(job)  # type: ignore[no-any-return]
        self.workflow.async_run(job.prepare())
        return self._run_in_host(job)

    def _is_ours(self, job: Any) -> bool:
        if job.is_group() or job.is_shadow:
            return False
        deployed = self.workflow.deployment_settings.deployment_method
        return job.rule.shellcmd == COMMAND and not deployed

    def _run_in_host(self, job: Any) -> Future[None]:
        sentinel = str(job.output[0])
        key = int(job.threads), _run_directory(sentinel)
        if key not in self._hosts or self._hosts[key].has_died:
            self._hosts[key] = Host(start_host(int(job.threads)))
        status = self._hosts[key].run(
            sentinel,
            attempt=job.attempt,
            log=str(job.log[0]),
            folder=self.workflow.workdir_init,
        )
        ended: Future[None] = Future()
        status.add_done_callback(partial(_settle, ended))
        return ended

    def _callback(self, job_info: SubmittedJobInfo, future: Future[Any]) -> None:
        """Take note of a job's end, in the thread that noticed it.

        What is raised here nobody would see, and Snakemake would wait for the job for ever.
        """
        if self._ahead is None or self._conductor is None:
            super()._callback(job_info, future)
            return
        try:
            if self._conductor.is_ending:
                self._conductor.take_back(self._ahead.drop())
            self._ahead.has_ended(job_info.job)
            super()._callback(job_info, future)
        except Exception as error:
            self._ahead.has_ended(job_info.job)
            self._conductor.fail(error)

    def report_job_success(self, job_info: SubmittedJobInfo) -> None:
        """Tell the scheduler soon that a job has ended well."""
        if self._ahead is None:
            super().report_job_success(job_info)
        else:
            self._ahead.to_tell(job_info.job)

    def _finish(self, jobs: list[Any]) -> None:
        """Tell the scheduler of ended jobs, and how many more may wait here."""
        assert self._ahead is not None and self._conductor is not None
        self._conductor.finish(jobs, self._ahead.wanted)

    def shutdown(self) -> None:
        """Wait for running jobs, then let the hosts go."""
        if self._ahead is not None:
            self._ahead.close()
        super().shutdown()
        for host in self._hosts.values():
            host.close()

    def cancel(self) -> None:
        """Stop: as shutdown, since a signal has reached the jobs as well."""
        self.shutdown()


def _run_directory(sentinel: str) -> str:
    """Return the run directory of a job, empty if there is none; the job will say so."""
    try:
        return str(find_run_directory(Path(sentinel)))
    except BlocksError:
        return ""


def _settle(ended: Future[None], status: Future[int]) -> None:
    """End a job's future as Snakemake understands it: with an error, or with nothing."""
    error = status.exception()
    if error is None and status.result():
        error = spawned_job_error()()  # the scheduler reports job, log and rule
    if error is not None:
        ended.set_exception(error)
    else:
        ended.set_result(None)
