"""A folder of results that vanishes ends its job at once; what is finished is kept, and counts when it comes back."""

from __future__ import annotations

import shutil

import numpy as np
import pytest

from sr_deploy.errors import PlaceLostError
from sr_deploy.imaging.codec import read_image, write_image
from sr_deploy.runners.base import BaseRunner
from sr_deploy.runners.protocol import RunnerSpec
from sr_deploy.upscale.folder import upscale_folder
from sr_deploy.upscale.image import Upscaler
from sr_deploy.upscale.image_file import FileSettings
from sr_deploy.upscale.output_naming import Item
from sr_deploy.upscale.ray_worker import Worker, WorkerConfig
from sr_deploy.upscale.stream import stream_file

PICTURES = 30
TILES = 16
"""Of each picture."""


class NearestRunner(BaseRunner):
    """Repeats pixels; does something at one of its calls."""

    def __init__(self, at, act):
        super().__init__(RunnerSpec("torch", "0", "fp32", "cpu", 2, 3))
        self.calls, self.at, self.act = 0, at, act

    def _infer(self, lr_NCHW):
        self.calls += 1
        if self.calls == self.at:
            self.act()
        return np.repeat(np.repeat(lr_NCHW, 2, axis=2), 2, axis=3)

    def _release(self):
        pass


@pytest.fixture
def source(tmp_path):
    for number in range(PICTURES):
        samples = np.random.default_rng(number).integers(0, 256, (64, 64, 3), np.uint8)
        write_image(tmp_path / "in" / f"{number % 3}" / f"{number:02}.png", samples)
    return tmp_path / "in"


def remove(folder):
    while folder.exists():  # while others write into it
        shutil.rmtree(folder, ignore_errors=True)


LOSSES = {
    "moved": lambda out: out.rename(out.with_name("elsewhere")),
    "removed": remove,
    "replaced": lambda out: (out.rename(out.with_name("elsewhere")), out.mkdir()),
    "a file now": lambda out: (out.rename(out.with_name("elsewhere")), out.write_text("")),
}


@pytest.mark.parametrize("devices", [1, 2])
@pytest.mark.parametrize("how", LOSSES)
def test_a_folder_that_vanishes_ends_the_job_at_the_next_tile(tmp_path, source, how, devices):
    out = tmp_path / "out"
    losing = NearestRunner(8 * TILES + 3, lambda: LOSSES[how](out))
    others = [NearestRunner(0, None) for _ in range(devices - 1)]
    upscalers = [Upscaler(runner, tile=16, halo=0) for runner in (losing, *others)]
    result = upscale_folder(upscalers, source, out, tile=16)
    assert losing.calls <= 8 * TILES + 3 + 2  # tiles that were on their way
    said = (
        f"the folder {out} was removed, moved or unmounted while results went there; bring it back, or choose another"
    )
    reasons = [failure.reason for failure in result.failures]
    if how == "removed":  # piece by piece: what is written meanwhile may miss the record, or a folder within
        assert 1 <= len(reasons) <= 6
    else:
        assert set(reasons) == {said}
        assert len(reasons) <= 2
    assert len(result.done) + len(result.failures) + len(result.left) == PICTURES
    assert len(result.left) >= PICTURES - 12 * devices - 2
    assert not result.stopped
    assert out.exists() == (how in ("replaced", "a file now"))
    assert how != "replaced" or list(out.iterdir()) == []  # nothing went into the other folder
    if how == "removed":
        return
    if out.is_file():
        out.unlink()
    elif out.exists():
        out.rmdir()
    (tmp_path / "elsewhere").rename(out)
    with Upscaler(NearestRunner(0, None), tile=16, halo=0) as upscaler:
        again = upscale_folder(upscaler, source, out, tile=16)
    assert set(again.skipped) >= {done.target for done in result.done}
    assert len(again.skipped) + len(again.done) == PICTURES
    for path in source.rglob("*.png"):
        expected = np.repeat(np.repeat(read_image(path), 2, axis=0), 2, axis=1)
        assert np.array_equal(read_image(out / path.relative_to(source)), expected)


def test_a_worker_of_a_cluster_makes_no_folder_that_was_there_before(tmp_path, source, write_gentle_network):
    write_gentle_network(tmp_path / "net.safetensors", 6, 1)
    worker = Worker(WorkerConfig(tmp_path / "net.safetensors", backend="torch"), FileSettings(), threads=1)
    item = Item(source / "0" / "00.png", "0/00.png", tmp_path / "out" / "0" / "00.png")
    assert item.folder == tmp_path / "out"
    result = worker.upscale(1, item)
    assert (result.done, result.lost, result.device_failed) == (None, True, False)
    assert result.reason.startswith(f"the folder {tmp_path / 'out'} was removed")
    assert not (tmp_path / "out").exists()
    (tmp_path / "out").mkdir()
    assert worker.upscale(1, item).done is not None


@pytest.mark.parametrize("how", ["moved", "removed"])
def test_a_picture_by_rows_ends_when_its_folder_vanishes(tmp_path, how):
    write_image(tmp_path / "in.png", np.random.default_rng(0).integers(0, 256, (640, 32, 3), np.uint8))
    runner = NearestRunner(20, lambda: LOSSES[how](tmp_path / "out"))
    with Upscaler(runner, tile=16, halo=0) as upscaler, pytest.raises(PlaceLostError, match="out was removed, moved"):
        stream_file(upscaler, tmp_path / "in.png", tmp_path / "out" / "out.png")
    assert runner.calls <= 24  # of 80
    assert not (tmp_path / "out").exists()
    if how == "moved":
        assert not [path for path in (tmp_path / "elsewhere").iterdir() if not path.name.startswith(".")]
