"""A runner that fails at random tiles: nothing is lost, everything is reported."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from sr_deploy.errors import BackendError, GuardError, OutOfMemoryError
from sr_deploy.imaging.codec import bundled_photographs, read_image
from sr_deploy.runners.base import BaseRunner, inference_error
from sr_deploy.runners.protocol import Runner, RunnerSpec
from sr_deploy.upscale.image import Upscaler

Fault = Callable[[int, NDArray[np.float32], NDArray[np.float32]], NDArray[np.float32]]


class FaultyRunner(BaseRunner):
    """A sound runner whose results, or calls, go through `fault(call number, lr, sr)`."""

    def __init__(self, sound: Runner, fault: Fault, precision: str = "fp32") -> None:
        spec = sound.spec
        super().__init__(RunnerSpec("torch", spec.version, precision, "cpu", spec.scale, spec.channels))  # type: ignore[arg-type]
        self.sound = sound
        self.fault = fault
        self.calls = 0

    def _infer(self, lr_NCHW: NDArray[np.float32]) -> NDArray[np.float32]:
        self.calls += 1
        return self.fault(self.calls, lr_NCHW, self.sound.infer(lr_NCHW))

    def _release(self) -> None:
        pass


@pytest.fixture(scope="module")
def picture() -> NDArray[np.uint8]:
    return np.ascontiguousarray(read_image(bundled_photographs()["astronaut"])[:200, 100:330])


@pytest.fixture(scope="module")
def expected(sound: Runner, picture: NDArray[np.uint8]) -> NDArray[np.int64]:
    whole: NDArray[np.int64] = Upscaler(sound, tile=0)(picture).astype(np.int64)
    return whole


def make_upscaler(sound: Runner, fault: Fault, **options: object) -> Upscaler:
    return Upscaler(FaultyRunner(sound, fault), halo=4, **{"tile": 64, **options})  # type: ignore[arg-type]


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e9])
def test_bad_tiles_are_computed_again(
    sound: Runner, picture: NDArray[np.uint8], expected: NDArray[np.int64], value: float
) -> None:
    # A bad tile is computed again after the next one: another fault has to wait for three calls.
    bad = set((np.arange(1, 16, 4) + np.random.default_rng(5).integers(0, 2, 4)).tolist())

    def spoil(call: int, lr: NDArray[np.float32], sr: NDArray[np.float32]) -> NDArray[np.float32]:
        if call in bad:
            bad.discard(call)
            sr = sr.copy()
            sr[0, 0, -20, -20] = value  # in the part that is used of every tile
        return sr

    upscale = make_upscaler(sound, spoil)
    upscaled = upscale.upscale(picture)
    assert bad == set()
    assert upscaled.report.recomputed == 4
    assert np.abs(upscaled.image.astype(int) - expected).max() <= 1
    assert upscale.upscale(picture).report.recomputed == 0  # counted for each picture


def test_fp32_takes_over_from_another_precision(
    path: Path, picture: NDArray[np.uint8], expected: NDArray[np.int64], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The real second runner, opened when it is needed: PyTorch in FP32 beside a BF16 whose tiles are spoilt."""
    with Upscaler(path, backend="torch:bf16", tile=64) as upscale:
        compute = upscale._runner._infer  # type: ignore[attr-defined]
        monkeypatch.setattr(upscale._runner, "_infer", lambda lr: compute(lr) * np.float32("nan"))
        upscaled = upscale.upscale(picture)
        assert upscaled.report.recomputed == upscaled.report.tiles == 12
        assert str(upscale._fp32.spec) == "torch:fp32"  # type: ignore[union-attr]
        assert np.abs(upscaled.image.astype(int) - expected).max() <= 1


def test_a_picture_that_stays_bad_fails(sound: Runner, picture: NDArray[np.uint8]) -> None:
    def break_last(call: int, lr: NDArray[np.float32], sr: NDArray[np.float32]) -> NDArray[np.float32]:
        return sr * 0 if call > 7 else sr

    with pytest.raises(GuardError, match=r"gave .* at row 64, column 158, and torch:fp32 gave"):
        make_upscaler(sound, break_last)(picture)
    half = Upscaler(FaultyRunner(sound, break_last, "fp16"), halo=4, tile=64)
    with pytest.raises(GuardError, match="there is no FP32 to compute it again; try another --backend"):
        half(picture)
    with pytest.raises(GuardError, match="values that are not finite"):
        make_upscaler(sound, lambda call, lr, sr: sr * np.float32("nan"))(picture)


def refuse(lr: NDArray[np.float32]) -> OutOfMemoryError:
    """As torch's allocator says it."""
    spec = RunnerSpec("torch", "0", "fp32", "cpu", 2, 3)
    error = inference_error(spec, lr.shape, RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to"))
    assert isinstance(error, OutOfMemoryError)
    return error


def test_out_of_memory_at_random_tiles_halves_them(
    sound: Runner, picture: NDArray[np.uint8], expected: NDArray[np.int64]
) -> None:
    left = {3, 11}

    def run_out(call: int, lr: NDArray[np.float32], sr: NDArray[np.float32]) -> NDArray[np.float32]:
        if call in left:
            left.discard(call)
            raise refuse(lr)
        return sr

    upscale = make_upscaler(sound, run_out, tile=128)
    upscaled = upscale.upscale(picture)
    assert left == set()
    assert (upscaled.report.halvings, upscaled.report.tile_limit) == (2, 32)
    assert np.abs(upscaled.image.astype(int) - expected).max() <= 1
    again = upscale.upscale(picture).report  # begins where the last one ended
    assert (again.halvings, again.window) == (0, (40, 40))
    assert again.tile_limit == 32


@pytest.mark.parametrize("tile", [0, None, 200])
def test_a_limit_of_memory_is_found_and_remembered(
    sound: Runner, picture: NDArray[np.uint8], expected: NDArray[np.int64], tile: int | None
) -> None:
    def limit(call: int, lr: NDArray[np.float32], sr: NDArray[np.float32]) -> NDArray[np.float32]:
        if lr.shape[2] * lr.shape[3] > 70 * 70:
            raise refuse(lr)
        return sr

    upscale = make_upscaler(sound, limit, tile=tile)
    first = upscale.upscale(picture)
    assert first.report.halvings == 2
    assert np.abs(first.image.astype(int) - expected).max() <= 1
    assert max(upscale.upscale(picture).report.window) <= 70


def test_no_memory_at_all_is_an_error(sound: Runner, picture: NDArray[np.uint8]) -> None:
    def never(call: int, lr: NDArray[np.float32], sr: NDArray[np.float32]) -> NDArray[np.float32]:
        raise refuse(lr)

    upscale = make_upscaler(sound, never)
    with pytest.raises(OutOfMemoryError, match=r"can't allocate memory.*all overlap \(4 pixels"):
        upscale(picture)
    assert upscale._runner.calls == 3  # type: ignore[attr-defined]  # 64, 32, 16


def test_nan_and_no_memory_together(sound: Runner, picture: NDArray[np.uint8], expected: NDArray[np.int64]) -> None:
    rng = np.random.default_rng(11)
    refused: list[int] = []

    def fail(call: int, lr: NDArray[np.float32], sr: NDArray[np.float32]) -> NDArray[np.float32]:
        if len(refused) < 2 and rng.random() < 0.2:
            refused.append(call)
            raise refuse(lr)
        return sr * np.float32("nan") if rng.random() < 0.08 else sr

    upscale = make_upscaler(sound, fail, tile=128)
    finished = failed = 0
    for _ in range(6):
        try:
            upscaled = upscale.upscale(picture)
        except GuardError:
            failed += 1  # twice in a row the same tile: refused by name
        else:
            finished += 1
            assert np.abs(upscaled.image.astype(int) - expected).max() <= 1
    assert len(refused) == 2
    assert finished
    assert finished + failed == 6


@pytest.mark.parametrize(
    ("error", "spent"),
    [
        (MemoryError(), True),
        (RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB"), True),
        (
            RuntimeError("[ONNXRuntimeError] : 6 : RUNTIME_EXCEPTION : Failed to allocate memory for requested buffer"),
            True,
        ),
        (RuntimeError("std::bad_alloc"), True),
        (RuntimeError("[GPU] Could not allocate host memory"), True),
        (torch.OutOfMemoryError("Allocation on device"), True),
        (RuntimeError("shape mismatch"), False),
    ],
)
def test_what_libraries_say_is_understood(error: Exception, spent: bool) -> None:
    told = inference_error(RunnerSpec("torch", "0", "fp32", "cpu", 2, 3), (1, 3, 8, 8), error)
    assert isinstance(told, OutOfMemoryError) is spent
    assert isinstance(told, BackendError)
    assert str(told).startswith("torch:fp32 failed on 1x3x8x8: ")
    assert str(told).rstrip()[-1] != ":"


@pytest.mark.parametrize("backend", ["torch", "onnxruntime", "openvino"])
def test_a_real_backend_says_that_memory_is_spent(backend: str, tmp_path: Path, make_bundle: Any) -> None:
    """In a process that may take little, a window that is too large is an error of ours, and a smaller one goes."""

    pytest.importorskip(backend)
    bundle = make_bundle("compact-x4", tmp_path)
    script = f"""
import resource, numpy as np
from sr_deploy.runners import open_runner
from sr_deploy.errors import OutOfMemoryError
runner = open_runner({str(bundle.path)!r}, "{backend}:fp32", threads=1)
runner.infer(np.zeros((1, 3, 64, 64), np.float32))
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 300 * 2**20, -1))
lr = np.zeros((1, 3, 2048, 2048), np.float32)
try:
    runner.infer(lr)
except OutOfMemoryError as error:
    print("spent", error)
runner.infer(np.zeros((1, 3, 64, 64), np.float32))
print("goes on")
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=100, check=False)
    assert "spent" in done.stdout, done.stderr[-600:]
    assert done.stdout.rstrip().endswith("goes on")
