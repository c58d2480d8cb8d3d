"""Snakemake logger ``blocks``: one bar per task, in blocks; errors are always shown."""

# No `from __future__ import annotations`: Snakemake needs the types of the settings themselves.

import logging
import sys
from dataclasses import dataclass, field
from pathlib import Path

from snakemake_interface_logger_plugins.base import LogHandlerBase
from snakemake_interface_logger_plugins.common import LogEvent
from snakemake_interface_logger_plugins.settings import LogHandlerSettingsBase

from snakemake_blocks.engine.internals import PlainFormatter, message_formatter
from snakemake_blocks.errors import BlocksError
from snakemake_blocks.plan.paths import find_run_directory
from snakemake_blocks.plan.plan import Plan
from snakemake_blocks.view.progress import ProgressView, Tracker

__all__ = ["LogHandler", "LogHandlerSettings"]


@dataclass
class LogHandlerSettings(LogHandlerSettingsBase):  # type: ignore[misc]
    """Options of this logger on Snakemake's command line."""

    quiet: bool = field(
        default=False, metadata={"help": "Show errors only, no progress.", "env_var": False}
    )


# Failed jobs that are named.
_NAMED = 10
_ERRORS = (LogEvent.JOB_ERROR, LogEvent.GROUP_ERROR, LogEvent.ERROR)


class LogHandler(LogHandlerBase):  # type: ignore[misc]
    """Shows progress in blocks, read from the ledgers, instead of Snakemake's own output."""

    def __post_init__(self) -> None:
        self._view: ProgressView | None = None
        self._failed: set[str] = set()
        self._is_quiet = self.settings is not None and self.settings.quiet
        self._text, lacking = message_formatter(
            show_failed_logs=self.common_settings.show_failed_logs
        )
        if lacking:
            self._say(f"logger blocks: this Snakemake has no {lacking}; messages are plain")

    def emit(self, record: logging.LogRecord) -> None:
        """Start the bars at the first job; print errors and warnings.

        What is raised here would end the thread that takes Snakemake's messages.
        """
        try:
            self._show(record)
        except Exception as error:
            if not isinstance(self._text, PlainFormatter):
                self._text = PlainFormatter()
                what = f"{type(error).__name__}: {error}"
                self._say(f"logger blocks: does not know this Snakemake ({what}); plain messages")
            if record.levelno >= logging.WARNING:
                self._say(self._text.format(record))

    def _show(self, record: logging.LogRecord) -> None:
        if self.common_settings.dryrun:
            self._say(self._text.format(record))
            return
        event = getattr(record, "event", None)
        if event == LogEvent.JOB_INFO and self._view is None and not self._is_quiet:
            self._start(getattr(record, "output", []))
        if event == LogEvent.JOB_ERROR and self._is_ours(record):
            self._say_failed(record.output[0], record.log[0])
        elif event in _ERRORS or record.levelno >= logging.WARNING:
            self._say(self._text.format(record))

    @staticmethod
    def _is_ours(record: logging.LogRecord) -> bool:
        """Tell whether a failed job is one of blocks; its log and the summary say the rest."""
        shell = str(getattr(record, "shellcmd", ""))
        return shell.startswith("snakemake-blocks work ") and bool(getattr(record, "log", None))

    def _say_failed(self, output: str, log: str) -> None:
        """Name a failed job, once; of many the summary at the end tells by cause."""
        if output in self._failed:
            return
        self._failed.add(output)
        if len(self._failed) <= _NAMED:
            self._say(f"a job failed: {output}, log: {log}")
        elif len(self._failed) == _NAMED + 1:
            self._say("more jobs failed; `snakemake-blocks status` tells which blocks, by cause")

    def _start(self, output: list[str]) -> None:
        """Follow the run directory that a job's output lies in, if it is one."""
        for path in output:
            try:
                root = find_run_directory(Path(path))
                view = ProgressView(Tracker(Plan.load(root), root), sys.stderr)
            except BlocksError:
                continue
            except Exception as error:
                # It would end the thread that takes Snakemake's messages, and hang the run.
                self._is_quiet = True
                self._say(f"progress cannot be shown ({type(error).__name__}: {error})")
                return
            self._view = view
            view.start()
            return

    def _say(self, text: str) -> None:
        if not text or text == "None":
            return
        if self._view is not None:
            self._view.say(text)
        else:
            print(text, file=sys.stderr, flush=True)

    def close(self) -> None:
        """Show the last counts."""
        if self._view is not None:
            view, self._view = self._view, None
            view.stop()
        super().close()

    @property
    def writes_to_stream(self) -> bool:
        """It takes the place of Snakemake's own output."""
        return True

    @property
    def writes_to_file(self) -> bool:
        """Snakemake's log file stays as it is."""
        return False

    @property
    def has_filter(self) -> bool:
        """It looks at every record itself."""
        return True

    @property
    def has_formatter(self) -> bool:
        """It makes its own texts."""
        return True

    @property
    def needs_rulegraph(self) -> bool:
        """It does not."""
        return False
