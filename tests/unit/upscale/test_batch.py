"""Several windows through a network at once: the same results, each looked at by itself, fewer when memory runs out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from sr_deploy.bundle import parse_profile
from sr_deploy.errors import GuardError, OutOfMemoryError, ShapeError
from sr_deploy.imaging.codec import bundled_photographs, read_image
from sr_deploy.progress import Progress
from sr_deploy.runners import open_runner
from sr_deploy.runners.base import BaseRunner
from sr_deploy.runners.protocol import Runner, RunnerSpec
from sr_deploy.upscale.batch import choose_batch, describe_batch, find_max_batch, measure_batch
from sr_deploy.upscale.device import DeviceResult
from sr_deploy.upscale.folder_job import hash_config
from sr_deploy.upscale.image import Upscaler
from sr_deploy.upscale.image_file import FileSettings
from sr_deploy.upscale.inference import Network
from sr_deploy.upscale.plan import Cut
from tests.unit.gpu.streams import Gpu
from tests.unit.gpu.tensors import torch_cuda


class WatchedRunner(BaseRunner):
    """A sound runner that notes batches; the windows of `bad`, counted from 0, come out as NaN."""

    def __init__(
        self, sound: Runner, bad: set[int] | None = None, max_pixels: int | None = None, precision: Any = "fp32"
    ) -> None:
        spec = sound.spec
        super().__init__(RunnerSpec("torch", spec.version, precision, "cpu", spec.scale, spec.channels))
        self.sound = sound
        self.bad = bad or set()
        self.max_pixels = max_pixels
        self.batches: list[int] = []

    def _infer(self, lr_NCHW: NDArray[np.float32]) -> NDArray[np.float32]:
        if self.max_pixels is not None and lr_NCHW[:, 0].size > self.max_pixels:
            raise OutOfMemoryError(f"no memory for {lr_NCHW.shape}")
        begun = sum(self.batches)
        self.batches.append(len(lr_NCHW))
        sr = self.sound.infer(lr_NCHW)
        for index in range(len(lr_NCHW)):
            if begun + index in self.bad:
                sr[index] = np.nan
        return sr

    def _release(self) -> None:
        pass


@pytest.fixture(scope="module")
def picture() -> NDArray[np.uint8]:
    return np.ascontiguousarray(read_image(bundled_photographs()["astronaut"])[:100, 100:230])


@pytest.fixture(scope="module")
def expected(sound: Runner, picture: NDArray[np.uint8]) -> NDArray[np.int64]:
    return Upscaler(sound, tile=0)(picture).astype(np.int64)


def upscaler_of(runner: Runner, batch: int | None, **options: Any) -> Upscaler:
    return Upscaler(runner, tile=32, halo=4, batch=batch, **options)


@pytest.mark.parametrize("batch", [2, 4, 7, 100])
def test_batches_give_what_single_tiles_give(
    sound: Runner, picture: NDArray[np.uint8], expected: NDArray[np.int64], batch: int
) -> None:
    runner, seen = WatchedRunner(sound), []
    upscaled = upscaler_of(runner, batch).upscale(picture, on_progress=seen.append)
    assert np.abs(upscaled.image.astype(int) - expected).max() <= 1
    tiles = upscaled.report.tiles
    assert tiles == 12
    assert upscaled.report.batch == min(batch, tiles)
    assert runner.batches == [batch] * (tiles // batch) + [tiles % batch] * (tiles % batch > 0)
    assert seen == [Progress("upscaling", number, tiles, "tiles") for number in range(1, tiles + 1)]


def test_a_cpu_takes_tiles_one_by_one_unless_asked(sound: Runner, picture: NDArray[np.uint8]) -> None:
    runner = WatchedRunner(sound)
    assert upscaler_of(runner, None).upscale(picture).report.batch == 1
    assert set(runner.batches) == {1}
    with pytest.raises(ShapeError, match="batch must be 1 or more tiles, not 0"):
        upscaler_of(runner, 0)


@pytest.mark.parametrize("backend", ["torch", "onnxruntime", "openvino"])
def test_real_backends_agree_with_themselves(
    backend: str, make_bundle: Any, tmp_path: Path, picture: NDArray[np.uint8]
) -> None:
    pytest.importorskip(backend)
    bundle = make_bundle("compact-x4", tmp_path)
    with open_runner(bundle.path, f"{backend}:fp32") as runner:
        lr = np.random.default_rng(0).random((3, 3, 24, 40), np.float32)
        one_by_one = np.concatenate([runner.infer(one[None]) for one in lr])
        assert np.abs(runner.infer(lr) - one_by_one).max() <= 1e-5
        single, batched = (upscaler_of(runner, batch)(picture).astype(int) for batch in (1, 3))
        assert np.abs(single - batched).max() <= 1


def test_guards_look_at_each_window_and_mend_it_alone(
    sound: Runner, picture: NDArray[np.uint8], expected: NDArray[np.int64]
) -> None:
    runner = WatchedRunner(sound, bad={1, 2, 11})
    upscaled = upscaler_of(runner, 4).upscale(picture)
    assert upscaled.report.recomputed == 3
    assert np.abs(upscaled.image.astype(int) - expected).max() <= 1
    assert sorted(runner.batches) == [1, 1, 1, 4, 4, 4]
    with pytest.raises(GuardError, match="not finite in the tile at row 32, column 32, and there"):
        upscaler_of(WatchedRunner(sound, bad={5}, precision="fp16"), 4)(picture)


def test_blended_tiles_come_in_order_whatever_a_guard_says(sound: Runner, picture: NDArray[np.uint8]) -> None:
    """A blend takes the strip of the neighbor before: a tile that overtakes another would show."""
    expected, spoilt = (
        Upscaler(WatchedRunner(sound, bad), tile=32, batch=batch).upscale(picture)
        for bad, batch in ((set(), 1), ({2, 4}, 3))
    )
    assert expected.report.blend > 0
    assert spoilt.report.recomputed == 2
    assert min(expected.report.seam_db or 0, spoilt.report.seam_db or 0) > 60
    assert np.abs(spoilt.image.astype(int) - expected.image).max() <= 1


def test_memory_that_runs_out_halves_the_batch_and_only_then_the_tile(
    sound: Runner, picture: NDArray[np.uint8], expected: NDArray[np.int64]
) -> None:
    upscale = upscaler_of(WatchedRunner(sound, max_pixels=2 * 40 * 40), 8)
    first = upscale.upscale(picture)
    assert (first.report.batch_halvings, first.report.halvings) == (2, 0)
    assert np.abs(first.image.astype(int) - expected).max() <= 1
    again = upscale.upscale(picture).report  # begins where the last one ended
    assert (again.batch, again.batch_halvings) == (2, 0)
    small = upscaler_of(WatchedRunner(sound, max_pixels=30 * 30), 4).upscale(picture)
    assert (small.report.batch_halvings, small.report.halvings, small.report.tile_limit) == (2, 1, 16)
    assert np.abs(small.image.astype(int) - expected).max() <= 1


@pytest.mark.parametrize("batch", [1, 5])
@pytest.mark.parametrize("channels", [1, 3])
def test_a_gpu_gives_the_same_as_the_cpu(
    path: Path, picture: NDArray[np.uint8], monkeypatch: pytest.MonkeyPatch, batch: int, channels: int
) -> None:
    """PyTorch's runner, CUDA graphs and the pipeline on a simulated GPU, on which work is done late."""
    lr = picture[:, :, :channels]
    with Upscaler(path, backend="torch:fp32", device="cpu", tile=32, batch=batch) as upscale:
        expected = upscale.upscale(lr)
    with torch_cuda(Gpu()) as gpu:
        with Upscaler(path, backend="torch:fp32", device="cuda:0", tile=32, batch=batch) as upscale:
            assert isinstance(upscale._network.start([lr[:40, :40]])[0], DeviceResult)
            upscaled = upscale.upscale(lr)
            assert np.abs(upscaled.image.astype(int) - expected.image).max() <= 1
            assert (upscaled.report.tiles, upscaled.report.recomputed, upscaled.report.blend) == (12, 0, 0)
            compute, calls = upscale._runner.infer_on_device, []  # type: ignore[attr-defined]

            def spoil(window: torch.Tensor) -> torch.Tensor:
                calls.append(len(window))
                sr = compute(window)
                return sr * float("nan") if len(calls) == 2 else sr

            monkeypatch.setattr(upscale._runner, "infer_on_device", spoil)
            mended = upscale.upscale(lr)
        gpu.finish()
    assert mended.report.recomputed == calls[1] == batch
    assert np.abs(mended.image.astype(int) - expected.image).max() <= 1


def test_pictures_of_one_size_go_together(sound: Runner, picture: NDArray[np.uint8]) -> None:
    pictures = [np.roll(picture[:20, :30], number, axis=1) for number in range(5)]
    runner, seen = WatchedRunner(sound, bad={1}), []
    upscale = upscaler_of(runner, 3)
    batch_size = upscale.upscale_many(pictures, on_progress=seen.append)
    assert sorted(runner.batches) == [1, 2, 3]
    assert seen == [Progress("upscaling", number, 5, "pictures") for number in range(1, 6)]
    for one, lr in zip(batch_size, pictures, strict=True):
        assert np.abs(one.astype(int) - Upscaler(sound)(lr)).max() <= 1
    assert upscale.upscale_many([]) == []
    with pytest.raises(ShapeError, match="are of one shape and type"):
        upscale.upscale_many([picture, picture[1:]])
    large = upscale.upscale_many([picture, picture])  # in tiles, one picture after the other
    assert np.array_equal(large[0], large[1])
    assert np.array_equal(large[0], upscale(picture))


def test_frames_keep_the_batch_that_was_frozen(sound: Runner, picture: NDArray[np.uint8]) -> None:
    small = picture[:20, :30]
    upscale = upscaler_of(WatchedRunner(sound), 3)
    assert upscale.count_batch(20, 30) == 1
    assert upscale.freeze(small).batch == 3
    assert (upscale.count_batch(20, 30), upscale.count_batch(100, 130)) == (3, 1)
    assert upscale.upscale(picture).report.batch == 3
    other = upscaler_of(WatchedRunner(sound), None)
    other.freeze(small, Cut(tile=32, halo=4, batch=5))
    assert other.count_batch(20, 30) == 5


@pytest.mark.parametrize(
    ("milliseconds", "most", "batch", "timed"),
    [
        ({1: 10, 2: 19.9, 4: 30, 8: 60}, None, 1, [1, 2]),  # half a percent is no reason
        ({1: 10, 2: 16, 4: 28, 8: 55}, None, 4, [1, 2, 4, 8]),
        ({1: 10, 2: 11, 4: 13, 8: 17}, None, 8, [1, 2, 4, 8]),
        ({1: 10, 2: 11, 4: 13, 8: 17}, 5, 4, [1, 2, 4]),
        ({1: 10, 2: 11, 4: 13}, None, 4, [1, 2, 4, 8]),  # no memory for 8
        ({}, None, 1, [1]),
    ],
)
def test_the_smallest_batch_near_the_best_is_taken(
    milliseconds: dict[int, float], most: int | None, batch: int, timed: list[int]
) -> None:
    asked = []

    def time_call(size: int) -> float:
        asked.append(size)
        if size not in milliseconds:
            raise OutOfMemoryError("spent")
        return milliseconds[size]

    assert measure_batch(time_call, most) == batch
    assert asked == timed


def test_a_batch_is_measured_with_the_runner_itself_and_once(sound: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    runner, window = WatchedRunner(sound, max_pixels=3 * 8 * 8), np.zeros((8, 8, 1), np.uint8)

    def choose(to_come: int = 64, limit: int | None = None) -> int:
        network = Network(runner, lambda: None, None)
        return choose_batch(network, window, asked=None, to_come=to_come, limits=(None, limit))

    assert choose() == 1  # on a CPU
    monkeypatch.setattr("sr_deploy.upscale.batch.runs_on_device", lambda *_: True)
    assert choose(to_come=63) == 1
    assert runner.batches == []
    measured = choose()
    assert measured in (1, 2)
    assert set(runner.batches) == {1, 2}
    calls = len(runner.batches)
    assert choose(to_come=1) == measured
    assert choose(limit=1) == 1
    assert len(runner.batches) == calls


def test_profiles_bound_a_batch(sound: Runner) -> None:
    profiles = (parse_profile("tile=1x16x16,1x32x32,4x64x64"), parse_profile("many=8x16x16,8x16x16,8x16x16"))
    assert find_max_batch(profiles, 32, 32) == 4
    assert find_max_batch(profiles, 16, 16) == 4  # a rest of fewer than 8 must go too
    assert find_max_batch(profiles, 65, 16) == 1
    assert find_max_batch((), 65, 16) is None


def test_only_a_batch_that_changes_bytes_is_told() -> None:
    assert describe_batch(None, "cpu") == describe_batch(1, "cpu") == describe_batch(None, "cuda:0") == ()
    assert describe_batch(4, "cpu") == (4,)
    assert describe_batch(1, "cuda:0") == (1,)
    spec, settings = RunnerSpec("torch", "0", "fp32", "cpu", 2, 3), FileSettings()
    made = [hash_config(spec, settings, 64, batch) for batch in (None, 1, 2, 3)]
    assert made[0] == made[1] == hash_config(spec, settings, 64)
    assert len(set(made)) == 3
