"""Tiles on a GPU. Not executed while it was written: no machine with one was at hand."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from sr_deploy.runners import open_runner
from sr_deploy.runners.cuda_graph import GraphReplay
from sr_deploy.upscale import batch as batches
from sr_deploy.upscale.image import Upscaler
from sr_deploy.upscale.memory import free_memory

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no GPU"),
]


@pytest.mark.parametrize("channels", [1, 3])
def test_the_gpu_gives_what_the_cpu_gives(path, channels):
    lr = np.random.default_rng(0).integers(0, 256, (301, 407, channels), np.uint8)
    with open_runner(path, "torch:fp32", device="cpu") as cpu, open_runner(path, "torch:fp32", device="cuda:0") as gpu:
        expected = Upscaler(cpu, tile=64, halo=4)(lr)
        upscaled = Upscaler(gpu, tile=64, halo=4).upscale(lr)
    assert upscaled.report.tiles == 35
    assert np.abs(upscaled.image.astype(int) - expected).max() <= 1


@pytest.mark.parametrize("batch", [2, 3, None])
def test_batches_on_the_gpu_give_what_single_tiles_give(path, batch):
    lr = np.random.default_rng(0).integers(0, 256, (301, 407, 3), np.uint8)
    with open_runner(path, "torch:fp32", device="cuda:0") as gpu:
        expected = Upscaler(gpu, tile=64, halo=4, batch=1)(lr)
        upscaled = Upscaler(gpu, tile=64, halo=4, batch=batch).upscale(lr)
    assert upscaled.report.batch in ((batch,) if batch else (1, 2, 4, 8))
    assert np.abs(upscaled.image.astype(int) - expected).max() <= 1


def test_a_batch_is_measured_once_for_a_runner_and_a_shape(path, monkeypatch):
    measured = []
    measure = batches._time_batch
    monkeypatch.setattr(
        batches, "_time_batch", lambda network, window, size: measured.append(size) or measure(network, window, size)
    )
    frames = [np.random.default_rng(seed).integers(0, 256, (48, 64, 3), np.uint8) for seed in range(3)]
    with open_runner(path, "torch:fp16", device="cuda:0") as gpu:
        cuts = [Upscaler(gpu).freeze(frame) for frame in frames]
    assert measured == [1, 2, 4, 8][: len(measured)]
    assert {cut.batch for cut in cuts} <= {1, 2, 4, 8}
    assert len({cut.batch for cut in cuts}) == 1


def test_frames_that_go_together_are_those_that_go_alone(path):
    frames = [np.random.default_rng(seed).integers(0, 256, (48, 64, 3), np.uint8) for seed in range(9)]
    with open_runner(path, "torch:fp32", device="cuda:0") as gpu:
        alone = [Upscaler(gpu, batch=1)(frame) for frame in frames]
        batch_size = Upscaler(gpu, batch=4).upscale_many(frames)
    for one, other in zip(alone, batch_size, strict=True):
        assert np.abs(one.astype(int) - other).max() <= 1


def profile_tiles(path, tmp_path):
    """The timeline of a picture in tiles, when all is warm: (category, name, begin, end) in microseconds."""
    lr = np.random.default_rng(0).integers(0, 256, (1024, 1024, 3), np.uint8)
    with Upscaler(path, backend="torch:fp16", device="cuda:0", tile=240, halo=8, batch=1) as upscale:
        for _ in range(2):
            upscale(lr)
        torch.cuda.synchronize()
        activities = [torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA]
        with torch.profiler.profile(activities=activities) as profiler:
            upscale(lr)
            torch.cuda.synchronize()
        network = upscale._runner._network
        assert isinstance(network, GraphReplay)
        assert network.captured == 1
    profiler.export_chrome_trace(str(tmp_path / "trace.json"))
    events = json.loads((tmp_path / "trace.json").read_text())["traceEvents"]
    kinds = ("kernel", "gpu_memcpy")
    return [(e["cat"], e["name"], e["ts"], e["ts"] + e["dur"]) for e in events if e.get("cat") in kinds]


def test_copies_hide_behind_work_and_none_is_pageable(path, tmp_path):
    timeline = profile_tiles(path, tmp_path)
    kernels = [(begin, end) for kind, _, begin, end in timeline if kind == "kernel"]
    copies = [(name, begin, end) for kind, name, begin, end in timeline if kind == "gpu_memcpy"]
    between = [one for one in copies if "HtoD" in one[0] or "DtoH" in one[0]]
    assert kernels
    assert {name[:11] for name, _, _ in between} >= {"Memcpy HtoD", "Memcpy DtoH"}
    assert [name for name, _, _ in between if "Pageable" in name] == []
    hidden = [
        name
        for name, begin, end in between
        if any(begin < other_end and other_begin < end for other_begin, other_end in kernels)
    ]
    assert hidden, "no copy overlaps a kernel"


def test_a_gpu_that_is_full_halves_the_tile(path):
    lr = np.random.default_rng(0).integers(0, 256, (2048, 2048, 3), np.uint8)
    with Upscaler(path, backend="torch:fp32", tile=0) as upscale:
        expected = upscale(lr)
        torch.cuda.empty_cache()
        held = torch.empty(free_memory("cuda:0") - 400 * 2**20, dtype=torch.uint8, device="cuda:0")
        upscaled = upscale.upscale(lr)
        del held
    assert upscaled.report.halvings >= 1
    assert np.abs(upscaled.image.astype(int) - expected).max() <= 1
