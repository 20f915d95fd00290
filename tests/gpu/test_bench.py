"""`sr-deploy bench` on a GPU: inference without copies, copies apart, the GPU's memory and peaks."""

from __future__ import annotations

import pytest
import torch

from sr_deploy.arch.registry import build_network
from sr_deploy.arch.spec import ArchSpec
from sr_deploy.arch.weights import save_generator
from sr_deploy.bench.run import bench_model
from sr_deploy.bundle import Shape

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU and a CUDA build of torch"),
]

SHAPE = Shape(2, 128, 128)


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    torch.manual_seed(0)
    spec = ArchSpec(architecture="compact", scale=4, features=64, blocks=16)
    path = tmp_path_factory.mktemp("bench") / "network.safetensors"
    save_generator(path, build_network(spec).state_dict(), spec)
    return bench_model(
        path, shapes=[SHAPE], choices=["torch:fp32", "torch:fp16", "torch:fp16+compile"], seconds_each=0.5
    )


def test_every_contender_runs_on_the_device_and_is_near_the_reference(report):
    assert {one.contender for one in report.results} == {
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
        assert one.host_copies.bytes == pixels * 3 * (1 + 16) * 4
        assert (one.host_copies.median_ms or 0) > 0
        assert one.end_to_end.median_ms > one.median_ms + (one.host_copies.median_ms or 0)


def test_the_roofline_is_that_of_the_gpu(report):
    (peaks,) = report.peaks
    assert peaks.device == "cuda:0"
    assert peaks.matrix_gflops["fp16"] > peaks.matrix_gflops["fp32"] > 1000
    for one in report.results:
        assert one.roofline is not None
        assert 0 < (one.roofline.share or 0) < 1.2
    assert report.runs[0].conditions.gpus
