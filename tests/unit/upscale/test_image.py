from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from sr_deploy.arch.registry import build_network
from sr_deploy.arch.spec import ArchSpec
from sr_deploy.arch.weights import save_generator
from sr_deploy.errors import BackendError, InputError, ShapeError
from sr_deploy.imaging.codec import bundled_photographs, read_image
from sr_deploy.imaging.convert import to_image, to_nchw
from sr_deploy.model import open_model
from sr_deploy.progress import Progress
from sr_deploy.runners import open_runner
from sr_deploy.runners.base import BaseRunner
from sr_deploy.runners.cost import find_cost
from sr_deploy.runners.protocol import RunnerSpec
from sr_deploy.upscale.backend import choose_backend
from sr_deploy.upscale.image import Upscaler
from sr_deploy.upscale.tiles import plan_tiles, run_tiles

COMPACT = ArchSpec(architecture="compact", scale=2, features=8, blocks=2)
UNSHUFFLED = ArchSpec(architecture="rrdbnet", scale=2, features=8, blocks=1, growth=4)
GRAY = ArchSpec(architecture="compact", scale=4, channels=1, features=4, blocks=1)


@pytest.fixture(scope="module")
def compact(tmp_path_factory: pytest.TempPathFactory, write_network) -> Path:
    return write_network(tmp_path_factory.mktemp("compact") / "compact-3.safetensors", COMPACT)


@pytest.fixture(scope="module")
def upscaler(compact: Path) -> Iterator[Upscaler]:
    with Upscaler(compact, tile=32) as upscaler:
        yield upscaler


@pytest.fixture(scope="module")
def lr() -> NDArray[np.uint8]:
    return read_image(bundled_photographs()["chelsea"])[60:137, 100:191]


class FixedRunner(BaseRunner):
    """Gives the same value everywhere, and counts calls that overlap in time."""

    def __init__(self, value: float, scale: int = 2) -> None:
        super().__init__(RunnerSpec("torch", "0", "fp16", "cpu", scale, 3))
        self.value = value
        self.inside = self.most_inside = 0

    def _infer(self, lr_NCHW: NDArray[np.float32]) -> NDArray[np.float32]:
        self.inside += 1
        self.most_inside = max(self.most_inside, self.inside)
        _, channels, height, width = lr_NCHW.shape
        scale = self.spec.scale
        sr = np.full((1, channels, height * scale, width * scale), self.value, np.float32)
        self.inside -= 1
        return sr

    def _release(self) -> None:
        pass


def test_tiled_equals_the_network(compact: Path, upscaler: Upscaler, lr: NDArray[np.uint8]) -> None:
    network = open_model(compact).load_network()
    with torch.inference_mode():
        expected = to_image(network(torch.from_numpy(to_nchw(lr))).numpy())
    progress: list[Progress] = []
    sr = upscaler(lr, on_progress=progress.append)
    assert sr.shape == (154, 182, 3)
    assert np.abs(sr.astype(int) - expected).max() <= 1  # a value at .5 may fall either way
    assert np.mean(sr != expected) < 1e-3
    assert upscaler.receptive_radius == upscaler.halo == 4  # four 3x3 convolutions
    assert progress == [Progress("upscaling", done, 9, "tiles") for done in range(1, 10)]


@settings(max_examples=15, deadline=None)
@given(height=st.integers(1, 50), width=st.integers(1, 50), tile=st.integers(1, 30))
def test_tiles_of_a_real_runner_equal_the_whole(upscaler: Upscaler, height: int, width: int, tile: int) -> None:
    lr = np.random.default_rng(height * 100 + width).random((1, 3, height, width), np.float32)
    whole = upscaler._runner.infer(lr)
    plan = plan_tiles(height, width, tile=tile, halo=upscaler.halo)
    for piece in run_tiles(upscaler._runner, lr, plan):
        bottom, right = piece.top + piece.sr.shape[2], piece.left + piece.sr.shape[3]
        assert np.abs(piece.sr - whole[:, :, piece.top : bottom, piece.left : right]).max() <= 1e-5


@pytest.mark.parametrize("size", [(1, 1), (1, 50), (50, 1), (2, 3), (33, 47)])
@pytest.mark.parametrize("tile", [None, 8])
def test_odd_sizes_through_a_pixel_unshuffle(
    tmp_path: Path, write_network, size: tuple[int, int], tile: int | None
) -> None:
    lr = np.random.default_rng(3).integers(0, 256, (*size, 3), np.uint8)
    # Untrained, it makes no picture of its input: the guards would say so.
    path = write_network(tmp_path / "net.safetensors", UNSHUFFLED)
    with Upscaler(path, tile=tile, guards=None) as tiled:
        assert tiled.spec.input_multiple == 2
        sr = tiled(lr)
        whole = Upscaler(tiled._runner, tile=0, guards=None)(lr)
    assert sr.shape == (2 * size[0], 2 * size[1], 3)
    assert np.abs(sr.astype(int) - whole).max() <= 1


def test_a_runner_stays_open(compact: Path, lr: NDArray[np.uint8], upscaler: Upscaler) -> None:
    with open_runner(compact, "torch:fp32") as runner:
        with Upscaler(runner) as upscale:
            first = upscale(lr)
        assert np.abs(first.astype(int) - upscaler(lr)).max() <= 1
        runner.infer(to_nchw(lr))
        with pytest.raises(InputError, match="computes with torch:fp32; leave backend='openvino:fp32' out"):
            Upscaler(runner, backend="openvino:fp32")
    own = Upscaler(compact)
    own.close()
    with pytest.raises(BackendError, match="closed"):
        own(lr)


def test_threads_take_turns(lr: NDArray[np.uint8]) -> None:
    runner = FixedRunner(0.5)
    upscale = Upscaler(runner, tile=8, guards=None)
    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(upscale, [lr] * 8))
    assert all((result == 128).all() for result in results)
    assert runner.most_inside == 1


def test_refuses_other_arrays(upscaler: Upscaler, lr: NDArray[np.uint8]) -> None:
    with pytest.raises(ShapeError, match=r"torch:fp32 takes .* H x W x 3 .*, not 77 x 91 of uint8"):
        upscaler(lr[..., 0])
    with pytest.raises(ShapeError, match="of float64"):
        upscaler(lr / 255)
    with pytest.raises(ShapeError, match="at least one pixel"):
        upscaler(lr[:0])
    with pytest.raises(ShapeError, match="tile must be 0 or more pixels, not -4"):
        Upscaler(FixedRunner(0), tile=-4)


def test_backend_is_chosen(compact: Path) -> None:
    model = open_model(compact)
    assert str(choose_backend(model, "torch:bf16")) == "torch:bf16"
    with pytest.raises(InputError, match="unknown backend 'tpu'"):
        choose_backend(model, "tpu")
    if not torch.cuda.is_available():
        assert str(choose_backend(model, "auto")) == "torch:fp32"  # a checkpoint has no graph for others
    with pytest.raises(BackendError, match="openvino:fp32 needs an ONNX graph"):
        Upscaler(compact, backend="openvino")


def test_halo_is_capped(tmp_path: Path, write_network) -> None:
    deep = ArchSpec(architecture="compact", scale=1, features=2, blocks=60)
    path = write_network(tmp_path / "net.safetensors", deep)
    assert find_cost(open_model(path)).receptive_radius == 62
    with Upscaler(path) as upscale:
        assert (upscale.receptive_radius, upscale.halo) == (62, 40)
        plan = upscale.plan(9000, 100)
        assert (plan.halo, plan.blend) == (40, 10)
    with Upscaler(path, halo=62) as upscale:
        plan = upscale.plan(9000, 100)
        assert (plan.halo, plan.blend) == (62, 0)


def test_16_bit_pictures_keep_their_depth(compact: Path, upscaler: Upscaler, lr: NDArray[np.uint8]) -> None:
    fine = lr.astype(np.uint16) * 257 + np.random.default_rng(0).integers(0, 257, lr.shape).astype(np.uint16) % 200
    network = open_model(compact).load_network()
    with torch.inference_mode():
        expected = network(torch.from_numpy((fine / 65535).astype(np.float32).transpose(2, 0, 1)[None]))
    expected = (expected[0].clamp(0, 1) * 65535).round().numpy().transpose(1, 2, 0)
    sr = upscaler(fine)
    assert sr.dtype == np.uint16
    assert np.abs(sr.astype(int) - expected).max() <= 1
    assert len(np.unique(sr % 257)) > 200  # 8-bit values times 257 would all be multiples


def test_gray_goes_through_an_rgb_network(upscaler: Upscaler, lr: NDArray[np.uint8]) -> None:
    gray = lr[..., :1]
    sr = upscaler(gray)
    assert sr.shape == (154, 182, 1)
    mean = upscaler._runner.infer(to_nchw(np.repeat(gray, 3, axis=2))).mean(axis=1, keepdims=True)
    assert np.abs(sr.astype(int) - to_image(mean)).max() <= 1
    with pytest.raises(ShapeError, match="H x W x 3"):
        upscaler(lr[..., :2])


def test_the_report_tells_how(upscaler: Upscaler, lr: NDArray[np.uint8]) -> None:
    upscaled = upscaler.upscale(lr)
    report = upscaled.report
    assert np.array_equal(upscaled.image, upscaler(lr))
    assert (report.tiles, report.window, report.halo, report.blend) == (9, (40, 40), 4, 0)
    assert (report.recomputed, report.halvings, report.tile_limit, report.seam_db) == (0, 0, None, None)
    assert report.seams_kept
    assert report.seconds > 0


def test_seams_of_a_network_that_sees_far_are_measured(tmp_path: Path) -> None:
    """Where the halo is all that is seen, seams would agree to rounding; with less, they agree within the budget."""
    spec = ArchSpec(architecture="compact", scale=2, features=4, blocks=80)
    torch.manual_seed(0)
    network = build_network(spec)
    for module in network.modules():
        if isinstance(module, torch.nn.Conv2d):  # what lies far away must come through eighty layers
            torch.nn.init.orthogonal_(module.weight, gain=1.3)
    path = tmp_path / "deep.safetensors"
    save_generator(path, network.state_dict(), spec)
    picture = np.ascontiguousarray(read_image(bundled_photographs()["coffee"])[:170, :230])
    with Upscaler(path, tile=0, guards=None) as upscale:
        assert upscale.receptive_radius == 82
        whole = upscale(picture)
    reports = {}
    for halo in (4, 16):
        with Upscaler(path, tile=64, halo=halo, guards=None) as upscale:
            upscaled = upscale.upscale(picture)
            reports[halo] = (upscaled.report.seam_db, np.abs(upscaled.image.astype(int) - whole).mean())
            assert upscaled.report.blend == halo // 4
    assert reports[4][0] < 60 < reports[16][0]
    assert reports[16][1] < reports[4][1]
    with Upscaler(path, tile=64, seam_budget_db=200.0, guards=None) as upscale:
        impossible = upscale.upscale(picture).report
        assert impossible.halo == 64
        assert not impossible.seams_kept
    with Upscaler(path, tile=64, seam_budget_db=15.0, guards=None) as upscale:
        easy = upscale.upscale(picture).report
        assert easy.halo < impossible.halo
        assert easy.seams_kept
    with Upscaler(path, tile=64, guards=None) as upscale:
        chosen = upscale.upscale(picture).report.halo
        assert chosen == upscale.halo < 40
        upscale(picture[:30, :30])
        assert upscale.halo == 40  # what a picture needs says nothing about the next one
        assert upscale.upscale(picture).report.halo == chosen
