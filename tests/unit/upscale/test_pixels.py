"""Host and device do the same; the device is a simulated GPU, on which work is done as late as may be."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from sr_deploy.imaging.convert import to_image
from sr_deploy.runners.protocol import RunnerSpec
from sr_deploy.upscale.device import DevicePipeline, DeviceResult
from sr_deploy.upscale.guards import measure_statistics
from sr_deploy.upscale.inference import runs_on_device
from sr_deploy.upscale.pixels import HostResult, to_window
from tests.unit.gpu.streams import Gpu
from tests.unit.gpu.tensors import torch_cuda


@pytest.fixture(scope="module")
def sr() -> NDArray[np.float32]:
    return np.random.default_rng(0).normal(0.5, 0.4, (1, 3, 150, 90)).astype(np.float32)


@pytest.fixture
def gpu() -> Iterator[Gpu]:
    with torch_cuda(Gpu()) as made:
        yield made
        made.finish()


@pytest.fixture(params=["host", "device"])
def result(request: pytest.FixtureRequest, gpu: Gpu, sr: NDArray[np.float32]) -> HostResult | DeviceResult:
    if request.param == "host":
        return HostResult(sr)
    ready = torch.cuda.Event()
    on_gpu = torch.from_numpy(sr).to("cuda:0")
    ready.record()
    return DeviceResult(on_gpu, DevicePipeline(DoublingRunner("float32")), ready)


def test_rounding_is_that_of_to_image(result: HostResult | DeviceResult, sr: NDArray[np.float32]) -> None:
    target = np.empty((150, 90, 3), np.uint8)
    result.write(target)
    assert np.array_equal(target, to_image(sr))
    gray = np.empty((150, 90, 1), np.uint8)
    result.write(gray)
    assert np.abs(gray.astype(int) - to_image(sr.mean(axis=1, keepdims=True))).max() <= 1


def test_parts_are_measured_alike(result: HostResult | DeviceResult, sr: NDArray[np.float32]) -> None:
    part = result.crop(slice(10, 110), slice(0, 70))
    assert part.size == (100, 70)
    assert np.array_equal(part.read(), sr[:, :, 10:110, :70])
    seen = part.measure(2)
    assert np.allclose(seen.low, sr[0, :, 10:110, :70].min(axis=(1, 2)))
    assert np.allclose(seen.high, sr[0, :, 10:110, :70].max(axis=(1, 2)))
    assert seen.means.shape == (3, 3, 2)
    assert np.isclose(seen.means[1, 0, 1], sr[0, 1, 10:42, 34:70].mean(), atol=1e-5)
    assert np.allclose(seen.means, measure_statistics(sr[:, :, 10:110, :70], 2).means, atol=1e-5)


def test_16_bit_samples_become_values_and_samples_again() -> None:
    samples = np.random.default_rng(0).integers(0, 65536, (150, 90, 3), np.uint16)
    assert np.array_equal(to_window(samples, 3) * np.float32(65535), samples.transpose(2, 0, 1)[None])
    assert np.array_equal(to_window(samples[..., :1], 3)[0, 2], to_window(samples, 3)[0, 0])


def make_values(highest: int) -> NDArray[np.float32]:
    """Each sample exactly, each half between two, values beyond the range, and random ones; 1 x 3 x 150 x W."""
    exact = np.arange(highest + 1) / highest
    halves = (np.arange(highest) + 0.5) / highest
    beyond = [-1e30, -8, -1e-9, -0.0, 1 + 1e-6, 9, 1e30]
    values = np.concatenate([exact, halves, beyond]).astype(np.float32)
    rest = np.random.default_rng(0).random(-len(values) % (3 * 150) + 450, dtype=np.float32) * 1.4 - 0.2
    return np.concatenate([values, rest]).reshape(1, 3, 150, -1)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("channels", [3, 1])
def test_values_are_clamped_scaled_and_rounded_to_the_nearest(dtype: type[np.integer], channels: int) -> None:
    highest = np.iinfo(dtype).max
    sr_NCHW = make_values(highest)
    target = np.zeros((150, sr_NCHW.shape[3], channels), dtype)
    HostResult(sr_NCHW).write(target)
    planes = sr_NCHW[0] if channels == 3 else sr_NCHW[0].mean(axis=0, keepdims=True)
    expected = np.rint(np.clip(planes, 0, 1) * np.float32(highest)).transpose(1, 2, 0)
    np.testing.assert_array_equal(target, expected)


def test_a_result_may_lie_in_memory_in_any_order() -> None:
    sr_NCHW = make_values(255)
    plain, turned = (np.zeros((150, sr_NCHW.shape[3], 3), np.uint8) for _ in range(2))
    HostResult(sr_NCHW).write(plain)
    HostResult(np.asfortranarray(sr_NCHW)).write(turned)
    np.testing.assert_array_equal(plain, turned)


class DoublingRunner:
    """Repeats pixels on torch's device, with any I/O type."""

    def __init__(self, dtype: Any, device: str = "cuda:0") -> None:
        self.spec = RunnerSpec("torch", "0", "fp16", device, 2, 3, dtype=dtype)

    def infer_on_device(self, lr: torch.Tensor) -> torch.Tensor:
        name = {torch.float32: "float32", torch.float16: "float16", torch.uint8: "uint8"}[lr.dtype]
        assert name == self.spec.dtype
        axes = (1, 2) if self.spec.layout == "NHWC" else (2, 3)
        return lr.repeat_interleave(2, dim=axes[0]).repeat_interleave(2, dim=axes[1])

    def infer(self, lr: Any) -> Any: ...
    def close(self) -> None: ...
    def __enter__(self) -> Any: ...
    def __exit__(self, *_: object) -> None: ...


@pytest.mark.parametrize("dtype", ["float32", "float16", "uint8"])
@pytest.mark.parametrize("channels", [1, 3])
def test_samples_go_through_every_kind_of_end(gpu: Gpu, dtype: str, channels: int) -> None:
    samples = np.random.default_rng(1).integers(0, 256, (9, 7, channels), np.uint8)
    target = np.empty((18, 14, channels), np.uint8)
    DevicePipeline(DoublingRunner(dtype)).start([samples])[0].write(target)
    assert np.array_equal(target, samples.repeat(2, axis=0).repeat(2, axis=1))


def test_only_gpus_are_devices() -> None:
    samples = np.zeros((2, 2, 3), np.uint8)
    assert not runs_on_device(DoublingRunner("float32", "cpu"), samples)
    assert runs_on_device(DoublingRunner("float16"), samples)
    assert not runs_on_device(DoublingRunner("uint16"), samples)
    assert not runs_on_device(DoublingRunner("float32"), samples.astype(np.uint16))
