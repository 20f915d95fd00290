"""Jobs over a folder in which something goes wrong, or that are stopped."""

from __future__ import annotations

import os
import subprocess
import threading
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from sr_deploy.errors import InputError, OutputError
from sr_deploy.files import sha256_of
from sr_deploy.imaging.codec import read_image, write_image
from sr_deploy.upscale.folder import upscale_folder
from sr_deploy.upscale.image import Upscaler
from sr_deploy.upscale.output_naming import plan_folder
from tests.unit.upscale.folders import NearestRunner, counts, names


def test_bad_files_are_reported_and_the_others_done(
    tmp_path: Path, upscaler: Upscaler, source: Path, photograph: NDArray[np.uint8]
) -> None:
    (source / "0-broken.png").write_bytes((source / "a.png").read_bytes()[:200])
    (source / "c-empty.jpg").write_bytes(b"")
    (source / "z.gif").write_text("no picture")
    result = upscale_folder(upscaler, source, tmp_path / "out")
    assert counts(result) == (4, 0, 3, 0)
    reasons = {failure.source.name: failure.reason for failure in result.failures}
    assert "0-broken.png is a damaged or incomplete PNG file" in reasons["0-broken.png"]
    assert "c-empty.jpg is empty" in reasons["c-empty.jpg"]
    assert "z.gif is not a picture that can be read" in reasons["z.gif"]
    assert names(tmp_path / "out") == ["a.png", "b.jpg", "deep/d.webp", "deep/er/c.tif"]
    write_image(source / "0-broken.png", photograph)
    assert counts(upscale_folder(upscaler, source, tmp_path / "out")) == (1, 4, 2, 0)


@pytest.mark.parametrize("apart", [True, False])
def test_results_that_differ_in_capitals_never_become_one_file(
    tmp_path: Path, upscaler: Upscaler, photograph: NDArray[np.uint8], monkeypatch: pytest.MonkeyPatch, apart: bool
) -> None:
    for name in ("IMG.png", "img.png", "other.jpg", "OTHER.tif", "e\u0301.png", "\u00e9.png"):
        write_image(tmp_path / "in" / name, photograph)
    if len(list((tmp_path / "in").iterdir())) < 6:
        pytest.skip("this file system does not tell these names apart")
    monkeypatch.setattr("sr_deploy.upscale.output_naming.tells_capitals_apart", lambda _folder: apart)
    result = upscale_folder(upscaler, tmp_path / "in", tmp_path / "out", suffix=".png")
    # A name whose ending changes gets the whole old one, so that the results can be copied to where it would matter.
    written = {"IMG.png", "img.png", "other.jpg.png", "OTHER.tif.png", "e\u0301.png", "\u00e9.png"}
    assert {path.name for path in (tmp_path / "out").glob("*.png")} == written - (
        set() if apart else {"img.png", "\u00e9.png"}
    )
    assert {failure.source.name for failure in result.failures} == (set() if apart else {"img.png", "\u00e9.png"})
    assert all("another picture becomes" in failure.reason for failure in result.failures)


def test_a_name_that_is_too_long_with_its_new_ending_costs_no_other_picture(
    tmp_path: Path, upscaler: Upscaler, photograph: NDArray[np.uint8]
) -> None:
    longest = "n" * 251 + ".png"
    for name in ("a.png", longest, "z.png"):
        write_image(tmp_path / "in" / name, photograph)
    result = upscale_folder(upscaler, tmp_path / "in", tmp_path / "out", suffix=".webp")
    assert counts(result) == (2, 0, 1, 0)
    assert "the name is too long for the file system" in result.failures[0].reason
    assert counts(upscale_folder(upscaler, tmp_path / "in", tmp_path / "out2")) == (3, 0, 0, 0)


def test_a_source_that_changes_while_it_is_read_is_not_recorded(
    tmp_path: Path, upscaler: Upscaler, source: Path, photograph: NDArray[np.uint8], monkeypatch: pytest.MonkeyPatch
) -> None:
    def change_and_hash(path: Path) -> str:
        if path.name == "a.png":
            write_image(path, np.concatenate([photograph, photograph]))
        return sha256_of(path)

    monkeypatch.setattr("sr_deploy.upscale.folder_job.sha256_of", change_and_hash)
    result = upscale_folder(upscaler, source, tmp_path / "out")
    assert counts(result) == (3, 0, 1, 0)
    assert "a.png changed while it was read; run the command again" in result.failures[0].reason
    monkeypatch.undo()
    assert counts(upscale_folder(upscaler, source, tmp_path / "out")) == (1, 3, 0, 0)
    assert read_image(tmp_path / "out" / "a.png").shape == (120, 82, 3)


def test_stopping_leaves_whole_files_and_the_rest_for_later(
    tmp_path: Path, runner: NearestRunner, upscaler: Upscaler, source: Path
) -> None:
    stop = threading.Event()
    runner.at_call = lambda number: stop.set() if number == 3 else None
    result = upscale_folder(upscaler, source, tmp_path / "out", stop=stop)
    assert result.stopped
    assert counts(result) == (2, 0, 0, 2)
    assert len(names(tmp_path / "out")) == 2
    runner.at_call = lambda number: None
    again = upscale_folder(upscaler, source, tmp_path / "out")
    assert (counts(again), again.stopped) == ((2, 2, 0, 0), False)
    assert runner.calls == 5


def test_a_job_stopped_before_it_begins_does_nothing(
    tmp_path: Path, runner: NearestRunner, upscaler: Upscaler, source: Path
) -> None:
    stop = threading.Event()
    stop.set()
    result = upscale_folder(upscaler, source, tmp_path / "out", stop=stop)
    assert (counts(result), runner.calls) == ((0, 0, 0, 4), 0)


def test_an_error_that_nobody_foresaw_costs_its_picture_and_no_other(
    tmp_path: Path, runner: NearestRunner, upscaler: Upscaler, source: Path
) -> None:
    def fail(number: int) -> None:
        if number == 2:
            raise ZeroDivisionError("a mistake of ours")

    runner.at_call = fail
    result = upscale_folder(upscaler, source, tmp_path / "out")
    assert counts(result) == (3, 0, 1, 0)
    assert result.failures[0].reason.startswith("internal: ZeroDivisionError: a mistake of ours (at sr_deploy/")
    assert len(names(tmp_path / "out")) == 3
    assert counts(upscale_folder(upscaler, source, tmp_path / "out")) == (1, 3, 0, 0)


def mount_small_disk(folder: Path, size: str) -> None:
    folder.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size}", "none", str(folder)], capture_output=True, text=True, check=False
    )
    if done.returncode:
        pytest.skip(f"a small disk cannot be mounted here: {done.stderr.strip()}")


def test_a_disk_that_fills_ends_the_job_and_loses_nothing(
    tmp_path: Path, runner: NearestRunner, upscaler: Upscaler
) -> None:
    if os.name != "posix" or os.geteuid() != 0:
        pytest.skip("mounting a small disk needs root")
    random = np.random.default_rng(0)
    for number in range(8):
        write_image(tmp_path / "in" / f"{number}.png", random.integers(0, 256, (60, 60, 3), np.uint8))
    disk = tmp_path / "disk"
    mount_small_disk(disk, "128k")
    try:
        result = upscale_folder(upscaler, tmp_path / "in", disk / "out")
        done, skipped, failed, left = counts(result)
        assert done >= 1
        assert skipped == 0
        assert "the disk is full" in result.failures[0].reason
        assert failed in (1, 2)  # one may be under way while another is written
        assert done + failed + left == 8
        assert left >= 1
        whole = names(disk / "out")
        assert len(whole) == done
        assert all(read_image(disk / "out" / name).shape == (120, 120, 3) for name in whole)
        subprocess.run(["mount", "-o", "remount,size=8m", str(disk)], check=True)
        assert counts(upscale_folder(upscaler, tmp_path / "in", disk / "out")) == (8 - done, done, 0, 0)
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_what_cannot_be_a_job_is_refused_before_anything_is_written(
    tmp_path: Path, upscaler: Upscaler, source: Path
) -> None:
    (tmp_path / "file").write_text("x")
    (tmp_path / "empty").mkdir()
    for given, target, suffix, message in (
        (source, source, None, "holds the pictures to read; give another folder"),
        (source, tmp_path / "out.png", None, r"in is a folder, but .*out\.png is the name of a picture"),
        (source, tmp_path / "out", ".bmp", "unknown format 'bmp'; known: .png, .jpg"),
        (tmp_path / "empty", tmp_path / "out", None, "empty holds no pictures; known endings: .avif, .bmp"),
        (tmp_path / "none", tmp_path / "out", None, "does not exist; give a folder"),
    ):
        with pytest.raises(InputError, match=message):
            plan_folder(given, target, suffix)
        with pytest.raises(InputError, match=message):
            upscale_folder(upscaler, given, target, suffix=suffix)
    with pytest.raises(OutputError, match="a file stands where a folder is needed"):
        upscale_folder(upscaler, source, tmp_path / "file" / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty", "file", "in", "network"]
