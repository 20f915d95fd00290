from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from sr_deploy.bundle import Profile, Shape
from sr_deploy.errors import BackendError, ShapeError
from sr_deploy.runners.base import BaseRunner
from sr_deploy.runners.protocol import RunnerSpec
from sr_deploy.upscale.plan import TilePlan
from sr_deploy.upscale.tiles import plan_tiles, run_tiles


class NetworkRunner(BaseRunner):
    """A torch module as a runner, which remembers the shapes it saw."""

    def __init__(self, network: torch.nn.Module, scale: int, multiple: int = 1, channels: int = 1) -> None:
        super().__init__(
            RunnerSpec("torch", torch.__version__, "fp32", "cpu", scale, channels, input_multiple=multiple)
        )
        self.network = network.eval().requires_grad_(False)
        self.shapes: list[tuple[int, ...]] = []

    def _infer(self, lr_NCHW: NDArray[np.float32]) -> NDArray[np.float32]:
        self.shapes.append(lr_NCHW.shape)
        sr: NDArray[np.float32] = self.network(torch.from_numpy(lr_NCHW)).numpy()
        return sr

    def _release(self) -> None:
        pass


def make_network(radius: int, scale: int, unshuffle: int = 1) -> torch.nn.Module:
    """Convolutions with zero padding that see `radius` (times `unshuffle`) pixels, as the real networks have them."""
    torch.manual_seed(radius + 10 * scale)
    layers: list[torch.nn.Module] = []
    channels = 1
    if unshuffle > 1:
        layers.append(torch.nn.PixelUnshuffle(unshuffle))
        channels = unshuffle**2
    for _ in range(radius):
        layers += [torch.nn.Conv2d(channels, 6, 3, padding=1), torch.nn.LeakyReLU(0.2)]
        channels = 6
    layers += [torch.nn.Conv2d(channels, (scale * unshuffle) ** 2, 1), torch.nn.PixelShuffle(scale * unshuffle)]
    return torch.nn.Sequential(*layers)


def draw(height: int, width: int, channels: int = 1) -> NDArray[np.float32]:
    return np.random.default_rng(height * 1000 + width).random((1, channels, height, width), np.float32)


def join(runner: NetworkRunner, lr: NDArray[np.float32], plan: TilePlan) -> NDArray[np.float32]:
    """Put the pieces together; every sample must be written exactly once."""
    scale = runner.spec.scale
    sr = np.zeros((1, lr.shape[1], plan.height * scale, plan.width * scale), np.float32)
    times = np.zeros(sr.shape[2:], int)
    for piece in run_tiles(runner, lr, plan):
        place = np.s_[piece.top : piece.top + piece.sr.shape[2], piece.left : piece.left + piece.sr.shape[3]]
        sr[:, :, *place] = piece.sr
        times[place] += 1
    assert (times == 1).all()
    return sr


@settings(max_examples=40, deadline=None)
@given(
    height=st.integers(1, 60),
    width=st.integers(1, 60),
    tile=st.integers(1, 24),
    radius=st.integers(0, 4),
    scale=st.sampled_from([1, 2, 4]),
    extra=st.integers(0, 2),
)
def test_tiles_equal_the_whole(*, height: int, width: int, tile: int, radius: int, scale: int, extra: int) -> None:
    lr = draw(height, width)
    runner = NetworkRunner(make_network(radius, scale), scale)
    whole = runner.infer(lr)
    runner.shapes.clear()
    tiled = join(runner, lr, plan_tiles(height, width, tile=tile, halo=radius + extra))
    assert np.abs(tiled - whole).max() <= 1e-5
    assert len(set(runner.shapes)) == 1


@settings(max_examples=25, deadline=None)
@given(
    height=st.integers(1, 20),
    width=st.integers(1, 20),
    tile=st.integers(1, 24),
    radius=st.integers(0, 2),
    multiple=st.sampled_from([2, 4]),
)
def test_tiles_begin_at_multiples(height: int, width: int, tile: int, radius: int, multiple: int) -> None:
    """A pixel-unshuffle sees another picture when a tile begins at an odd pixel."""
    lr = draw(height * multiple, width * multiple)
    runner = NetworkRunner(make_network(radius, 2, unshuffle=multiple), 2, multiple)
    whole = runner.infer(lr)
    plan = plan_tiles(*lr.shape[2:], tile=tile, halo=(radius + 1) * multiple - 1, multiple=multiple)
    assert np.abs(join(runner, lr, plan) - whole).max() <= 1e-5


@settings(max_examples=40, deadline=None)
@given(
    height=st.integers(1, 3000),
    width=st.integers(1, 3000),
    halo=st.integers(0, 40),
    multiple=st.sampled_from([1, 2, 4]),
)
def test_default_plans_cover_with_a_halo(height: int, width: int, halo: int, multiple: int) -> None:
    plan = plan_tiles(height, width, tile=None, halo=halo, multiple=multiple)
    for side, padded, window, spans in (
        (height, plan.padded_height, plan.window_height, plan.rows),
        (width, plan.padded_width, plan.window_width, plan.columns),
    ):
        assert [spans[0].keep_from, *(span.keep_to for span in spans)] == [*(span.keep_from for span in spans), side]
        assert window % multiple == padded % multiple == 0
        assert window <= 256 + 2 * 40 or plan.count == 1
        for span in spans:
            assert span.start % multiple == 0
            assert span.start + window <= padded
            assert span.start == 0 or span.keep_from - span.start >= halo
            assert span.start + window == padded or span.start + window - span.keep_to >= halo


def test_a_halo_that_is_too_narrow_shows() -> None:
    """The property above would also pass if the network saw nothing."""
    lr = draw(40, 40)
    runner = NetworkRunner(make_network(4, 2), 2)
    narrow = join(runner, lr, plan_tiles(40, 40, tile=10, halo=3))
    assert np.abs(narrow - runner.infer(lr)).max() > 1e-5


@pytest.mark.parametrize(
    ("height", "width", "rows", "columns", "mode"),
    [
        (1, 1, 3, 3, ("edge", "edge")),  # nothing to mirror
        (5, 7, 3, 1, ("reflect", "reflect")),
        (4, 9, 0, 3, ("reflect", "reflect")),
        (3, 2, 1, 2, ("reflect", "edge")),
    ],
)
def test_pads_to_the_multiple_and_crops(
    height: int, width: int, rows: int, columns: int, mode: tuple[str, str]
) -> None:
    lr = draw(height, width)
    runner = NetworkRunner(make_network(1, 2, unshuffle=4), 2, multiple=4)
    padded = np.pad(lr, ((0, 0), (0, 0), (0, rows), (0, 0)), mode=mode[0])  # type: ignore[call-overload]
    padded = np.pad(padded, ((0, 0), (0, 0), (0, 0), (0, columns)), mode=mode[1])
    expected = runner.infer(padded)[:, :, : 2 * height, : 2 * width]
    plan = plan_tiles(height, width, tile=None, halo=7, multiple=4)
    assert np.array_equal(join(runner, lr, plan), expected)
    assert plan.count == 1
    assert plan.halo == 0


def test_the_plan_worked_by_hand() -> None:
    plan = plan_tiles(100, 30, tile=20, halo=8)
    assert (plan.window_height, plan.window_width) == (36, 30)
    starts = [(span.start, span.keep_from, span.keep_to) for span in plan.rows]
    assert starts == [(0, 0, 28), (20, 28, 48), (40, 48, 68), (60, 68, 88), (64, 88, 100)]
    assert [(span.start, span.keep_from, span.keep_to) for span in plan.columns] == [(0, 0, 30)]
    assert plan.count == 5


def test_default_and_whole() -> None:
    assert plan_tiles(307, 307, tile=None, halo=18).count == 1
    assert plan_tiles(308, 308, tile=None, halo=18).count == 4
    large = plan_tiles(1080, 1920, tile=None, halo=18)
    assert (large.window_height, large.window_width, large.count) == (245, 272, 5 * 8)  # 292 at most, but even
    assert large.rows[1].keep_to - large.rows[1].keep_from == 209
    assert large.rows[-1].start == large.rows[-2].start + 208
    assert plan_tiles(1080, 1920, tile=0, halo=18).count == 1
    thin = plan_tiles(1, 200_000, tile=None, halo=18)
    assert (thin.window_height, thin.window_width, thin.count) == (1, 292, 782)


def profile(low: tuple[int, int], high: tuple[int, int], batch: int = 1) -> Profile:
    return Profile(name="p", min=Shape(batch, *low), opt=Shape(batch, *high), max=Shape(4, *high))


def test_windows_fit_the_profile() -> None:
    profiles = (profile((64, 64), (128, 160)),)
    plan = plan_tiles(500, 700, tile=None, halo=18, profiles=profiles)
    assert (plan.window_height, plan.window_width, plan.halo) == (114, 147, 18)
    small = plan_tiles(20, 300, tile=None, halo=18, profiles=profiles)
    assert (small.padded_height, small.window_height, small.window_width) == (64, 64, 124)
    assert plan_tiles(100, 130, tile=None, halo=18, profiles=profiles).count == 1
    with pytest.raises(ShapeError, match=r"\(129x100, HxW\) .* largest profile \(128x160\)"):
        plan_tiles(129, 100, tile=0, halo=18, profiles=profiles)


def test_a_graph_of_one_shape_takes_any_picture() -> None:
    fixed = (Profile(name="fixed", min=Shape(1, 32, 32), opt=Shape(1, 32, 32), max=Shape(1, 32, 32)),)
    runner = NetworkRunner(make_network(2, 2), 2)
    for height, width in ((5, 9), (32, 32), (33, 90), (100, 31)):
        plan = plan_tiles(height, width, tile=None, halo=40, profiles=fixed)
        assert (plan.window_height, plan.window_width) == (32, 32)
        assert plan.halo in (0, 8)  # a quarter of the window: 40 would leave nothing
        tiled = join(runner, draw(height, width), plan)
        whole = runner.infer(draw(height, width))
        if height >= 32 and width >= 32:
            assert np.abs(tiled - whole).max() <= 1e-5
        else:  # mirrored where the graph needs more; equal away from there
            bottom, right = 2 * (height - 2 * (height < 32)), 2 * (width - 2 * (width < 32))
            assert np.abs(tiled - whole)[:, :, :bottom, :right].max() <= 1e-5


def test_the_fitting_profile_is_taken() -> None:
    profiles = (profile((8, 8), (64, 64)), profile((100, 100), (512, 512)), profile((8, 8), (4096, 4096), batch=2))
    assert plan_tiles(50, 60, tile=None, halo=4, profiles=profiles).window_height == 50
    assert plan_tiles(300, 300, tile=None, halo=4, profiles=profiles).window_height == 300
    with pytest.raises(ShapeError, match="takes batches only"):
        plan_tiles(50, 60, tile=None, halo=4, profiles=profiles[2:])


def test_refuses_empty_pictures_and_negative_tiles() -> None:
    with pytest.raises(ShapeError, match="not 0x5"):
        plan_tiles(5, 0, tile=None, halo=1)
    with pytest.raises(ShapeError, match="not -1"):
        plan_tiles(5, 5, tile=-1, halo=1)
    runner = NetworkRunner(make_network(1, 2), 2)
    with pytest.raises(ShapeError, match="planned for 1 x C x 5 x 5, not 1 x 1 x 5 x 6"):
        list(run_tiles(runner, draw(5, 6), plan_tiles(5, 5, tile=None, halo=1)))


class Spoil(torch.nn.Module):
    """Sets one sample of the result if the input holds a one."""

    def forward(self, lr: torch.Tensor) -> torch.Tensor:
        return lr.masked_fill(lr == 1, float("nan"))


def test_values_that_are_not_finite_are_an_error() -> None:
    lr = draw(30, 30) * np.float32(0.9)
    runner = NetworkRunner(Spoil(), 1)
    plan = plan_tiles(30, 30, tile=10, halo=2)
    assert np.array_equal(join(runner, lr, plan), lr)
    lr[0, 0, 25, 3] = 1
    with pytest.raises(BackendError, match=r"not finite .* row 16, column 0.*--backend torch:fp32"):
        list(run_tiles(runner, lr, plan))


def test_a_wrong_output_size_is_an_error() -> None:
    runner = NetworkRunner(make_network(1, 2), scale=4)  # makes twice the size and says four times
    with pytest.raises(BackendError, match="gave 1x1x10x12 for 1x1x5x6 where 1x1x20x24 is due"):
        list(run_tiles(runner, draw(5, 6), plan_tiles(5, 6, tile=None, halo=1)))
