from __future__ import annotations

import numpy as np

from sr_deploy.imaging.resize import downscale_bicubic
from sr_deploy.train.sampling import PatchSampler, iterate_batches, random_for
from sr_deploy.train.training_images import TrainingImages


def sampler_of(recipe, folder) -> PatchSampler:
    paths = sorted(folder.rglob("*.png"))
    return PatchSampler(TrainingImages(paths, scale=2, min_side=16, multiple=2, cache_gib=1.0), recipe)


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
