"""When a CUDA graph is captured, kept and given up, on a simulated GPU."""

from __future__ import annotations

import logging
from collections.abc import Callable

import numpy as np
import pytest
import torch

from sr_deploy.runners.cuda_graph import GraphReplay
from tests.unit.gpu.streams import Gpu

FIRST = torch.device("cuda", 0)
Compute = Callable[[torch.Tensor], torch.Tensor]


def ones(*shape: int) -> torch.Tensor:
    return torch.from_numpy(np.ones(shape, np.float32)).to(FIRST)


def value(tensor: torch.Tensor) -> float:
    array = tensor.cpu().numpy()
    assert (array == array.flat[0]).all()
    return float(array.flat[0])


class Doubling:
    """Counts the times that it is run or captured; a replay runs nothing of it."""

    def __init__(self, fails: Exception | None = None) -> None:
        self.shapes: list[tuple[int, ...]] = []
        self.fails = fails

    def __call__(self, lr: torch.Tensor) -> torch.Tensor:
        self.shapes.append(tuple(lr.shape))
        if self.fails is not None and len(self.shapes) > 1:
            raise self.fails
        return 2 * lr


def test_a_shape_is_captured_when_it_comes_again(gpu: Gpu) -> None:
    network = Doubling()
    replay = GraphReplay(network, "net", FIRST)
    for lr in (ones(1, 3), ones(2, 3), ones(1, 3), ones(1, 3), ones(1, 3).half()):
        assert value(replay(lr)) == 2
    assert network.shapes == [(1, 3), (2, 3), (1, 3), (1, 3), (1, 3)]  # of these two for one capture: run, and recorded
    assert replay.captured == 1
    replay(ones(2, 3))
    assert replay.captured == 2
    replay.clear()
    assert replay.captured == 0
    replay(ones(1, 3))
    replay(ones(1, 3))
    assert replay.captured == 1


def test_the_shape_that_was_not_used_for_longest_is_forgotten(gpu: Gpu) -> None:
    network = Doubling()
    replay = GraphReplay(network, "net", FIRST, max_graphs=2)
    for size in (1, 1, 2, 2, 1, 3, 3):
        assert value(replay(ones(size))) == 2
    assert replay.captured == 2
    ran = len(network.shapes)
    replay(ones(1))
    assert len(network.shapes) == ran
    replay(ones(2))
    assert len(network.shapes) == ran + 1


def test_each_graph_may_have_a_function_of_its_own(gpu: Gpu) -> None:
    made: list[int] = []

    def make_compute() -> Compute:
        made.append(len(made))
        return lambda lr: 3 * lr

    replay = GraphReplay(Doubling(), "net", FIRST, make_compute=make_compute)
    assert [value(replay(ones(1))) for _ in range(3)] == [2, 3, 3]
    assert made == [0]


def test_nothing_is_captured_where_that_is_not_wanted(gpu: Gpu) -> None:
    replay = GraphReplay(Doubling(), "net", FIRST, max_graphs=0)
    assert [value(replay(ones(1))) for _ in range(4)] == [2] * 4
    assert replay.captured == 0


def test_a_refusal_is_said_once_and_work_goes_on(gpu: Gpu, caplog: pytest.LogCaptureFixture) -> None:
    def network(lr: torch.Tensor) -> torch.Tensor:
        return lr * float(lr.sum().item() > -1)  # .item() waits for the GPU, which no capture allows

    replay = GraphReplay(network, "torch:fp16", FIRST)
    before = torch.cuda.current_stream()
    with caplog.at_level(logging.WARNING, logger="sr_deploy"):
        for size in (1, 1, 1, 2, 2):
            assert value(replay(ones(size))) == 1
    assert torch.cuda.current_stream() is before
    assert replay.captured == 0
    (told,) = caplog.messages
    assert told.startswith(
        "torch:fp16: no CUDA graph is captured (CUDA error: operation failed due to a previous error"
    )


def test_memory_that_is_spent_is_no_refusal(gpu: Gpu) -> None:
    network = Doubling(torch.OutOfMemoryError("CUDA out of memory"))
    replay = GraphReplay(network, "net", FIRST)
    replay(ones(1))
    with pytest.raises(torch.OutOfMemoryError):
        replay(ones(1))
    network.fails = None
    for _ in range(2):  # all shapes were forgotten, for their memory
        assert replay.captured == 0
        replay(ones(1))
    assert replay.captured == 1


def test_graphs_of_another_gpu_run_there(gpu: Gpu) -> None:
    second = torch.device("cuda", 1)
    replay = GraphReplay(Doubling(), "net", second)
    for _ in range(3):
        sr = replay(torch.from_numpy(np.ones((2, 2), np.float32)).to(second))
        assert (value(sr), sr.device) == (2, second)
    assert torch.cuda.current_stream().device == FIRST
