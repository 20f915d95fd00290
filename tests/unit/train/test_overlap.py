from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from sr_deploy.imaging.codec import write_image
from sr_deploy.train import overlap
from sr_deploy.train.overlap import warn_of_overlap
from sr_deploy.train.recipe import load_recipe
from sr_deploy.train.training_images import TrainingImages, training_sources, validation_paths
from tests.unit.train.conftest import draw_picture


def open_images(paths) -> TrainingImages:
    images = TrainingImages(paths, scale=2, min_side=16, multiple=2, cache_gib=1.0)
    images.examine(threads=1)
    return images


@pytest.fixture
def trained(picture_folder) -> TrainingImages:
    return open_images(sorted(picture_folder.rglob("*.png")))


def test_the_same_content_is_named_whatever_the_file_is_called(trained, tmp_path, said):
    held = tmp_path / "held"
    held.mkdir()
    first, second, _ = trained.paths
    shutil.copyfile(first, held / "copied.png")
    (held / "linked.png").symlink_to(second)
    write_image(held / "other.png", draw_picture(50, 70, 9))
    (held / "longer.png").write_bytes(first.read_bytes() + b"\0")
    (held / "changed.png").write_bytes(first.read_bytes()[:-1] + b"\0")  # of one size, with the same beginning
    warn_of_overlap(trained, sorted(held.iterdir()))
    assert said == [
        f"of 5 pictures to validate on 2 are trained on too ({held / 'copied.png'}, {held / 'linked.png'}): their "
        "scores say nothing of other pictures; validate on others with --set data.validation_folder=DIR"
    ]


def test_three_are_named_and_the_others_counted(tmp_path, said):
    for number in range(5):
        write_image(tmp_path / f"{number}.png", draw_picture(32, 32, number))
    images = open_images(sorted(tmp_path.iterdir()))
    warn_of_overlap(images, images.paths)
    named = ", ".join(str(tmp_path / f"{number}.png") for number in range(3))
    (line,) = said
    assert f"of 5 pictures to validate on 5 are trained on too ({named} and 2 more)" in line


def test_what_is_too_small_to_train_on_or_gone_is_not_trained_on(tmp_path, said):
    write_image(tmp_path / "a.png", draw_picture(32, 32, 0))
    write_image(tmp_path / "small.png", draw_picture(12, 12, 1))
    images = open_images(sorted(tmp_path.iterdir()))
    said.clear()
    warn_of_overlap(images, [tmp_path / "small.png", tmp_path / "gone.png"])
    assert said == []


def test_of_many_files_only_those_of_the_same_size_are_opened(trained, tmp_path, monkeypatch, said):
    shutil.copyfile(trained.paths[0], tmp_path / "copied.png")
    opened: list[Path] = []
    for name in ("read_head", "sha256_of"):
        plain = getattr(overlap, name)
        monkeypatch.setattr(overlap, name, lambda path, *rest, plain=plain: opened.append(path) or plain(path, *rest))
    warn_of_overlap(trained, [tmp_path / "copied.png"])
    assert opened == [tmp_path / "copied.png", trained.paths[0]] * 2
    assert len(said) == 1


@pytest.mark.parametrize("name", ["demo", "rrdb-lite", "small-x2"])
def test_no_shipped_recipe_validates_on_what_it_trains_on(name, said):
    data = load_recipe(name).data
    (source,) = training_sources(data)
    warn_of_overlap(open_images(source.paths), validation_paths(data))
    assert said == []
