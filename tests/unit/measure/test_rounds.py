"""Rounds with candidates whose times, and a clock, are made up."""

from __future__ import annotations

import types
from collections.abc import Callable

import pytest

from sr_deploy.measure import rounds
from sr_deploy.measure.rounds import run_rounds


class Clock:
    now = 0.0


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    time = types.SimpleNamespace(monotonic=lambda: clock.now, sleep=lambda _seconds: None)
    monkeypatch.setattr(rounds, "time", time)
    clock.now = 100.0
    return clock


@pytest.fixture
def take(clock: Clock) -> Callable[..., Callable[[], list[float]]]:
    """A candidate whose turns are one call each: of these seconds, the last ones again and again; 0: it fails."""

    def candidate(*seconds: float) -> Callable[[], list[float]]:
        left = list(seconds)

        def turn() -> list[float]:
            its = left.pop(0) if len(left) > 1 else left[0]
            clock.now += its
            return [its] if its else []

        return turn

    return candidate


def test_rounds_end_with_the_time_between_least_and_most(take) -> None:
    counts = []
    for seconds in (0.5, 4.5, 100):
        done: list[int] = []
        turns = run_rounds([take(9, 1), take(1)], min_rounds=2, max_rounds=6, seconds=seconds, on_round=done.append)
        assert turns == [[[9.0], *[[1.0]] * (len(done) - 1)], [[1.0]] * len(done)]
        counts.append(len(done))
    assert counts == [2, 4, 6]  # the first round's 10 seconds are not counted


def test_each_gets_its_seconds(take) -> None:
    turns = run_rounds([take(1), take(2)], min_rounds=2, least_seconds=(0, 9))
    assert [len(one) for one in turns] == [5, 5]


def test_slow_ones_drop_out_as_soon_as_it_shows(take) -> None:
    dropped: list[int] = []
    turns = run_rounds(
        [take(30), take(1.5), take(1), take(1.1), take(2.4)],
        min_rounds=5,
        slow=lambda had: 2 if had == 1 else 1.25,
        on_drop=dropped.append,
    )
    assert dropped == [0, 4, 1]  # the first when the second had its turn, the second after two turns
    assert [len(one) for one in turns] == [1, 2, 5, 5, 1]


def test_one_that_fails_drops_out_and_one_alone_has_won(take) -> None:
    dropped: list[int] = []
    turns = run_rounds([take(1), take(1, 0), take(0)], min_rounds=9, slow=lambda _had: 2, on_drop=dropped.append)
    assert dropped == [2, 1]
    assert turns == [[[1.0], [1.0]], [[1.0], []], [[]]]
    assert run_rounds([take(0), take(0)], min_rounds=9) == [[[]], [[]]]
    assert run_rounds([take(1)], min_rounds=3) == [[[1.0]] * 3]
