"""Candidates that take turns, A B C A B C ...: what slows a machine down for a while slows all of them alike."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence

Turns = list[list[float]]
"""Seconds of one candidate's calls, for each round."""

_PAUSE_SECONDS = 0.01  # threads of the one before go to sleep


def run_rounds(
    turns: Sequence[Callable[[], list[float]]],
    *,
    min_rounds: int,
    max_rounds: int = 0,
    seconds: float = 0.0,
    least_seconds: Sequence[float] = (),
    slow: Callable[[int], float] = lambda _turns: math.inf,
    on_drop: Callable[[int], None] = lambda _index: None,
    on_round: Callable[[int], None] = lambda _done: None,
) -> list[Turns]:
    """Let every candidate have its turn in each round; who fails or is too slow drops out, who is left alone has won.

    Args:
        turns: take a turn of each candidate, and give the seconds of its calls; none: it failed.
        min_rounds: so many are done in any case.
        max_rounds: up to so many are done while there is time.
        seconds: how long, after the first round, which pays for kernels, memory and threads.
        least_seconds: what the calls of each candidate last at least, by further rounds if need be; empty: nothing.
        slow: given how many turns a candidate had, how many times the fastest one's time is too slow; the quickest call
            of each counts, which a busy machine disturbs least.
        on_drop: told who drops out, by its place in `turns`.
        on_round: told how many rounds are done.

    Returns:
        For each candidate, for each round, the seconds of its calls.
    """
    taken: list[Turns] = [[] for _ in turns]
    quickest: dict[int, float] = {}
    running = list(range(len(turns)))
    done, started = 0, 0.0
    while len(running) >= min(2, len(turns)):
        for index in tuple(running):
            if index not in running:
                continue
            time.sleep(_PAUSE_SECONDS)
            turn = turns[index]()
            taken[index].append(turn)
            quickest[index] = min(*turn, quickest.get(index, math.inf)) if turn else math.inf
            fastest = min(quickest[one] for one in running if one in quickest)
            for one in tuple(running):
                its = quickest.get(one, 0.0)
                if math.isinf(its) or its > slow(len(taken[one])) * fastest:
                    running.remove(one)
                    on_drop(one)
        done += 1
        on_round(done)
        started = started or time.monotonic()
        lacking = any(sum(map(sum, own)) < least for own, least in zip(taken, least_seconds, strict=False))
        in_time = done < max_rounds and time.monotonic() - started <= seconds
        if done >= min_rounds and not lacking and not in_time:
            break
    return taken
