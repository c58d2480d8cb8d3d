"""The states of a block, and which of them the last event in a ledger tells."""

from __future__ import annotations

from enum import IntEnum

import numpy as np

from snakemake_blocks.state.ledger import Event

__all__ = ["STATE_AFTER", "State"]


class State(IntEnum):
    """State of a block; arrays of uint8 hold the numbers, its text is the word for it."""

    PENDING = 0
    RUNNING = 1
    DONE = 2
    FAILED = 3
    ORPHANED = 4
    MASKED = 5

    def __str__(self) -> str:
        return self.name.lower()


STATE_AFTER = np.full(max(Event) + 1, State.PENDING, np.uint8)
"""State of a block by the last event of it that is on record; by a ledger alone it is running if
it has begun and not ended, though its job may be dead."""
STATE_AFTER[Event.STARTED] = State.RUNNING
STATE_AFTER[[Event.DONE, Event.SKIPPED]] = State.DONE
STATE_AFTER[Event.FAILED] = State.FAILED
