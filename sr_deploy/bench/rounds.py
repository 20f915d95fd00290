"""Rounds in which candidates take turns: A B C A B C ..."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from operator import lt
from typing import Protocol

from sr_deploy.bench.statistics import Schedule

Turns = list[list[float]]
"""Seconds of one candidate's calls, for each round."""

_PAUSE_SECONDS = 0.005  # threads of the one before go to sleep


class TurnTaker(Protocol):
    """What takes turns in `run_rounds`."""

    def take_turn(self, calls: int, primed: bool) -> list[float]:
        """Seconds of each of `calls` calls."""
        ...


def run_rounds(candidates: Sequence[TurnTaker], schedule: Schedule, on_round: Callable[[int], None]) -> list[Turns]:
    """Let every candidate have its turn in each round.

    Returns:
        For each candidate, for each round, the seconds of its calls.
    """
    turns: list[Turns] = [[] for _ in candidates]
    least = schedule.least_seconds or (0.0,) * len(candidates)
    spent = [0.0] * len(candidates)
    done = 0
    while done < schedule.rounds or any(map(lt, spent, least)):
        for index, candidate in enumerate(candidates):
            time.sleep(_PAUSE_SECONDS)
            turns[index].append(candidate.take_turn(schedule.calls[index], schedule.primed[index]))
            spent[index] += sum(turns[index][-1])
        done += 1
        on_round(done)
    return turns
