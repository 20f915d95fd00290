"""`sr-deploy bench` on a GPU: events beside the host's clock, calls in flight, copies, the GPU's memory and peaks.

Not executed while it was written: no machine with a GPU was at hand.
"""

from __future__ import annotations

import statistics
import time

import numpy as np
import pytest
import torch

from sr_deploy.arch.spec import ArchSpec
from sr_deploy.bench.device_timing import CudaDevice, DeviceTimer, PinnedCopies
from sr_deploy.bench.run import bench_model
from sr_deploy.bundle import Shape

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU and a CUDA build of torch"),
]

SHAPE = Shape(2, 128, 128)


@pytest.fixture(scope="module")
def report(tmp_path_factory, write_network):
    spec = ArchSpec(architecture="compact", scale=4, features=64, blocks=16)
    path = write_network(tmp_path_factory.mktemp("bench") / "network.safetensors", spec)
    return bench_model(
        path, shapes=[SHAPE], choices=["torch:fp32", "torch:fp16", "torch:fp16+compile"], seconds_each=0.5
    )


def test_every_candidate_runs_on_the_device_and_is_near_the_reference(report):
    assert {one.candidate for one in report.results} == {
        "torch:fp32+nchw", "torch:fp32", "torch:fp16", "torch:fp16+compile",
    }  # fmt: skip
    for one in report.results:
        assert (one.device, one.arrays) == ("cuda:0", "device")
        assert one.parity.psnr_db is None or one.parity.psnr_db > 40
        assert (one.device_memory_mib or 0) > 1


def test_copies_are_counted_and_timed_apart(report):
    pixels = SHAPE.n * SHAPE.h * SHAPE.w
    for one in report.results:
        assert one.host_copies is not None
        assert one.host_copies.bytes == pixels * 3 * (1 + 16)  # 8-bit samples
        assert 0 < (one.host_copies.device_ms or 0) < (one.host_copies.median_ms or 0)
        # PCI Express brings some GB/s at the least, and no more than 500.
        assert 1 < one.host_copies.bytes / (one.host_copies.device_ms or 0) / 1e6 < 500
        assert one.end_to_end.median_ms > one.median_ms


def test_events_the_host_and_calls_in_flight_agree(report):
    for one in report.results:
        timing = one.device_timing
        assert timing is not None
        assert timing.seconds >= 3
        assert one.calls >= 10
        assert one.warm_up_calls >= 3
        assert 0 < timing.enqueue_ms < one.median_ms
        # The GPU's time is within the host's, and at least as long as that of a call among others.
        assert 0.5 * one.median_ms < timing.median_ms < 1.05 * one.median_ms
        assert timing.pipelined_ms < 1.1 * one.median_ms
        assert timing.pipelined_ms > 0.5 * timing.median_ms
        assert timing.pipelined_images_per_second == pytest.approx(1e3 * SHAPE.n / timing.pipelined_ms)
        assert timing.in_flight == 3


def test_a_call_takes_as_long_by_events_as_a_known_number_of_cycles():
    cycles = 200_000_000  # a tenth of a second at 2 GHz
    timer = DeviceTimer(CudaDevice("cuda:0"), lambda: torch.cuda._sleep(cycles))
    timer.time_turn(1, primed=True)
    alone = timer.time_turn(5, primed=True)
    (pipelined, *_) = timer.time_pipelined(5)
    assert max(timer.enqueue_seconds) < 0.5 * min(timer.device_seconds)  # it is queued, not waited for
    for host, device in zip(alone, timer.device_seconds[-5:], strict=True):
        assert device == pytest.approx(host, rel=0.05)
    assert pipelined == pytest.approx(alone[0], rel=0.1)


def test_what_is_queued_at_once_hides_the_time_of_the_host():
    cycles = 10_000_000  # some milliseconds

    def call():
        deadline = time.perf_counter() + 0.002  # the host has to do first
        while time.perf_counter() < deadline:
            pass
        torch.cuda._sleep(cycles)

    timer = DeviceTimer(CudaDevice("cuda:0"), call)
    timer.warm_up(1.5)
    timer.time_turn(20, primed=True)
    device, enqueue = (statistics.median(one) for one in (timer.device_seconds, timer.enqueue_seconds))
    assert enqueue >= 0.002
    assert timer.time_pipelined(20)[0] == pytest.approx(device - enqueue, rel=0.15)


def test_memory_is_each_ones_own(report):
    _, total = torch.cuda.mem_get_info(0)
    assert sum(one.device_memory_mib or 0 for one in report.results) * 2**20 < total
    own = [one.device_memory_mib or 0 for one in report.results if not one.candidate.endswith("+compile")]
    # Feature maps of 64 channels in FP32 at least, and nobody has the memory of the others on top.
    assert min(own) * 2**20 > SHAPE.n * SHAPE.h * SHAPE.w * 64 * 2
    assert max(own) < 3 * min(own) + 2048


def test_pinned_copies_bring_the_samples_up_and_down():
    random = np.random.default_rng(0)
    up, down = (random.integers(0, 256, (2, side, side, 3), np.uint8) for side in (64, 256))
    copies = PinnedCopies(up, down, "cuda:0")
    host, device = copies.time(CudaDevice("cuda:0"))
    assert 0 < device < host
    assert np.array_equal(copies.sent.cpu().numpy(), up)
    assert copies.sent.device.type == "cuda"
    assert np.array_equal(copies.fetched, down)


def test_the_range_of_the_clock_is_seen(report):
    gpu = report.runs[0].conditions.gpus[0]
    if gpu.clock_mhz is None:
        pytest.skip("this driver does not tell of clocks")
    assert 0 < (gpu.clock_lowest_mhz or 0) <= (gpu.clock_highest_mhz or 0) <= (gpu.clock_most_mhz or 0)


def test_the_roofline_is_that_of_the_gpu(report):
    (peaks,) = report.peaks
    assert peaks.device == "cuda:0"
    assert peaks.matrix_gflops["fp16"] > peaks.matrix_gflops["fp32"] > 1000
    for one in report.results:
        assert one.roofline is not None
        assert 0 < (one.roofline.share or 0) < 1.2
    assert report.runs[0].conditions.gpus
