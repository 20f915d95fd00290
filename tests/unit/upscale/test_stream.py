"""Pictures upscaled row by row: the same files as whole ones, in memory that does not grow with the picture."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from sr_deploy.arch.spec import ArchSpec
from sr_deploy.errors import GuardError, ImageError, InputError, SrDeployError
from sr_deploy.imaging.codec import bundled_photographs, read_image
from sr_deploy.imaging.decoded_image import DecodedImage, write_decoded
from sr_deploy.imaging.opening import Pixels
from sr_deploy.runners.base import BaseRunner
from sr_deploy.runners.protocol import RunnerSpec
from sr_deploy.upscale.image import Upscaler
from sr_deploy.upscale.image_file import FileSettings, upscale_file
from sr_deploy.upscale.rows import InputRows
from sr_deploy.upscale.stream import stream_file

SPECS = {
    "compact-x4": ArchSpec(architecture="compact", scale=4, features=5, blocks=3),
    "rrdbnet-x2": ArchSpec(architecture="rrdbnet", scale=2, channels=1, features=4, blocks=1, growth=2),  # unshuffles
    "rrdbnet-x4": ArchSpec(architecture="rrdbnet", scale=4, features=4, blocks=2, growth=2),  # sees beyond 40: blended
}


class BadRunner(BaseRunner):
    """Repeats pixels, but gives a flat color from the second row of tiles on."""

    def __init__(self) -> None:
        super().__init__(RunnerSpec("torch", "0", "fp32", "cpu", 2, 3))
        self.calls = 0

    def _infer(self, lr_NCHW: NDArray[np.float32]) -> NDArray[np.float32]:
        self.calls += 1
        sr = np.repeat(np.repeat(lr_NCHW, 2, axis=2), 2, axis=3)
        return sr if self.calls < 4 else np.zeros_like(sr)

    def _release(self) -> None:
        pass


@pytest.fixture(scope="module")
def upscalers(tmp_path_factory: pytest.TempPathFactory, write_network) -> dict[str, Upscaler]:
    folder = tmp_path_factory.mktemp("networks")
    opened = {}
    for name, spec in SPECS.items():
        path = write_network(folder / f"{name}.safetensors", spec, seed=5, gain=0.5)
        opened[name] = Upscaler(path, backend="torch", tile=24, guards=None)
    return opened


@pytest.fixture(scope="module")
def photograph() -> NDArray[np.uint8]:
    return np.ascontiguousarray(read_image(bundled_photographs()["chelsea"])[:300, 100:161])


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    name=st.sampled_from(sorted(SPECS)),
    size=st.tuples(st.integers(1, 120), st.integers(1, 50)),
    strip=st.integers(1, 60),
)
def test_rows_are_those_of_the_whole_picture(
    upscalers: dict[str, Upscaler],
    photograph: NDArray[np.uint8],
    name: str,
    size: tuple[int, int],
    strip: int,
) -> None:
    height, width = size
    upscaler = upscalers[name]
    image: Pixels = np.ascontiguousarray(photograph[:height, :width, : upscaler.spec.channels])
    expected = upscaler.upscale(image)  # chooses the halo, where there is a choice
    parts: list[Pixels] = []
    strips = (image[top : top + strip] for top in range(0, height, strip))
    report = upscaler.upscale_rows(InputRows(image.shape, image.dtype, strips), parts.append)
    assert (report.tiles, report.halo, report.blend) == (
        expected.report.tiles,
        expected.report.halo,
        expected.report.blend,
    )
    assert np.array_equal(np.concatenate(parts), expected.image)
    if report.tiles > 1 and height > report.window[0]:
        assert len(parts) > 1
        assert max(len(part) for part in parts) < len(expected.image)


@pytest.mark.parametrize(
    ("target", "transparency"),
    [(f"out{suffix}", kind) for suffix in (".tif", ".png") for kind in ("none", "opaque", "cut out")]
    + [("out.jpg", "none")],
)
@pytest.mark.parametrize("deep", [False, True])
def test_files_are_those_of_upscale_file(
    tmp_path: Path,
    upscalers: dict[str, Upscaler],
    target: str,
    transparency: str,
    deep: bool,
) -> None:
    photograph = read_image(bundled_photographs()["chelsea"])[:300, 100:130]
    pixels: Pixels = photograph.astype(np.uint16) * 257 if deep else np.ascontiguousarray(photograph)
    alpha = None if transparency == "none" else np.full(pixels.shape[:2], 255, pixels.dtype)
    if alpha is not None and transparency == "cut out":
        alpha[40:, 5:20] = 0
    write_decoded(tmp_path / "in.png", DecodedImage(pixels, alpha, dpi=(300, 200)))
    upscaler = upscalers["compact-x4"]
    shares: list[float] = []
    whole = upscale_file(upscaler, tmp_path / "in.png", tmp_path / f"whole-{target}")
    done = stream_file(
        upscaler, tmp_path / "in.png", tmp_path / target, on_progress=lambda now: shares.append(now.done)
    )
    assert (tmp_path / target).read_bytes() == (tmp_path / f"whole-{target}").read_bytes()
    assert len(done.reports) == len(whole.reports) == (2 if transparency == "cut out" else 1)
    assert (done.width, done.height, done.target_width, done.target_height) == (30, 300, 120, 1200)
    assert done.losses == whole.losses
    assert shares == sorted(shares)
    assert shares[-1] == 1.0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.png", target, f"whole-{target}"]


def test_what_streams_do_not_do_is_refused_by_name(
    tmp_path: Path, upscalers: dict[str, Upscaler], photograph: NDArray[np.uint8]
) -> None:
    write_decoded(tmp_path / "in.png", DecodedImage(photograph))
    write_decoded(tmp_path / "clear.png", DecodedImage(photograph, np.ascontiguousarray(photograph[..., 0])))
    Image.fromarray(photograph).save(tmp_path / "slow.jpg", progressive=True)
    before = sorted(tmp_path.iterdir())
    plain = FileSettings()
    refused: tuple[tuple[str, str, FileSettings, type[SrDeployError], str], ...] = (
        ("in.png", "out.webp", plain, ImageError, "row by row: WebP is encoded whole"),
        ("in.png", "in.png", plain, InputError, "is the picture to read"),
        ("in.png", "out.tif", FileSettings(scale=3), InputError, "network's own scale, 4, not 3; leave --scale or"),
        ("in.png", "out.tif", FileSettings(max_pixels=9), ImageError, "megapixels; at most .* are taken"),
        ("clear.png", "out.jpg", plain, ImageError, "JPEG does not hold"),
        ("clear.png", "out.tif", FileSettings(alpha="bicubic"), InputError, "--stream does not interpolate transpar"),
        ("slow.jpg", "out.tif", plain, ImageError, r"slow.jpg is interlaced \(progressive\).* leave --stream out"),
    )
    for source, target, wanted, error, message in refused:
        with pytest.raises(error, match=message):
            stream_file(upscalers["compact-x4"], tmp_path / source, tmp_path / target, wanted)
    assert sorted(tmp_path.iterdir()) == before


def test_a_guard_that_objects_midway_leaves_nothing(tmp_path: Path, photograph: NDArray[np.uint8]) -> None:
    write_decoded(tmp_path / "in.png", DecodedImage(photograph))
    runner = BadRunner()
    with Upscaler(runner, halo=0, tile=40) as upscaler, pytest.raises(GuardError, match=r"row 40, column 21"):
        stream_file(upscaler, tmp_path / "in.png", tmp_path / "out.png")
    assert [path.name for path in tmp_path.iterdir()] == ["in.png"]


MEASURE = """
import json, sys
from pathlib import Path
import numpy as np
from sr_deploy.measure.timer import resident_mib
from sr_deploy.runners.base import BaseRunner
from sr_deploy.runners.protocol import RunnerSpec
from sr_deploy.upscale.image_file import upscale_file
from sr_deploy.upscale.image import Upscaler
from sr_deploy.upscale.stream import stream_file

class NearestRunner(BaseRunner):
    def _infer(self, lr_NCHW):
        return np.repeat(np.repeat(lr_NCHW, 2, axis=2), 2, axis=3)
    def _release(self):
        pass

folder, grown = Path(sys.argv[1]), {}
with Upscaler(NearestRunner(RunnerSpec("torch", "0", "fp32", "cpu", 2, 3)), halo=4, tile=64) as upscaler:
    for suffix in (".png", ".tif", ".jpg"):
        for name, upscale in (("stream", stream_file), ("whole", upscale_file)):
            upscale(upscaler, folder / f"short{suffix}", folder / f"short-{name}{suffix}")
            Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
            before = resident_mib("now")
            upscale(upscaler, folder / f"tall{suffix}", folder / f"tall-{name}{suffix}")
            grown[name + suffix] = resident_mib("peak") - before
print(json.dumps(grown))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="peak memory is read as Linux counts it")
def test_memory_does_not_grow_with_the_picture(tmp_path: Path, photograph: NDArray[np.uint8]) -> None:
    wide = np.tile(photograph, (1, 5, 1))
    for suffix in (".png", ".tif", ".jpg"):
        write_decoded(tmp_path / f"short{suffix}", DecodedImage(np.tile(wide, (2, 1, 1))))
        write_decoded(tmp_path / f"tall{suffix}", DecodedImage(np.tile(wide, (40, 1, 1))))  # 12000 x 305
    words = [sys.executable, "-c", MEASURE, str(tmp_path)]
    grown = json.loads(subprocess.run(words, check=True, capture_output=True, text=True).stdout)
    decoded_output = 2 * 12000 * 2 * 305 * 3 / 2**20
    for suffix in (".png", ".tif", ".jpg"):
        assert grown[f"whole{suffix}"] > decoded_output
        assert grown[f"stream{suffix}"] < decoded_output / 4
        assert (tmp_path / f"tall-stream{suffix}").read_bytes() == (tmp_path / f"tall-whole{suffix}").read_bytes()
