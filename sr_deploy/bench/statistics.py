"""From times of calls to the figures of a table."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from sr_deploy.measure.rounds import Turns, run_rounds

TURN_SECONDS = 0.1
MOST_CALLS = 20
FEWEST_ROUNDS = 5
MOST_ROUNDS = 40
# A shorter call pays for threads that fell asleep and caches that others filled: the first of a turn is not counted.
PRIMED_BELOW_SECONDS = 0.05


Turn = Callable[[int, bool], list[float]]
"""Seconds of each of so many calls; one more goes before them untimed if the second argument says so."""


@dataclass(frozen=True)
class Schedule:
    """How often every candidate has its turn, and how many calls are timed in each."""

    rounds: int
    """Rounds; in each every candidate has one turn, in the same order."""
    calls: tuple[int, ...]
    """Timed calls in a turn, for each candidate."""
    primed: tuple[bool, ...]
    """Whether a turn starts with a call that is not timed, for each candidate."""
    least_seconds: tuple[float, ...] = ()
    """What the timed calls of each candidate last at least, by further rounds if need be; empty: nothing."""

    def run(self, turns: Sequence[Turn], on_round: Callable[[int], None] = lambda _done: None) -> list[Turns]:
        """For each candidate, for each round, the seconds of its calls; `on_round`: told how many are done."""
        planned = zip(turns, self.calls, self.primed, strict=True)
        bound = [partial(turn, calls, primed) for turn, calls, primed in planned]
        return run_rounds(bound, min_rounds=self.rounds, least_seconds=self.least_seconds, on_round=on_round)


@dataclass(frozen=True)
class Timing:
    """Calls of one candidate, in seconds."""

    median: float
    """Half of the calls took less."""
    p95: float
    """95 % of the calls took less."""
    p99: float
    """99 % of the calls took less."""
    spread: float
    """Half the distance between the quartiles."""


@dataclass(frozen=True)
class Speedup:
    """How much faster than the baseline."""

    ratio: float
    """Median over the rounds of the ratio of the two medians in a round."""
    low: float
    """10th percentile of the same ratios."""
    high: float
    """90th percentile of them."""


def is_steady(seconds: Sequence[float]) -> bool:
    """Whether the last three calls lie within 10 % of each other."""
    last = seconds[-3:]
    return len(last) == 3 and max(last) <= 1.1 * min(last)


def is_warm(seconds: Sequence[float], budget: float, least: float = 0.0) -> bool:
    """Whether warm-up may end: calls are steady and lasted `least` seconds, or the budget is spent."""
    spent = sum(seconds)
    return bool(seconds) and (spent >= budget or (spent >= least and is_steady(seconds)))


def plan_schedule(call_seconds: Sequence[float], seconds_each: float) -> Schedule:
    """Share out the time.

    Args:
        call_seconds: what one call of each candidate takes.
        seconds_each: time for each candidate on average; slow ones get at least 5 rounds of one call all the same.
    """
    calls = tuple(int(np.clip(TURN_SECONDS / seconds, 1, MOST_CALLS)) for seconds in call_seconds)
    primed = tuple(seconds < PRIMED_BELOW_SECONDS for seconds in call_seconds)
    one_round = sum((n + first) * t for n, first, t in zip(calls, primed, call_seconds, strict=True))
    rounds = int(np.clip(seconds_each * len(calls) / one_round, FEWEST_ROUNDS, MOST_ROUNDS))
    return Schedule(rounds, calls, primed)


def summarize_calls(rounds: Sequence[Sequence[float]]) -> Timing:
    """Over all calls of all rounds."""
    calls = np.concatenate([np.asarray(turn) for turn in rounds])
    low, median, high, p95, p99 = (float(value) for value in np.percentile(calls, (25, 50, 75, 95, 99)))
    return Timing(median=median, p95=p95, p99=p99, spread=(high - low) / 2)


def compare_speed(baseline: Sequence[Sequence[float]], candidate: Sequence[Sequence[float]]) -> Speedup:
    """Speed-up with its spread.

    Both were measured in the same rounds, so that what slows the machine down for a while slows both and leaves a
    round's ratio as it is.
    """
    ratios = [float(np.median(ours) / np.median(theirs)) for ours, theirs in zip(baseline, candidate, strict=True)]
    low, middle, high = (float(value) for value in np.percentile(ratios, (10, 50, 90)))
    return Speedup(middle, low, high)
