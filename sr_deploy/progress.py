"""How far a long operation is: one record for all, which a command, a notebook or a program renders as it likes.

What is said besides, a line that stays, goes through `logging` instead, to loggers below `sr_deploy`: INFO is what is
being done, WARNING what went wrong and stopped nothing, DEBUG is for those who work on sr-deploy.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Progress:
    """How far an operation is."""

    stage: str
    """What is being done, in words for people, as in `2/7 photo.png`. May hold names of files: escape it for a page."""
    done: float
    """How much of the whole operation is done, in `unit`; grows, but begins anew with each engine that is built."""
    total: float | None
    """How much there is to do, in `unit`; None: nobody knows, and `done` counts up."""
    unit: str
    """What is counted, in the plural, as in `tiles`; `s`: the seconds so far, where nothing else can be counted."""


OnProgress = Callable[[Progress], None]
"""Told how far an operation is, one call at a time, though not always from the thread that began it. An exception that
it raises ends the operation."""


def format_span(seconds: float) -> str:
    """A span of time for people, in hours, minutes or seconds, as in `62 h`."""
    unit, length = ("h", 3600) if seconds >= 5400 else ("min", 60) if seconds >= 90 else ("s", 1)
    return f"{seconds / length:.0f} {unit}"
