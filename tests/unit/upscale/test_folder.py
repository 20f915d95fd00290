from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from sr_deploy.errors import InputError, UnsafePathError
from sr_deploy.imaging.codec import read_image, write_image
from sr_deploy.progress import Progress
from sr_deploy.upscale.folder import upscale_folder
from sr_deploy.upscale.folder_journal import JOURNAL_NAME, open_journal
from sr_deploy.upscale.image import Upscaler
from sr_deploy.upscale.image_file import FileSettings
from tests.unit.upscale.folders import NearestRunner, counts, names

# --- what becomes what


def test_structure_and_formats_are_kept(tmp_path: Path, upscaler: Upscaler, source: Path) -> None:
    (source / "notes.txt").write_text("x")
    (source / ".hidden.png").write_text("x")
    told: list[Progress] = []
    result = upscale_folder(upscaler, source, tmp_path / "out", on_progress=told.append)
    assert counts(result) == (4, 0, 0, 0)
    assert names(tmp_path / "out") == ["a.png", "b.jpg", "deep/d.webp", "deep/er/c.tif"]
    progress = [now.done for now in told]
    assert progress == sorted(progress)
    assert progress[0] == 0
    assert progress[-1] == pytest.approx(sum(path.stat().st_size for path in source.rglob("[a-d].*")))
    assert all(now.total == pytest.approx(progress[-1]) and now.unit == "bytes" for now in told)
    assert (told[0].stage, told[-1].stage) == ("1/4 a.png", f"4/4 {Path('deep', 'er', 'c.tif')}")
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


def test_a_journal_cut_short_costs_one_file(tmp_path: Path, upscaler: Upscaler, source: Path) -> None:
    out = tmp_path / "out"
    upscale_folder(upscaler, source, out)
    journal = out / JOURNAL_NAME
    journal.write_bytes(journal.read_bytes()[:-30])
    (out / ".partial-xyz.png").write_text("half a picture of a killed process")
    (out / "deep" / ".partial-abc.tif").write_text("another")
    assert counts(upscale_folder(upscaler, source, out)) == (1, 3, 0, 0)
    assert names(out) == ["a.png", "b.jpg", "deep/d.webp", "deep/er/c.tif"]


def test_a_journal_that_leads_out_of_its_folder_cleans_nothing_there(
    tmp_path: Path, upscaler: Upscaler, source: Path
) -> None:
    out, outside = tmp_path / "out", tmp_path / "outside"
    upscale_folder(upscaler, source, out)
    outside.mkdir()
    (outside / ".partial-precious").write_text("precious")
    (out / "link").symlink_to(outside)
    (out / "deep" / ".partial-x.png").write_text("half a picture of ours")
    entry = json.loads((out / JOURNAL_NAME).read_text().splitlines()[-1])
    hostile = [{**entry, "target": name} for name in (f"{outside}/x", "../outside/x", "link/x", 5, None, "", "..")]
    lines = [*map(json.dumps, [*hostile, 5, [], {**entry, "extra": 1}, {**entry, "target_stamp": 5}]), "[" * 100_000]
    with (out / JOURNAL_NAME).open("a") as stream:
        stream.write("\n".join(lines) + "\n")
    assert counts(upscale_folder(upscaler, source, out)) == (0, 4, 0, 0)
    assert (outside / ".partial-precious").read_text() == "precious"
    assert not (out / "deep" / ".partial-x.png").exists()


@pytest.mark.skipif(os.name != "posix", reason="links")
def test_no_link_is_followed_in_place_of_the_journal(tmp_path: Path, upscaler: Upscaler, source: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("victim\n")
    out = tmp_path / "out"
    out.mkdir()
    (out / JOURNAL_NAME).symlink_to(victim)
    with pytest.raises(UnsafePathError, match=f"{JOURNAL_NAME} is a link"):
        upscale_folder(upscaler, source, out)
    assert victim.read_text() == "victim\n"
    assert names(out) == []


def test_journals_of_other_versions_are_not_touched(tmp_path: Path, upscaler: Upscaler, source: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / JOURNAL_NAME).write_text(json.dumps({"version": 1}) + "\n")
    with pytest.raises(InputError, match=r"\(journal 1, this one writes 2\)"):
        upscale_folder(upscaler, source, out)
    assert names(out) == []


@pytest.mark.skipif(os.name != "posix", reason="no such locks elsewhere")
def test_two_jobs_into_one_folder_are_refused(tmp_path: Path, upscaler: Upscaler, source: Path) -> None:
    with (
        open_journal(tmp_path / "out"),
        pytest.raises(InputError, match=r"out is being written .*\(process \d+ on .*, since 20"),
    ):
        upscale_folder(upscaler, source, tmp_path / "out")
