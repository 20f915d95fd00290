from __future__ import annotations

import threading
from collections import Counter

import numpy as np
import pytest

from sr_deploy.errors import RecipeError
from sr_deploy.imaging.codec import write_image
from sr_deploy.imaging.resize import downscale_bicubic
from sr_deploy.train.sampling import PatchSampler, iterate_batches, random_for
from sr_deploy.train.training_images import TrainingImages


def sampler_of(recipe, folder) -> PatchSampler:
    paths = sorted(folder.rglob("*.png"))
    return PatchSampler(TrainingImages(paths, scale=2, min_side=16, multiple=2, cache_gib=1.0), recipe)


class CountingImages(TrainingImages):
    """Images that count how often each is decoded."""

    def __init__(self, paths, **settings) -> None:
        super().__init__(paths, scale=2, min_side=16, multiple=2, **settings)
        self.decoded = Counter()

    def _make_pair(self, index, abandoned):
        self.decoded[index] += 1
        return super()._make_pair(index, abandoned)


def test_draws_depend_on_seed_stream_step_and_sample_alone():
    base = random_for(7, 0, 3, 2).integers(2**32, size=4)
    assert np.array_equal(base, random_for(7, 0, 3, 2).integers(2**32, size=4))
    for other in ((8, 0, 3, 2), (7, 1, 3, 2), (7, 0, 4, 2), (7, 0, 3, 3), (7, 0, 2, 3)):
        assert not np.array_equal(base, random_for(*other).integers(2**32, size=4))


def test_draws_are_those_of_the_first_release():
    # A resumed run must meet the stream that it left: this is a file format of sorts.
    assert random_for(0, 0, 0, 0).integers(1000, size=4).tolist() == [34, 11, 611, 241]
    assert random_for(1, 0, 2, 3).integers(1000, size=4).tolist() == [148, 366, 215, 117]


def test_stream_is_the_same_with_threads_and_from_the_middle(make_recipe, picture_folder):
    recipe = make_recipe()
    whole = list(iterate_batches(sampler_of(recipe, picture_folder), 0, 6, workers=0))
    threaded = list(iterate_batches(sampler_of(recipe, picture_folder), 0, 6, workers=3))
    resumed = list(iterate_batches(sampler_of(recipe, picture_folder), 4, 6, workers=1))
    assert len(whole) == len(threaded) == 6
    assert all(np.array_equal(a.hr, b.hr) and np.array_equal(a.lr, b.lr) for a, b in zip(whole, threaded, strict=True))
    assert all(np.array_equal(a.hr, b.hr) for a, b in zip(whole[4:], resumed, strict=True))
    assert not np.array_equal(whole[0].hr, whole[1].hr)


def test_a_process_can_draw_its_share_of_a_step(make_recipe, picture_folder):
    sampler = sampler_of(make_recipe(), picture_folder)
    batch = sampler.draw_batch(5)
    assert batch.hr.shape == (4, 16, 16, 3)
    assert batch.lr.shape == (4, 8, 8, 3)
    assert np.array_equal(batch.hr[3], sampler.draw_patch(5, 3)[1])


def test_unusable_files_are_drawn_again(make_recipe, picture_folder):
    recipe = make_recipe()
    (picture_folder / "a_broken.png").write_text("no picture")
    batches = list(iterate_batches(sampler_of(recipe, picture_folder), 0, 8, workers=0))
    again = list(iterate_batches(sampler_of(recipe, picture_folder), 0, 8, workers=2))
    assert all(np.array_equal(a.hr, b.hr) for a, b in zip(batches, again, strict=True))


def test_patches_are_aligned(make_recipe, picture_folder):
    """Each low-resolution patch is a window of the shrunk photograph, at the place of the high-resolution one."""
    recipe = make_recipe(data={"flips": False, "rotations": False})
    sampler = sampler_of(recipe, picture_folder)
    photographs = [sampler._photographs.pair(index) for index in range(3)]
    for sample in range(20):
        lr, hr = sampler.draw_patch(0, sample)
        places = [
            (pair, top, left)
            for pair in photographs
            for top in range(pair.lr.shape[0] - 7)
            for left in range(pair.lr.shape[1] - 7)
            if np.array_equal(pair.hr[2 * top : 2 * top + 16, 2 * left : 2 * left + 16], hr)
        ]
        assert len(places) == 1
        pair, top, left = places[0]
        assert np.array_equal(downscale_bicubic(pair.hr, 2)[top : top + 8, left : left + 8], lr)


def test_flips_and_turns_give_all_eight_views_of_both_resolutions(make_recipe, picture_folder):
    turned = sampler_of(make_recipe(), picture_folder)
    plain = sampler_of(make_recipe(data={"flips": False, "rotations": False}), picture_folder)
    seen = set()
    for sample in range(64):
        (lr, hr), (lr_plain, hr_plain) = turned.draw_patch(1, sample), plain.draw_patch(1, sample)
        views = [
            (flip, turns)
            for flip in (False, True)
            for turns in range(4)
            if np.array_equal(hr, np.rot90(hr_plain[:, ::-1] if flip else hr_plain, turns))
            and np.array_equal(lr, np.rot90(lr_plain[:, ::-1] if flip else lr_plain, turns))
        ]
        assert len(views) == 1
        seen.add(views[0])
    assert len(seen) == 8


@pytest.mark.parametrize("patches_per_decode", [1, 3])
def test_low_resolution_is_the_same_of_the_whole_and_of_the_patch_alone(
    make_recipe, picture_folder, patches_per_decode
):
    recipe, paths = make_recipe(data={"patches_per_decode": patches_per_decode}), sorted(picture_folder.rglob("*.png"))
    batches = []
    for cache_gib in (1.0, 12_000 / 2**30):  # all of the three pictures, and one of them
        photographs = CountingImages(paths, cache_gib=cache_gib)
        photographs.examine(threads=1)
        assert (photographs.pair(0).lr.size > 0) == (cache_gib == 1.0)
        batches.append([PatchSampler(photographs, recipe).draw_batch(step) for step in range(20)])
    for whole, part in zip(*batches, strict=True):
        assert np.array_equal(whole.hr, part.hr)
        assert np.array_equal(whole.lr, part.lr)
        assert whole.lr.shape == (4, 8, 8, 3)


@pytest.fixture
def many_pictures(tmp_path):
    """Forty pictures, each of a gray of its own; room in a cache for ten of them."""
    paths = [tmp_path / "many" / f"{number}.png" for number in range(40)]
    for number, path in enumerate(paths):
        write_image(path, np.full((32, 32, 3), 5 * number, np.uint8))
    return paths, 10 * 32 * 32 * 3 / 2**30


def show_pictures(batches) -> np.ndarray:
    """Steps x samples: number of the picture that each patch is of."""
    return np.stack([batch.hr[:, 0, 0, 0] // 5 for batch in batches])


def test_a_sample_keeps_its_picture_for_patches_per_decode_steps(make_recipe, many_pictures):
    paths, room = many_pictures
    recipe = make_recipe(data={"patches_per_decode": 5, "batch": 6})
    photographs = CountingImages(paths, cache_gib=room)
    pictures = show_pictures(iterate_batches(PatchSampler(photographs, recipe), 0, 100, workers=0))
    for sample, column in enumerate(pictures.T):
        runs = np.split(column, range(-sample % 5 or 5, 100, 5))  # samples change in turn, not all at one step
        assert all(len(set(run)) == 1 for run in runs)
        assert len({int(run[0]) for run in runs}) > 10
    changes = 6 * 100 // 5 + 6
    assert changes * 0.5 < sum(photographs.decoded.values()) <= changes  # of 600 patches
    one = CountingImages(paths, cache_gib=room)
    list(iterate_batches(PatchSampler(one, make_recipe(data={"batch": 6})), 0, 100, workers=0))
    assert sum(one.decoded.values()) > 3 * changes


def test_patches_of_one_picture_have_places_of_their_own(make_recipe, picture_folder):
    recipe = make_recipe(data={"patches_per_decode": 64, "batch": 1})
    drawn = {sampler_of(recipe, picture_folder).draw_batch(step).hr.tobytes() for step in range(64)}
    assert len(drawn) > 50


def test_kept_pictures_are_decided_by_seed_and_step_alone(make_recipe, picture_folder):
    recipe = make_recipe(data={"patches_per_decode": 3})
    paths = sorted(picture_folder.rglob("*.png"))
    whole = list(iterate_batches(sampler_of(recipe, picture_folder), 0, 9, workers=0))
    resumed = list(iterate_batches(sampler_of(recipe, picture_folder), 4, 9, workers=3))
    halves = [
        PatchSampler(CountingImages(paths, cache_gib=1.0), recipe, rank=rank, processes=2).draw_batch(7)
        for rank in (0, 1)
    ]
    assert all(np.array_equal(a.hr, b.hr) for a, b in zip(whole[4:], resumed, strict=True))
    assert np.array_equal(np.concatenate([half.lr for half in halves]), whole[7].lr)


def test_threads_that_want_one_picture_decode_it_once(many_pictures):
    photographs = CountingImages(many_pictures[0], cache_gib=1.0)
    start = threading.Barrier(8)

    def ask() -> None:
        start.wait()
        photographs.pair(3)

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert photographs.decoded == {3: 1}


@pytest.mark.parametrize("count", [0, 65])
def test_patches_per_decode_out_of_range_is_refused(make_recipe, count):
    with pytest.raises(RecipeError, match=rf"data\.patches_per_decode.*it is {count}"):
        make_recipe(data={"patches_per_decode": count})
