"""When a graph is captured, kept and given up; the capture itself needs a GPU (tests/gpu)."""

from __future__ import annotations

import logging
from typing import Any

import pytest
import torch

from sr_deploy.runners.cuda_graph import Compute, GraphReplay


class Captures:
    """Stands where a GPU would record."""

    def __init__(self, error: Exception | None = None) -> None:
        self.shapes: list[tuple[int, ...]] = []
        self.replays = 0
        self.error = error

    def __call__(self, compute: Compute, lr: torch.Tensor) -> Compute:
        self.shapes.append(tuple(lr.shape))
        if self.error is not None:
            raise self.error

        def replay(lr: torch.Tensor) -> torch.Tensor:
            self.replays += 1
            return compute(lr)

        return replay


def make_replay(captures: Captures, **options: Any) -> GraphReplay:
    return GraphReplay(lambda lr: 2 * lr, "torch:fp16", capture=captures, **options)


def test_a_shape_is_captured_when_it_comes_again() -> None:
    captures = Captures()
    replay = make_replay(captures)
    small, large = torch.ones(1, 3), torch.ones(2, 3)
    for lr in (small, large, small, small, small.half()):
        assert torch.equal(replay(lr), 2 * lr)
    assert captures.shapes == [(1, 3)]
    assert (captures.replays, replay.captured) == (2, 1)
    replay(large)
    assert captures.shapes == [(1, 3), (2, 3)]
    replay.clear()
    assert replay.captured == 0
    replay(small)
    replay(small)
    assert captures.shapes[2:] == [(1, 3)]


def test_the_shape_that_was_not_used_for_longest_is_forgotten() -> None:
    captures = Captures()
    replay = make_replay(captures, most=2)
    one, two, three = (torch.ones(size) for size in (1, 2, 3))
    for lr in (one, one, two, two, one, three, three):
        replay(lr)
    assert replay.captured == 2
    replay(one)
    assert captures.shapes == [(1,), (2,), (3,)]
    replay(two)
    replay(two)
    assert captures.shapes[3:] == [(2,)]


def test_each_graph_may_have_a_function_of_its_own() -> None:
    made: list[int] = []

    def make_compute() -> Compute:
        made.append(len(made))
        return lambda lr: 3 * lr

    replay = make_replay(Captures(), make_compute=make_compute)
    lr = torch.ones(1)
    assert [float(replay(lr)) for _ in range(3)] == [2, 3, 3]
    assert made == [0]


def test_a_refusal_is_said_once_and_work_goes_on(caplog: pytest.LogCaptureFixture) -> None:
    captures = Captures(RuntimeError("operation not permitted when stream is capturing\nmore"))
    replay = make_replay(captures)
    with caplog.at_level(logging.WARNING):
        for size in (1, 1, 1, 2, 2):
            assert torch.equal(replay(torch.ones(size)), torch.full((size,), 2.0))
    assert captures.shapes == [(1,)]
    (told,) = caplog.messages
    assert told.startswith("torch:fp16: no CUDA graph is captured (operation not permitted when stream is capturing);")


def test_memory_that_is_spent_is_no_refusal() -> None:
    captures = Captures(torch.OutOfMemoryError("CUDA out of memory"))
    replay = make_replay(captures)
    replay(torch.ones(1))
    with pytest.raises(torch.OutOfMemoryError):
        replay(torch.ones(1))
    captures.error = None
    replay(torch.ones(1))
    assert replay.captured == 1
