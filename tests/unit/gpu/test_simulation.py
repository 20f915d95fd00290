"""The simulated GPU keeps CUDA's promises and no others, under the names that torch has."""

from __future__ import annotations

import inspect
import re
from functools import partial
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

from sr_deploy.backends.tensorrt import runner as tensorrt_runner
from sr_deploy.backends.torch import runner as torch_runner
from sr_deploy.runners import cuda_graph
from sr_deploy.upscale import device
from tests.unit.gpu.streams import Event, Gpu, RaceError, Stream
from tests.unit.gpu.tensors import cuda_names, torch_cuda

FIRST = torch.device("cuda", 0)
MODULES = [cuda_graph, tensorrt_runner, torch_runner, device]


@pytest.fixture
def faulty() -> Any:
    """A GPU on which faults may be found."""
    with torch_cuda(Gpu()) as made:
        yield made


def pinned(values: Any) -> torch.Tensor:
    tensor = torch.empty(len(values), dtype=torch.float32, pin_memory=True)
    np.copyto(tensor.numpy(), values)
    return tensor


def test_work_is_done_when_it_is_waited_for_and_no_sooner(gpu: Gpu) -> None:
    target = torch.empty(2, dtype=torch.float32, pin_memory=True)
    view = target.numpy()
    on_gpu = pinned([1, 2]).to(FIRST, non_blocking=True)
    target.copy_(on_gpu * 3, non_blocking=True)
    assert np.isnan(view).all()
    torch.cuda.current_stream().synchronize()
    assert view.tolist() == [3, 6]


def test_a_stream_does_nothing_for_another_that_nobody_waits_for(gpu: Gpu) -> None:
    one, two = torch.cuda.Stream(FIRST), torch.cuda.Stream(FIRST)
    with torch.cuda.stream(one):
        first = pinned([1, 2]).to(FIRST, non_blocking=True) + 1
    with torch.cuda.stream(two):
        second = pinned([3, 4]).to(FIRST, non_blocking=True) + 1
    two.synchronize()
    assert (second.host.tolist(), bool(first.host.isnan().all())) == ([4, 5], True)  # type: ignore[attr-defined]


def test_pageable_memory_is_copied_at_once(gpu: Gpu) -> None:
    array = np.ones(2, np.float32)
    on_gpu = torch.from_numpy(array).to(FIRST, non_blocking=True)
    array[:] = 5
    assert (on_gpu + 1).cpu().numpy().tolist() == [2, 2]


def test_what_another_stream_writes_is_not_read_without_an_event(faulty: Gpu) -> None:
    on_gpu = pinned([1, 2]).to(FIRST, non_blocking=True)
    with torch.cuda.stream(torch.cuda.Stream(FIRST)), pytest.raises(RaceError, match=r"add on .* touches what copy on"):
        on_gpu + 1


def test_what_another_stream_reads_is_not_overwritten_without_an_event(faulty: Gpu) -> None:
    on_gpu = pinned([1, 2]).to(FIRST, non_blocking=True)
    other = torch.cuda.Stream(FIRST)
    other.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(other):
        kept = on_gpu + 1
    with pytest.raises(RaceError, match=r"mul_ on .* touches what add on"):
        on_gpu.mul_(2)
    del kept


def test_an_event_that_was_never_recorded_is_not_waited_for(faulty: Gpu) -> None:
    on_gpu = pinned([1, 2]).to(FIRST, non_blocking=True)
    other, event = torch.cuda.Stream(FIRST), torch.cuda.Event()
    other.wait_event(event)
    with torch.cuda.stream(other), pytest.raises(RaceError):
        on_gpu + 1


def test_memory_goes_back_to_its_own_stream_unless_another_is_recorded(faulty: Gpu) -> None:
    for recorded in (True, False):
        on_gpu = pinned([1, 2]).to(FIRST, non_blocking=True)
        other = torch.cuda.Stream(FIRST)
        other.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(other):
            kept = on_gpu + 1
        if recorded:
            on_gpu.record_stream(other)
        del on_gpu
        assert len(faulty.faults) == (not recorded)
    assert faulty.faults[0].startswith("memory is given away before add on stream")
    del kept


def test_the_host_leaves_pinned_memory_alone_while_it_is_copied(faulty: Gpu) -> None:
    staged = pinned([1, 2])
    on_gpu = staged.to(FIRST, non_blocking=True)
    with pytest.raises(RaceError, match="the host touches pinned memory that copy on stream"):
        staged.numpy()
    torch.cuda.current_stream().synchronize()
    staged.numpy()
    del on_gpu


def test_replays_of_one_pool_overwrite_each_other(gpu: Gpu) -> None:
    pool, stream = torch.cuda.graph_pool_handle(), torch.cuda.Stream(FIRST)
    with torch.cuda.stream(stream):
        lr = torch.from_numpy(np.ones(2, np.float32)).to(FIRST)
        graphs, outputs = [torch.cuda.CUDAGraph() for _ in range(2)], []
        for factor, graph in enumerate(graphs, 2):
            with torch.cuda.graph(graph, pool=pool, stream=stream):
                outputs.append(lr * factor)
        for graph in graphs:
            graph.replay()
        assert [bool(np.isnan(sr.cpu().numpy()).all()) for sr in outputs] == [True, False]
        del outputs, graphs, graph, lr


@pytest.mark.parametrize("module", MODULES, ids=lambda module: module.__name__)
def test_all_that_a_module_uses_of_torch_cuda_is_simulated(module: ModuleType) -> None:
    used = set(re.findall(r"torch\.cuda\.(\w+)", inspect.getsource(module)))
    assert used
    assert used <= cuda_names(Gpu()).keys()


def test_names_and_parameters_are_those_of_torch() -> None:
    for name, mine in cuda_names(Gpu()).items():
        if name not in ("CUDAGraph", "Event", "Stream"):
            theirs = inspect.signature(getattr(torch.cuda, name)).parameters.keys()
            assert inspect.signature(mine).parameters.keys() <= theirs, name
    for kind, real in ((Stream, torch.cuda.Stream), (Event, torch.cuda.Event)):
        methods = {
            name: f for name, f in vars(kind).items() if inspect.isfunction(f) and name[0] != "_" and name != "put"
        }
        for name, mine in methods.items():
            assert list(inspect.signature(mine).parameters) == list(inspect.signature(getattr(real, name)).parameters)
    assert isinstance(cuda_names(Gpu())["Stream"], partial)
