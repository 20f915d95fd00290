from __future__ import annotations

import threading
import time

import pytest

from sr_deploy.upscale.video.stage_threads import Clock, WriteBehind, count_between, prefetch


class NoMoreError(Exception):
    """Raised by the stages of these tests."""


def test_reading_ahead_keeps_the_order_and_the_bound():
    begun: list[int] = []

    def numbers():
        for number in range(20):
            begun.append(number)
            yield number

    ahead_of: list[int] = []
    with prefetch(numbers(), 3) as items:
        for number in items:
            time.sleep(0.005)
            ahead_of.append(begun[-1] - number)
            assert number == len(ahead_of) - 1
    assert len(ahead_of) == 20
    assert 1 <= max(ahead_of) <= 4


def test_what_a_reader_raises_comes_after_what_it_gave():
    def numbers():
        yield from range(5)
        raise NoMoreError

    seen = []
    with pytest.raises(NoMoreError), prefetch(numbers(), 2) as items:
        seen.extend(items)
    assert seen == [0, 1, 2, 3, 4]


def test_leaving_early_ends_the_reader():
    taken: list[int] = []

    def numbers():
        for number in range(1000):
            taken.append(number)
            yield number

    with prefetch(numbers(), 2) as items:
        next(items)
    assert len(taken) <= 5
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("prefetch")]


def test_writing_behind_keeps_the_order_and_the_bound():
    written: list[int] = []

    def write(number: int) -> None:
        time.sleep(0.003)
        written.append(number)

    waiting = []
    with WriteBehind(write, 3) as behind:
        for number in range(20):
            behind.put(number)
            waiting.append(number + 1 - len(written))
        behind.finish()
        assert written == list(range(20))
    assert 1 < max(waiting) <= 4


def test_nothing_is_written_behind_a_hole():
    written: list[int] = []

    def write(number: int) -> None:
        if number == 2:
            raise NoMoreError
        written.append(number)

    with pytest.raises(NoMoreError), WriteBehind(write, 4) as behind:
        for number in range(20):
            behind.put(number)
        behind.finish()
    assert written == [0, 1]


def test_what_was_handed_over_is_written_when_others_fail():
    written: list[int] = []

    def write(number: int) -> None:
        time.sleep(0.005)
        written.append(number)

    with pytest.raises(NoMoreError), WriteBehind(write, 4) as behind:
        for number in range(4):
            behind.put(number)
        raise NoMoreError
    assert written == [0, 1, 2, 3]


def test_the_slowest_stage_is_named():
    clock = Clock({"decode": 1, "inference": 4, "encode": 1})
    for stage, seconds in (("decode", 0.01), ("inference", 0.06), ("encode", 0.03)):
        with clock.working(stage):
            time.sleep(seconds)
    assert clock.slowest == "encode"  # inference has four threads for it
    assert clock.seconds["inference"] == pytest.approx(0.015, abs=0.01)


@pytest.mark.parametrize(("item_bytes", "count"), [(0, 8), (1_000_000, 8), (100_000_000, 2), (10**9, 1)])
def test_large_frames_wait_in_small_numbers(item_bytes, count):
    assert count_between(item_bytes) == count
