from __future__ import annotations

import numpy as np
import pytest

from sr_deploy.errors import InputError, RecipeError
from sr_deploy.imaging.codec import write_image
from sr_deploy.imaging.resize import downscale_bicubic
from sr_deploy.train.recipe import DataRecipe
from sr_deploy.train.training_images import TrainingImages, training_sources, validation_paths


def open_folder(folder, *, min_side=16, cache_gib=1.0) -> TrainingImages:
    (source,) = training_sources(DataRecipe(folder=str(folder), held_out=("coffee",), patch_size=16, batch=1))
    return TrainingImages(source.paths, scale=4, min_side=min_side, multiple=4, cache_gib=cache_gib)


def test_pairs_are_cropped_and_shrunk_by_the_papers_bicubic(picture_folder):
    photographs = open_folder(picture_folder)
    assert [path.name for path in photographs.paths] == ["a.png", "c.png", "b.png"]
    pair = photographs.pair(0)
    assert pair.hr.shape == (48, 68, 3)
    assert pair.lr.shape == (12, 17, 3)
    assert np.array_equal(pair.lr, downscale_bicubic(pair.hr, 4))


def test_unusable_files_are_reported_once_each_and_skipped(picture_folder, said):
    (picture_folder / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n and then nothing")
    (picture_folder / "text.jpg").write_text("hello")
    write_image(picture_folder / "small.png", np.zeros((15, 90, 3), np.uint8))
    photographs = open_folder(picture_folder)
    photographs.examine(threads=2)
    for _ in range(3):
        usable = [photographs.paths[i].name for i in range(6) if photographs.pair(i) is not None]
    assert usable == ["a.png", "c.png", "b.png"]
    assert len(said) == 3
    assert all(sum(name in line for line in said) == 1 for name in ("broken.png", "text.jpg", "small.png"))
    assert any("small.png is too small (90x15 pixels; at least 16x16 are needed)" in line for line in said)


def test_nothing_usable_is_an_error(tmp_path):
    (tmp_path / "only.png").write_text("no picture")
    with pytest.raises(InputError, match="none of the 1 images"):
        open_folder(tmp_path).examine(threads=1)


def test_empty_and_missing_folders_are_errors(tmp_path):
    with pytest.raises(InputError, match="holds no images"):
        open_folder(tmp_path)
    with pytest.raises(InputError, match="does not exist"):
        open_folder(tmp_path / "nowhere")


def test_a_full_cache_still_gives_every_pair(picture_folder):
    room_for_one = 14_000 / 2**30  # a.png takes 48 * 68 * 3 * 17 / 16 = 10,404 bytes
    photographs = open_folder(picture_folder, cache_gib=room_for_one)
    photographs.examine(threads=1)
    wanted = open_folder(picture_folder)
    for index in (0, 1, 2, 0, 2, 1):
        assert np.array_equal(photographs.pair(index).hr, wanted.pair(index).hr)
    assert photographs.cached_bytes() <= 14_000


def test_bundled_names():
    recipe = DataRecipe(training=("astronaut",), held_out=("coffee", "chelsea"), patch_size=16, batch=1)
    assert [path.name for path in training_sources(recipe)[0].paths] == ["astronaut.png"]
    assert [path.name for path in validation_paths(recipe)] == ["coffee.png", "chelsea.png"]
    with pytest.raises(RecipeError, match=r"data\.training: no .* named astronat; known: astronaut"):
        training_sources(recipe.model_copy(update={"training": ("astronat",)}))


def test_fingerprint_follows_the_files(picture_folder):
    before = fingerprint(picture_folder)
    assert before == fingerprint(picture_folder)
    (picture_folder / "c.png").unlink()
    assert before != fingerprint(picture_folder)


def fingerprint(folder) -> str:
    photographs = open_folder(folder)
    photographs.examine(threads=1)
    return photographs.fingerprint()
