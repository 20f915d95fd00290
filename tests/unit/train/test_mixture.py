from __future__ import annotations

import hashlib
from collections import Counter

import numpy as np
import pytest

from sr_deploy.errors import InputError, RecipeError
from sr_deploy.imaging.codec import write_image
from sr_deploy.imaging.resize import downscale_bicubic, shrink_bicubic
from sr_deploy.train.mixture import WHOLE, PictureScale, build_mixture, count_squares
from sr_deploy.train.paired import training_files
from sr_deploy.train.recipe import load_recipe, read_run_recipe, write_recipe
from sr_deploy.train.sampling import PatchSampler, iterate_batches
from sr_deploy.train.training_images import TrainingImages

DRAWS = 2000


def draw_integers(height: int, width: int, seed: int) -> np.ndarray:
    """The same picture on every machine."""
    rows, columns, channels = np.mgrid[:height, :width, :3]
    return ((rows * 7919 + columns * 104729 + rows * columns * (31 + seed) + channels * 97) % 251).astype(np.uint8)


@pytest.fixture
def folders(tmp_path):
    """One large picture, and eight small ones."""
    write_image(tmp_path / "mixed" / "large" / "a.png", draw_integers(120, 200, 0))
    for number in range(8):
        write_image(tmp_path / "mixed" / "small" / f"{number}.png", draw_integers(40, 40, number))
    return tmp_path / "mixed" / "large", tmp_path / "mixed" / "small"


@pytest.fixture
def open_data(make_recipe, folders):
    def open_them(**data):
        sources = [{"folder": str(folder)} for folder in folders]
        recipe = make_recipe(data={"folder": None, "source": sources, "patch_size": 32} | data)
        photographs = TrainingImages(training_files(recipe).originals, scale=2, min_side=32, multiple=2, cache_gib=1.0)
        photographs.examine(threads=1)
        return recipe, photographs, build_mixture(recipe, photographs, training_files(recipe).sources)

    return open_them


def shares_by(mixture, key) -> dict:
    found = Counter()
    for sample in range(DRAWS):
        found[key(mixture.draw(np.random.default_rng(sample)))] += 1 / DRAWS
    return found


def test_a_recipe_without_sources_draws_the_patches_of_before(make_recipe, tmp_path):
    for number in range(3):
        write_image(tmp_path / "plain" / f"{number}.png", draw_integers(50 + number, 60, number))
    recipe = make_recipe(data={"folder": str(tmp_path / "plain")})
    photographs = TrainingImages(training_files(recipe).originals, scale=2, min_side=16, multiple=2, cache_gib=1.0)
    photographs.examine(threads=1)
    assert build_mixture(recipe, photographs, training_files(recipe).sources) is None
    drawn = hashlib.sha256()
    for step in range(4):
        batch = PatchSampler(
            photographs, recipe, mixture=build_mixture(recipe, photographs, training_files(recipe).sources)
        ).draw_batch(step)
        drawn.update(batch.lr.tobytes() + batch.hr.tobytes())
    assert drawn.hexdigest() == "4b4c7bd6462dc1aecad212eac6ab437df894dbfaf8696c4db2b8e11535b7d08f"


def test_weights_are_shares_of_the_patches_whatever_the_sources_hold(open_data, folders):
    large, small = map(str, folders)
    weighted = [{"folder": large, "weight": 3}, {"folder": small, "weight": 1.0}]
    for draw in ("picture", "area"):
        *_, mixture = open_data(source=weighted, draw=draw)
        shares = shares_by(mixture, lambda entry: entry.source)
        assert shares[0] == pytest.approx(0.75, abs=0.03)
        assert shares[1] == pytest.approx(0.25, abs=0.03)


def test_area_counts_squares_half_a_side_apart(open_data):
    *_, mixture = open_data(draw="area")
    # Squares of 32, every 16: along 120, 200 and 40 pixels there are 7, 12 and 2, the last ones at the border.
    shares = shares_by(mixture, lambda entry: entry.source)
    assert shares[0] == pytest.approx(7 * 12 / (7 * 12 + 8 * 2 * 2), abs=0.03)


def test_sources_without_weights_draw_each_picture_alike_from_the_stream_of_one_folder(open_data, make_recipe, folders):
    recipe, photographs, mixture = open_data()
    assert mixture is None
    whole = make_recipe(data={"folder": str(folders[0].parent), "patch_size": 32})
    one = TrainingImages(training_files(whole).originals, scale=2, min_side=32, multiple=2, cache_gib=1.0)
    one.examine(threads=1)
    assert one.paths == photographs.paths
    drawn = PatchSampler(photographs, recipe).draw_batch(3)
    assert np.array_equal(drawn.hr, PatchSampler(one, whole).draw_batch(3).hr)


def test_scales_that_leave_less_than_a_square_are_left_out(open_data, folders):
    large, small = map(str, folders)
    sources = [{"folder": large}, {"folder": small, "scaled": False}]
    *_, mixture = open_data(source=sources, scales=[1.0, 0.5, 0.25, 0.9], short_side=32, draw="area")
    entries = Counter((entry.source, entry.scale.title, entry.share) for entry in mixture.entries)
    assert entries == {
        (0, "1", 7 * 12): 1,  # 120 x 200
        (0, "0.5", 3 * 6): 1,  # 60 x 100; at 0.25 only 30 x 50 are left
        (0, "0.9", 6 * 11): 1,  # 108 x 180
        (0, "short side 32", 1 * 3): 1,  # 32 x 53
        (1, "1", 2 * 2): 8,
    }
    *_, alike = open_data(scales=[1.0, 0.5], short_side=32)
    assert Counter(entry.share for entry in alike.entries) == {1 / 3: 3, 1 / 2: 16}  # of each picture 1 in all


def test_published_scales_of_a_photograph_give_the_published_sub_images():
    """Squares of 400, every 200, in a picture of DIV2K's commonest size and in its copies, as its script cuts them."""
    scales = [WHOLE, PictureScale(0.75), PictureScale(0.5), PictureScale(1 / 3), PictureScale(short_side=400)]
    counts = count_squares((1356, 2040), scales, 400)
    assert [scale.size(1356, 2040) for scale in scales] == [
        (1356, 2040),
        (1017, 1530),
        (678, 1020),
        (452, 680),
        (400, 601),
    ]
    assert list(counts.values()) == [6 * 10, 5 * 7, 3 * 5, 2 * 3, 1 * 3]


def test_shrunk_patches_are_cut_from_the_shrunk_picture_and_its_low_resolution(open_data, folders):
    recipe, photographs, mixture = open_data(
        source=[{"folder": str(folders[0])}], scales=[0.6], flips=False, rotations=False
    )
    shrunk = shrink_bicubic(draw_integers(120, 200, 0), (72, 120))
    low = downscale_bicubic(shrunk, 2)
    sampler = PatchSampler(photographs, recipe, mixture=mixture)
    windows, places = index_windows(low, 16, 16), set()
    for sample in range(200):
        lr, hr = sampler.draw_patch(0, sample)
        top, left = windows[lr.tobytes()]
        assert np.array_equal(hr, shrunk[2 * top : 2 * top + 32, 2 * left : 2 * left + 32])
        places.add((top, left))
    assert {top for top, _ in places} == set(range(20 + 1))  # 72 rows hold a patch of 32 at every second one
    assert {left for _, left in places} == set(range(44 + 1))


def index_windows(picture, height, width) -> dict[bytes, tuple[int, int]]:
    """Where each window of a picture begins, by its bytes; no two are alike."""
    places = {
        picture[top : top + height, left : left + width].tobytes(): (top, left)
        for top in range(picture.shape[0] - height + 1)
        for left in range(picture.shape[1] - width + 1)
    }
    assert len(places) == (picture.shape[0] - height + 1) * (picture.shape[1] - width + 1)
    return places


def test_a_canvas_is_cut_from_the_shrunk_picture(open_data, folders):
    recipe, photographs, _ = open_data(
        source=[{"folder": str(folders[0])}], scales=[0.75, 0.5], draw="area", flips=False, rotations=False
    )
    shipped = load_recipe("realesrnet").degradation.model_copy(update={"canvas": 48})
    recipe = recipe.model_copy(update={"degradation": shipped})
    mixture = build_mixture(recipe, photographs, training_files(recipe).sources)
    sampler = PatchSampler(photographs, recipe, mixture=mixture)
    windows = [
        index_windows(shrink_bicubic(draw_integers(120, 200, 0), size), 48, 48) for size in ((90, 150), (60, 100))
    ]
    found = Counter()
    for sample in range(40):
        lr, hr = sampler.draw_patch(0, sample)
        assert (lr.shape, hr.shape) == ((0, 0, 3), (48, 48, 3))
        found[next(number for number, places in enumerate(windows) if hr.tobytes() in places)] += 1
    # Squares of 48, every 24: 3 x 6 at 0.75, 2 x 4 at 0.5.
    assert found[0] / 40 == pytest.approx(18 / 26, abs=0.15)


def test_the_stream_is_decided_by_seed_and_step_alone(open_data):
    data = {"scales": [1.0, 0.5], "draw": "area", "batch": 4}
    recipe, photographs, mixture = open_data(**data)
    whole = list(iterate_batches(PatchSampler(photographs, recipe, mixture=mixture), 0, 5, workers=0))
    recipe, photographs, mixture = open_data(**data, workers=3)
    threaded = list(iterate_batches(PatchSampler(photographs, recipe, mixture=mixture), 2, 5, workers=3))
    assert all(
        np.array_equal(a.hr, b.hr) and np.array_equal(a.lr, b.lr) for a, b in zip(whole[2:], threaded, strict=True)
    )
    share = PatchSampler(photographs, recipe, mixture=mixture, rank=1, processes=2).draw_batch(4)
    assert np.array_equal(share.hr, whole[4].hr[2:])


def test_files_that_cannot_be_used_have_no_share(open_data, folders, said):
    (folders[1] / "broken.png").write_text("no picture")
    write_image(folders[1] / "tiny.png", draw_integers(31, 90, 1))
    _, photographs, mixture = open_data(draw="area")
    assert {photographs.paths[entry.picture].name for entry in mixture.entries} == {
        "a.png", *(f"{number}.png" for number in range(8))
    }  # fmt: skip
    assert sum("tiny.png is too small (90x31 pixels" in line for line in said) == 1
    assert sum("broken.png" in line for line in said) == 1


def test_a_source_of_nothing_usable_is_an_error(open_data, folders):
    with pytest.raises(InputError, match=r"none of the 8 images in .*small can be used: .* at least 32x32 .* leave"):
        open_data(scales=[0.5])


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"folder": "x"}, r"data\.folder = 'x' and 2 \[\[data\.source\]\] are both there; give one of them"),
        ({"source": [{"folder": "a", "weight": 1}, {"folder": "b"}]}, "all have a weight or none; give one to b"),
        ({"source": [{"folder": "a", "weight": 0}]}, r"'data.source.0.weight': .* greater than 0 \(it is 0\)"),
        ({"source": [{"foldr": "a"}]}, r"unknown key 'data.source.0.foldr' \(did you mean 'folder'\?\)"),
        ({"scales": [1.5]}, r"'data.scales.0': .* less than or equal to 1 \(it is 1.5\)"),
        ({"scales": [0.5, 0.5]}, r"data\.scales = \[0\.5, 0\.5\] has one of them twice"),
        ({"draw": "pixels"}, "'data.draw': Input should be 'picture' or 'area' .it is 'pixels'"),
    ],
)
def test_what_does_not_go_together_is_refused(open_data, data, message):
    with pytest.raises(RecipeError, match=message):
        open_data(**data)


def test_a_run_keeps_its_sources(open_data, tmp_path, folders):
    weighted = [{"folder": str(folders[0]), "weight": 2.5}, {"folder": str(folders[1]), "weight": 1, "scaled": False}]
    recipe, *_ = open_data(source=weighted, scales=[1.0, 1 / 3], short_side=64, draw="area")
    write_recipe(tmp_path / "recipe.toml", recipe)
    assert read_run_recipe(tmp_path / "recipe.toml") == recipe
    one = read_run_recipe(tmp_path / "recipe.toml", ["data.folder='x'", "data.source=[]"]).data
    assert (one.folder, one.source, one.draw) == ("x", (), "area")
