from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from sr_deploy.arch.spec import ArchSpec
from sr_deploy.errors import ImageError, InputError, OutputError, SrDeployError
from sr_deploy.imaging.codec import bundled_photographs, read_image, write_image
from sr_deploy.imaging.decoded_image import DecodedImage, decode_image, write_decoded
from sr_deploy.imaging.resample import resample
from sr_deploy.runners.base import BaseRunner
from sr_deploy.runners.protocol import RunnerSpec
from sr_deploy.upscale.image import Upscaler
from sr_deploy.upscale.image_file import FileSettings, check_paths, enlarge_image, find_target_size, upscale_file

GRAY = ArchSpec(architecture="compact", scale=4, channels=1, features=4, blocks=1)


class NearestRunner(BaseRunner):
    """Repeats pixels: an upscaler whose result is known; counts the windows it was given."""

    def __init__(self, scale: int = 2, fill: float | None = None) -> None:
        super().__init__(RunnerSpec("torch", "0", "fp32", "cpu", scale, 3))
        self.fill = fill
        self.calls = 0

    def _infer(self, lr_NCHW: NDArray[np.float32]) -> NDArray[np.float32]:
        self.calls += 1
        scale = self.spec.scale
        sr = np.repeat(np.repeat(lr_NCHW, scale, axis=2), scale, axis=3)
        return sr if self.fill is None else np.full_like(sr, self.fill)

    def _release(self) -> None:
        pass


@pytest.fixture
def nearest() -> Iterator[Upscaler]:
    with Upscaler(NearestRunner(), halo=0) as upscaler:
        yield upscaler


@pytest.fixture(scope="module")
def photograph() -> NDArray[np.uint8]:
    return np.ascontiguousarray(read_image(bundled_photographs()["chelsea"])[60:110, 100:171])


def twice(samples: np.ndarray) -> np.ndarray:
    return np.repeat(np.repeat(samples, 2, axis=0), 2, axis=1)


# --- what is kept


@pytest.mark.parametrize("suffix", [".png", ".tif"])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("deep", [False, True])
def test_depth_and_channels_are_kept(
    tmp_path: Path, photograph: NDArray[np.uint8], suffix: str, channels: int, deep: bool
) -> None:
    noise = np.random.default_rng(0).integers(0, 256, photograph.shape)
    source = (photograph.astype(np.uint16) * 256 + noise).astype(np.uint16) if deep else photograph
    pixels = np.ascontiguousarray(source[..., :channels])
    write_decoded(tmp_path / f"in{suffix}", DecodedImage(pixels, dpi=(300, 300)))
    with Upscaler(NearestRunner(), halo=0) as upscaler:
        done = upscale_file(upscaler, tmp_path / f"in{suffix}", tmp_path / f"out{suffix}")
    result = decode_image(tmp_path / f"out{suffix}")
    assert result.pixels.dtype == source.dtype
    assert np.array_equal(result.pixels, twice(pixels))
    assert result.dpi == pytest.approx((300, 300), rel=1e-4)
    assert (done.width, done.height, done.target_width, done.target_height) == (71, 50, 142, 100)
    assert (done.losses, done.recomputed, done.reports[0].tiles) == ((), 0, 1)


@pytest.mark.parametrize("deep", [False, True])
def test_transparency_by_the_network_and_by_bicubic(
    nearest: Upscaler, photograph: NDArray[np.uint8], deep: bool
) -> None:
    alpha = np.zeros(photograph.shape[:2], np.uint8)
    alpha[10:40, 20:60] = 255
    alpha[10:40, 15:20] = 90
    black = np.where(alpha[..., None] > 0, photograph, 0).astype(np.uint8)
    if deep:
        black, alpha = black.astype(np.uint16) * 257, alpha.astype(np.uint16) * 257
    picture = DecodedImage(black, alpha)
    by_network = enlarge_image(nearest, picture, FileSettings())
    assert len(by_network.reports) == 2
    assert np.array_equal(by_network.picture.alpha, twice(alpha))  # type: ignore[arg-type]
    by_bicubic = enlarge_image(nearest, picture, FileSettings(alpha="bicubic"))
    assert len(by_bicubic.reports) == 1
    assert np.array_equal(by_bicubic.picture.alpha, resample(alpha[..., None], 142, 100, "bicubic")[..., 0])  # type: ignore[arg-type]
    for result in (by_network.picture, by_bicubic.picture):
        assert result.pixels.dtype == alpha.dtype
        seen = twice(alpha) > 0
        assert np.array_equal(result.pixels[seen], twice(black)[seen])
        # What lay black beside the visible part has its color now, so that no edge is drawn dark.
        beside = result.pixels[30:70, 28].astype(int)
        assert np.abs(beside - result.pixels[30:70, 31]).mean() < 0.1 * np.iinfo(alpha.dtype).max


def test_opaque_alpha_costs_nothing_and_stays(nearest: Upscaler, photograph: NDArray[np.uint8]) -> None:
    picture = DecodedImage(photograph, np.full(photograph.shape[:2], 255, np.uint8))
    enlarged = enlarge_image(nearest, picture, FileSettings())
    assert len(enlarged.reports) == 1
    assert enlarged.picture.alpha is not None
    assert enlarged.picture.alpha.shape == (100, 142)
    assert (enlarged.picture.alpha == 255).all()


def test_progress_goes_from_0_to_1_over_colors_and_transparency(photograph: NDArray[np.uint8]) -> None:
    alpha = np.ascontiguousarray(photograph[..., 0])
    shares: list[float] = []
    with Upscaler(NearestRunner(), halo=0, tile=25) as upscaler:
        picture = DecodedImage(photograph, alpha)
        enlarge_image(upscaler, picture, FileSettings(), on_progress=lambda now: shares.append(now.done))
    assert shares == sorted(shares)
    assert shares[-1] == 1.0
    assert 0.5 in shares


# --- sizes


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    width=st.integers(1, 40),
    height=st.integers(1, 40),
    scale=st.floats(0.1, 5, allow_nan=False),
    channels=st.sampled_from([1, 3]),
)
def test_any_scale_gives_the_rounded_size(
    nearest: Upscaler, width: int, height: int, scale: float, channels: int
) -> None:
    picture = DecodedImage(np.full((height, width, channels), 77, np.uint8))
    result = enlarge_image(nearest, picture, FileSettings(scale=scale)).picture
    assert result.pixels.shape == (max(1, round(height * scale)), max(1, round(width * scale)), channels)
    assert np.abs(result.pixels.astype(int) - 77).max() <= 1


def test_another_scale_is_the_networks_result_resampled(nearest: Upscaler, photograph: NDArray[np.uint8]) -> None:
    result = enlarge_image(nearest, DecodedImage(photograph), FileSettings(scale=1.5)).picture
    assert np.array_equal(result.pixels, resample(twice(photograph), 106, 75, "lanczos"))
    assert find_target_size(71, 50, 1.5) == (106, 75)  # 106.5: to even, as Python rounds


@pytest.mark.parametrize("scale", [0, -1, float("nan"), float("inf")])
def test_scales_that_are_none(tmp_path: Path, nearest: Upscaler, photograph: NDArray[np.uint8], scale: float) -> None:
    write_image(tmp_path / "in.png", photograph)
    with pytest.raises(InputError, match=r"a scale is a number above 0, as in 2 or 1\.5, not"):
        upscale_file(nearest, tmp_path / "in.png", tmp_path / "out.png", FileSettings(scale=scale))


def test_absurd_results_are_refused_before_the_network_runs(tmp_path: Path, photograph: NDArray[np.uint8]) -> None:
    write_image(tmp_path / "in.png", photograph)
    runner = NearestRunner()
    limits = FileSettings(scale=100, max_pixels=10_000)
    with Upscaler(runner) as upscaler:
        with pytest.raises(ImageError, match=r"7100x5000, 36 megapixels; at most 0\.16 .*max-megapixels"):
            upscale_file(upscaler, tmp_path / "in.png", tmp_path / "out.png", limits)
        with pytest.raises(ImageError, match=r"is 71x50, 0\.0 megapixels; at most 0\.003 are taken"):
            upscale_file(upscaler, tmp_path / "in.png", tmp_path / "out.png", replace(limits, max_pixels=3000))
        write_image(tmp_path / "wide.png", np.zeros((1, 9000, 3), np.uint8))
        with pytest.raises(ImageError, match=r"\.webp holds sides up to 16383, not 18000x2"):
            upscale_file(upscaler, tmp_path / "wide.png", tmp_path / "out.webp")
    assert runner.calls == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.png", "wide.png"]


def test_transparency_into_jpeg_is_refused_before_the_network_runs(
    tmp_path: Path, photograph: NDArray[np.uint8]
) -> None:
    write_decoded(tmp_path / "in.png", DecodedImage(photograph, np.ascontiguousarray(photograph[..., 0])))
    runner = NearestRunner()
    with Upscaler(runner) as upscaler, pytest.raises(ImageError, match="JPEG does not hold; write"):
        upscale_file(upscaler, tmp_path / "in.png", tmp_path / "out.jpg")
    assert runner.calls == 0


# --- what is refused


def test_gray_networks_take_gray_files(tmp_path: Path, photograph: NDArray[np.uint8], write_network) -> None:
    write_network(tmp_path / "gray.safetensors", GRAY)
    write_image(tmp_path / "gray.png", photograph[:20, :30, :1])
    write_image(tmp_path / "rgb.png", photograph[:20, :30])
    with Upscaler(tmp_path / "gray.safetensors", guards=None) as upscaler:
        done = upscale_file(upscaler, tmp_path / "gray.png", tmp_path / "out.png")
        assert (done.width, done.height, done.target_width, done.reports[0].tiles) == (30, 20, 120, 1)
        with pytest.raises(ImageError, match="is an RGB picture, but the network takes gray ones"):
            upscale_file(upscaler, tmp_path / "rgb.png", tmp_path / "other.png")
    assert read_image(tmp_path / "out.png", channels=1).shape == (80, 120, 1)
    assert not (tmp_path / "other.png").exists()


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf"), 0.5])
def test_nothing_is_written_when_the_result_is_no_picture(
    tmp_path: Path, photograph: NDArray[np.uint8], value: float
) -> None:
    write_image(tmp_path / "in.png", photograph)
    with pytest.raises(SrDeployError):
        upscale_file(Upscaler(NearestRunner(fill=value)), tmp_path / "in.png", tmp_path / "new" / "out.png")
    assert [path.name for path in tmp_path.iterdir()] == ["in.png"]


def test_paths_are_checked_first(tmp_path: Path, photograph: NDArray[np.uint8]) -> None:
    source = tmp_path / "in.png"
    write_image(source, photograph)
    (tmp_path / "link.png").symlink_to(source)
    (tmp_path / "file").write_text("x")
    (tmp_path / "folder.png").mkdir()
    check_paths(source, tmp_path / "new" / "deep" / "out.png")
    for target, error, message in (
        (source, InputError, "is the picture to read; give another name"),
        (tmp_path / "link.png", InputError, "is the picture to read"),
        (tmp_path / "out.bmp", ImageError, r"unknown suffix '\.bmp'"),
        (tmp_path / "folder.png", OutputError, "a folder stands where a file is needed"),
        (tmp_path / "file" / "out.png", OutputError, "a file stands where a folder is needed"),
    ):
        with pytest.raises(error, match=message):
            check_paths(source, target)
    with pytest.raises(ImageError, match="does not exist; give a picture"):
        check_paths(tmp_path / "none.png", tmp_path / "out.png")
    assert not (tmp_path / "new").exists()


@pytest.mark.skipif(
    "SR_DEPLOY_DATA" not in os.environ, reason="SR_DEPLOY_DATA does not name the folder with photographs"
)
@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("00017_gray.png", (1, False, False)),
        ("wolf_gray.jpg", (1, False, False)),
        ("children-alpha.png", (3, False, True)),
        ("tree_alpha_16bit.png", (3, True, True)),
        ("0014.jpg", (3, False, False)),
    ],
)
def test_real_photographs_keep_their_kind(
    tmp_path: Path, nearest: Upscaler, name: str, kind: tuple[int, bool, bool]
) -> None:
    channels, deep, has_alpha = kind
    source = Path(os.environ["SR_DEPLOY_DATA"]) / "real" / name
    before = decode_image(source)
    done = upscale_file(nearest, source, tmp_path / name)
    after = decode_image(tmp_path / name)
    assert after.pixels.shape == (2 * before.height, 2 * before.width, channels)
    assert after.pixels.dtype == (np.uint16 if deep else np.uint8)
    assert (after.alpha is not None) == has_alpha
    assert (after.icc, done.losses) == (before.icc, ())
    if after.alpha is not None and before.alpha is not None:
        assert np.array_equal(after.alpha, twice(before.alpha))
        seen = after.alpha > 0
        assert np.array_equal(after.pixels[seen], twice(before.pixels)[seen])


def test_the_example_of_the_docs_runs(
    tmp_path: Path,
    photograph: NDArray[np.uint8],
    write_gentle_network,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    write_gentle_network(tmp_path / "deployments" / "demo" / "generator.safetensors", 4, 1)
    write_image(tmp_path / "photo.jpg", photograph)
    write_image(tmp_path / "holiday" / "a.png", photograph)
    monkeypatch.chdir(tmp_path)
    page = (Path(__file__).parents[3] / "docs" / "upscaling.md").read_text(encoding="utf-8")
    block = page.split("```python\n")[1].split("```")[0]
    exec(compile(block, "docs/upscaling.md", "exec"), {})
    printed = capsys.readouterr().out.splitlines()
    assert printed[0] == "213 150 ()"
    assert printed[1] == "142 100 ()"
    assert printed[2] == "1 0 []"
    assert printed[3].startswith("(150, 213, 3) uint8 False (72")
