"""Doing the blocks of a job: host, supervisor, worker, and others that take jobs."""
