from __future__ import annotations

import subprocess
import sys
import textwrap


def test_sigterm_while_snakemake_notes_what_is_finished() -> None:
    """Its handler needs the lock that the interrupted code holds: it has to wait elsewhere."""
    code = """
        import os, signal, threading, time
        from snakemake.scheduling.job_scheduler import JobScheduler
        from snakemake_blocks.engine.internals import call_sigterm_in_thread

        call_sigterm_in_thread()
        scheduler = JobScheduler.__new__(JobScheduler)
        scheduler._lock, scheduler._open_jobs = threading.Lock(), threading.Semaphore(0)
        scheduler._user_kill = None
        signal.signal(signal.SIGTERM, scheduler.exit_gracefully)
        with scheduler._lock:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(0.01)
            print(scheduler._user_kill)
        scheduler._open_jobs.acquire()
        print(scheduler._user_kill)
    """
    found = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, timeout=120
    )
    assert found.stdout.split() == ["None", "graceful"], found.stderr
