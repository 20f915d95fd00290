from __future__ import annotations

import json
import os
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from sr_deploy.errors import InputError, OutputError, UnsafePathError
from sr_deploy.files import sha256_of
from sr_deploy.imaging.codec import bundled_photographs, read_image, write_image
from sr_deploy.runners.base import BaseRunner
from sr_deploy.runners.protocol import RunnerSpec
from sr_deploy.upscale.files import FileSettings
from sr_deploy.upscale.folder import FolderResult, upscale_folder
from sr_deploy.upscale.image import Upscaler
from sr_deploy.upscale.job import RECORD_NAME, open_record
from sr_deploy.upscale.places import plan_folder


class NearestRunner(BaseRunner):
    """Repeats pixels; counts calls, and can do something at each."""

    def __init__(self, artifact: Path | None = None) -> None:
        super().__init__(RunnerSpec("torch", "0", "fp32", "cpu", 2, 3, artifact=artifact))
        self.calls = 0
        self.at_call = lambda _number: None

    def _infer(self, lr_NCHW: NDArray[np.float32]) -> NDArray[np.float32]:
        self.calls += 1
        self.at_call(self.calls)
        return np.repeat(np.repeat(lr_NCHW, 2, axis=2), 2, axis=3)

    def _release(self) -> None:
        pass


@pytest.fixture
def runner(tmp_path: Path) -> NearestRunner:
    (tmp_path / "network").write_text("weights")
    return NearestRunner(tmp_path / "network")


@pytest.fixture
def upscaler(runner: NearestRunner) -> Iterator[Upscaler]:
    with Upscaler(runner, halo=0) as upscaler:
        yield upscaler


@pytest.fixture(scope="module")
def photograph() -> NDArray[np.uint8]:
    return np.ascontiguousarray(read_image(bundled_photographs()["chelsea"])[60:90, 100:141])


@pytest.fixture
def source(tmp_path: Path, photograph: NDArray[np.uint8]) -> Path:
    folder = tmp_path / "in"
    for number, name in enumerate(("a.png", "b.jpg", "deep/er/c.tif", "deep/d.webp")):
        write_image(folder / name, np.roll(photograph, 5 * number, axis=1))
    return folder


def names(folder: Path) -> list[str]:
    """All files but the record, as paths in the folder."""
    found = (path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    return sorted(name for name in found if not name.startswith(RECORD_NAME))


def counts(result: FolderResult) -> tuple[int, int, int, int]:
    return len(result.done), len(result.skipped), len(result.failures), len(result.left)


# --- what becomes what


def test_structure_and_formats_are_kept(tmp_path: Path, upscaler: Upscaler, source: Path) -> None:
    (source / "notes.txt").write_text("x")
    (source / ".hidden.png").write_text("x")
    progress: list[float] = []
    result = upscale_folder(upscaler, source, tmp_path / "out", on_progress=lambda share, note: progress.append(share))
    assert counts(result) == (4, 0, 0, 0)
    assert names(tmp_path / "out") == ["a.png", "b.jpg", "deep/d.webp", "deep/er/c.tif"]
    assert progress == sorted(progress)
    assert progress[0] == 0
    assert progress[-1] == pytest.approx(1)
    expected = np.repeat(np.repeat(read_image(source / "a.png"), 2, axis=0), 2, axis=1)
    assert np.array_equal(read_image(tmp_path / "out" / "a.png"), expected)
    assert np.abs(read_image(tmp_path / "out/b.jpg").astype(int) - np.roll(expected, 10, axis=1)).mean() < 6


def test_one_format_for_all_and_names_that_would_meet(
    tmp_path: Path, upscaler: Upscaler, source: Path, photograph: NDArray[np.uint8]
) -> None:
    write_image(source / "a.jpg", photograph)
    write_image(source / "a.tif", photograph)
    result = upscale_folder(upscaler, source, tmp_path / "out", suffix=".png")
    assert counts(result) == (6, 0, 0, 0)
    assert names(tmp_path / "out") == ["a.jpg.png", "a.png", "a.tif.png", "b.png", "deep/d.png", "deep/er/c.png"]
    assert np.array_equal(read_image(tmp_path / "out/a.png"), np.repeat(np.repeat(photograph, 2, 0), 2, 1))


def test_names_that_meet_all_the_same_are_reported(
    tmp_path: Path, upscaler: Upscaler, source: Path, photograph: NDArray[np.uint8]
) -> None:
    write_image(source / "a.jpg", photograph)
    write_image(source / "a.jpg.png", photograph)
    result = upscale_folder(upscaler, source, tmp_path / "out", suffix=".png")
    assert counts(result) == (5, 0, 1, 0)
    assert "another picture becomes" in result.failures[0].reason


def test_formats_that_are_not_written_become_png(
    tmp_path: Path, upscaler: Upscaler, photograph: NDArray[np.uint8]
) -> None:
    from PIL import Image

    (tmp_path / "in").mkdir()
    Image.fromarray(photograph).save(tmp_path / "in" / "a.bmp")
    Image.fromarray(photograph).save(tmp_path / "in" / "b.gif")
    assert counts(upscale_folder(upscaler, tmp_path / "in", tmp_path / "out")) == (2, 0, 0, 0)
    assert names(tmp_path / "out") == ["a.png", "b.png"]


def test_results_inside_the_sources_are_no_sources(tmp_path: Path, upscaler: Upscaler, source: Path) -> None:
    assert counts(upscale_folder(upscaler, source, source / "large")) == (4, 0, 0, 0)
    assert counts(upscale_folder(upscaler, source, source / "large")) == (0, 4, 0, 0)


def test_quality_is_for_the_formats_that_have_one(tmp_path: Path, upscaler: Upscaler, source: Path) -> None:
    assert counts(upscale_folder(upscaler, source, tmp_path / "good", FileSettings(quality=95))) == (4, 0, 0, 0)
    assert counts(upscale_folder(upscaler, source, tmp_path / "bad", FileSettings(quality=20))) == (4, 0, 0, 0)
    for name, smaller in (("a.png", False), ("b.jpg", True), ("deep/d.webp", True), ("deep/er/c.tif", False)):
        sizes = [(tmp_path / folder / name).stat().st_size for folder in ("bad", "good")]
        assert (sizes[0] < sizes[1]) == smaller
    with pytest.raises(InputError, match="PNG files lose nothing, so quality 20 means nothing"):
        upscale_folder(upscaler, source, tmp_path / "png", FileSettings(quality=20), suffix=".png")


# --- what is done again


def test_finished_files_are_skipped_and_changed_ones_done_again(
    tmp_path: Path, runner: NearestRunner, upscaler: Upscaler, source: Path, photograph: NDArray[np.uint8]
) -> None:
    out = tmp_path / "out"
    assert counts(upscale_folder(upscaler, source, out)) == (4, 0, 0, 0)
    calls = runner.calls
    assert counts(upscale_folder(upscaler, source, out)) == (0, 4, 0, 0)
    assert runner.calls == calls
    os.utime(source / "a.png", (1, 1))  # another date, the same bytes
    assert counts(upscale_folder(upscaler, source, out)) == (0, 4, 0, 0)
    write_image(source / "a.png", 255 - photograph)
    assert counts(upscale_folder(upscaler, source, out)) == (1, 3, 0, 0)
    assert np.array_equal(read_image(out / "a.png")[::2, ::2], 255 - photograph)
    (out / "b.jpg").write_bytes((out / "b.jpg").read_bytes()[:100])
    assert counts(upscale_folder(upscaler, source, out)) == (1, 3, 0, 0)
    assert read_image(out / "b.jpg").shape == (60, 82, 3)
    (out / "deep/d.webp").unlink()
    assert counts(upscale_folder(upscaler, source, out)) == (1, 3, 0, 0)


@pytest.mark.parametrize(
    "change",
    [{"scale": 3.0}, {"alpha": "bicubic"}, {"quality": 70}],
)
def test_other_settings_are_other_results(
    tmp_path: Path, upscaler: Upscaler, source: Path, change: dict[str, object]
) -> None:
    out = tmp_path / "out"
    assert counts(upscale_folder(upscaler, source, out)) == (4, 0, 0, 0)
    settings = FileSettings(**change)  # type: ignore[arg-type]
    assert counts(upscale_folder(upscaler, source, out, settings)) == (4, 0, 0, 0)
    assert counts(upscale_folder(upscaler, source, out, settings)) == (0, 4, 0, 0)


def test_another_network_or_tile_is_another_result(
    tmp_path: Path, runner: NearestRunner, upscaler: Upscaler, source: Path
) -> None:
    out = tmp_path / "out"
    assert counts(upscale_folder(upscaler, source, out)) == (4, 0, 0, 0)
    (tmp_path / "network").write_text("other weights")
    assert counts(upscale_folder(upscaler, source, out)) == (4, 0, 0, 0)
    assert counts(upscale_folder(upscaler, source, out, tile=16)) == (4, 0, 0, 0)
    assert counts(upscale_folder(upscaler, source, out, tile=16)) == (0, 4, 0, 0)


def test_somebody_elses_files_are_not_replaced(tmp_path: Path, upscaler: Upscaler, source: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "a.png").write_text("mine")
    result = upscale_folder(upscaler, source, out)
    assert counts(result) == (3, 0, 1, 0)
    assert "exists and was not written by this command" in result.failures[0].reason
    assert (out / "a.png").read_text() == "mine"


def test_a_picture_to_read_is_not_replaced(
    tmp_path: Path, upscaler: Upscaler, source: Path, photograph: NDArray[np.uint8]
) -> None:
    write_image(source / "in" / "a.png", photograph)  # its result in the folder above would be in/a.png
    before = (source / "a.png").read_bytes()
    result = upscale_folder(upscaler, source, tmp_path)
    assert counts(result) == (4, 0, 1, 0)
    assert "would replace a picture to read" in result.failures[0].reason
    assert (source / "a.png").read_bytes() == before


def test_a_record_cut_short_costs_one_file(tmp_path: Path, upscaler: Upscaler, source: Path) -> None:
    out = tmp_path / "out"
    upscale_folder(upscaler, source, out)
    record = out / RECORD_NAME
    record.write_bytes(record.read_bytes()[:-30])
    (out / ".partial-xyz.png").write_text("half a picture of a killed process")
    (out / "deep" / ".partial-abc.tif").write_text("another")
    assert counts(upscale_folder(upscaler, source, out)) == (1, 3, 0, 0)
    assert names(out) == ["a.png", "b.jpg", "deep/d.webp", "deep/er/c.tif"]


def test_a_record_that_leads_out_of_its_folder_cleans_nothing_there(
    tmp_path: Path, upscaler: Upscaler, source: Path
) -> None:
    out, outside = tmp_path / "out", tmp_path / "outside"
    upscale_folder(upscaler, source, out)
    outside.mkdir()
    (outside / ".partial-precious").write_text("precious")
    (out / "link").symlink_to(outside)
    (out / "deep" / ".partial-x.png").write_text("half a picture of ours")
    entry = json.loads((out / RECORD_NAME).read_text().splitlines()[-1])
    hostile = [{**entry, "target": name} for name in (f"{outside}/x", "../outside/x", "link/x", 5, None, "", "..")]
    lines = [*map(json.dumps, [*hostile, 5, [], {**entry, "extra": 1}, {**entry, "target_stamp": 5}]), "[" * 100_000]
    with (out / RECORD_NAME).open("a") as stream:
        stream.write("\n".join(lines) + "\n")
    assert counts(upscale_folder(upscaler, source, out)) == (0, 4, 0, 0)
    assert (outside / ".partial-precious").read_text() == "precious"
    assert not (out / "deep" / ".partial-x.png").exists()


@pytest.mark.skipif(os.name != "posix", reason="links")
def test_no_link_is_followed_in_place_of_the_record(tmp_path: Path, upscaler: Upscaler, source: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("victim\n")
    out = tmp_path / "out"
    out.mkdir()
    (out / RECORD_NAME).symlink_to(victim)
    with pytest.raises(UnsafePathError, match=f"{RECORD_NAME} is a link"):
        upscale_folder(upscaler, source, out)
    assert victim.read_text() == "victim\n"
    assert names(out) == []


def test_records_of_other_versions_are_not_touched(tmp_path: Path, upscaler: Upscaler, source: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / RECORD_NAME).write_text(json.dumps({"version": 2}) + "\n")
    with pytest.raises(InputError, match=r"another version of sr-deploy \(record 2, this one writes 1\)"):
        upscale_folder(upscaler, source, out)
    assert names(out) == []


@pytest.mark.skipif(os.name != "posix", reason="no such locks elsewhere")
def test_two_jobs_into_one_folder_are_refused(tmp_path: Path, upscaler: Upscaler, source: Path) -> None:
    with (
        open_record(tmp_path / "out"),
        pytest.raises(
            InputError, match=r"out is being written by another sr-deploy \(process \d+ on .*, since 20.*; wait for it"
        ),
    ):
        upscale_folder(upscaler, source, tmp_path / "out")


# --- what goes wrong


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
    assert "z.gif is no picture that can be read" in reasons["z.gif"]
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
    monkeypatch.setattr("sr_deploy.upscale.places.tells_capitals_apart", lambda _folder: apart)
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

    monkeypatch.setattr("sr_deploy.upscale.work.sha256_of", change_and_hash)
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
