"""Pairs, gray networks and 16 bit: from a recipe's key to the tensors that a network is trained on."""

from __future__ import annotations

import hashlib
import tomllib

import numpy as np
import pytest
import torch

from sr_deploy.config import companion_folder
from sr_deploy.errors import InputError, RecipeError
from sr_deploy.imaging.codec import write_image
from sr_deploy.imaging.decoded_image import DecodedImage, write_decoded
from sr_deploy.imaging.resize import downscale_bicubic
from sr_deploy.measure.quality import score_pair
from sr_deploy.train.degradation import PairPool, TrainingPair
from sr_deploy.train.loop import train
from sr_deploy.train.paired import training_files, validation_files
from sr_deploy.train.pairs import build_pair_maker, build_pool
from sr_deploy.train.recipe_images import open_training_images
from sr_deploy.train.sampling import PatchSampler
from sr_deploy.train.validation import read_held_out

CPU = torch.device("cpu")


def draw(height: int, width: int, seed: int, top: int = 256) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, top, (height, width, 3), np.uint16 if top > 256 else np.uint8)


def put_pairs(folder, scale=2):
    """Originals, and beside them low resolution that no bicubic interpolation gives: negatives."""
    for name, seed in (("a", 1), ("b", 2)):
        hr = draw(40, 48, seed)
        write_image(folder / "HR" / f"{name}.png", hr)
        write_image(folder / "LR_bicubic" / f"X{scale}" / f"{name}x{scale}.png", 255 - hr[::scale, ::scale])
    return folder


def draw_batches(recipe, steps=3):
    sampler = PatchSampler(open_training_images(recipe, training_files(recipe)), recipe)
    return [sampler.draw_batch(step) for step in range(steps)]


def degradation(**changes):
    text = (companion_folder("train") / "realesrgan.toml").read_text()
    return {**tomllib.loads(text)["degradation"], "canvas": 32, "pool": 0, **changes}


def test_8_bit_color_is_drawn_as_in_the_first_release(make_recipe):
    batches = draw_batches(make_recipe(), 5)
    make_pair = build_pair_maker(make_recipe(), CPU, None)
    patches, tensors = hashlib.sha256(), hashlib.sha256()
    for batch in batches:
        pair = make_pair(batch)
        for images, values in ((batch.lr, pair.lr_NCHW), (batch.hr, pair.hr_NCHW)):
            patches.update(images.tobytes())
            tensors.update(values.numpy().tobytes())
    assert patches.hexdigest() == "7963f6446981ae618d78c49fe1298069bb05c374f34a6e228736bcbbbd37ed20"
    assert tensors.hexdigest() == "9cc0af7be4a289474e080dc5b823c66d5973b0fac9ad14761727119613ee7ebd"


@pytest.mark.parametrize("key", [False, True])
def test_pairs_are_cut_at_one_place(make_recipe, tmp_path, said, key):
    folder = put_pairs(tmp_path / "set")
    data = {"folder": str(folder)}
    if key:
        data = {"folder": str(folder / "HR"), "lr_folder": str(folder / "LR_bicubic" / "X2")}
    batches = draw_batches(make_recipe(data=data))
    for batch in batches:
        # Flips and turns move which pixel of a square of 2 x 2 is the one that was taken.
        squares = batch.hr.reshape(4, 8, 2, 8, 2, 3)
        for sample in range(4):
            taken = [squares[sample, :, row, :, column] for row in (0, 1) for column in (0, 1)]
            assert sum(np.array_equal(255 - batch.lr[sample], one) for one in taken) == 1
    wanted = "2 pairs: originals of" if key else "low-resolution pictures beside their originals: 2 pairs of x2"
    assert sum(wanted in line for line in said) == 1


def test_a_folder_with_both_never_trains_on_low_resolution(make_recipe, tmp_path):
    folder = put_pairs(tmp_path / "set", scale=4)
    files = training_files(make_recipe(data={"folder": str(folder)}))  # of x2
    assert ([path.name for path in files.originals], files.partners) == (["a.png", "b.png"], {})
    assert files.note.endswith(
        "beside their originals: 0 pairs of x2; low resolution of 2 others is made by bicubic interpolation"
    )
    own = training_files(make_recipe(data={"folder": str(folder)}, degradation=degradation()))
    assert (len(own.originals), own.partners) == (2, {})
    assert own.note.endswith("left aside, the recipe makes its own")


def test_pairs_of_other_sizes_are_named(make_recipe, tmp_path, said):
    folder = put_pairs(tmp_path / "set")
    small = folder / "LR_bicubic" / "X2" / "bx2.png"
    write_image(small, draw(19, 24, 3))
    recipe = make_recipe(data={"folder": str(folder)})
    draw_batches(recipe)
    assert [line for line in said if "skipped" in line] == [
        f"skipped: {folder / 'HR' / 'b.png'} (40x48, HxW) is not 2 times {small} (19x24), but the network enlarges by "
        "2; give pairs of that scale"
    ]
    write_image(folder / "LR_bicubic" / "X2" / "ax2.png", draw(10, 12, 3))
    with pytest.raises(InputError, match="or not of the size of their pair"):
        draw_batches(recipe)


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"data": {"folder": None, "training": ["astronaut"], "lr_folder": "x"}}, "data.lr_folder needs its originals"),
        ({"data": {"lr_folder": "x"}, "degradation": degradation()}, "data.lr_folder = 'x' has low resolution, and"),
    ],
)
def test_keys_that_exclude_each_other(make_recipe, sections, message):
    with pytest.raises(RecipeError, match=message):
        make_recipe(**sections)


def test_other_low_resolution_is_other_data(make_recipe, tmp_path):
    folder = put_pairs(tmp_path / "set")
    recipe = make_recipe(data={"folder": str(folder)})
    before = open_training_images(recipe, training_files(recipe)).fingerprint()
    write_image(folder / "LR_bicubic" / "X2" / "bx2.png", np.zeros((20, 24, 3), np.uint8))
    assert open_training_images(recipe, training_files(recipe)).fingerprint() != before


@pytest.mark.parametrize("key", [False, True])
def test_validation_takes_pairs(make_recipe, tmp_path, key):
    folder = put_pairs(tmp_path / "set")
    data = {"validation_folder": str(folder)}
    if key:
        data = {"validation_folder": str(folder / "HR"), "validation_lr_folder": str(folder / "LR_bicubic" / "X2")}
    recipe = make_recipe(data=data)
    assert len(validation_files(recipe).partners) == 2
    held_out = read_held_out(recipe)
    assert [photograph.name for photograph in held_out] == ["a", "b"]
    assert np.array_equal(held_out[0].pair.lr, 255 - draw(40, 48, 1)[::2, ::2])


def test_16_bit_are_trained_and_scored_at_their_depth(make_recipe, tmp_path, said):
    dark = draw(40, 48, 5, top=4096)
    write_decoded(tmp_path / "deep" / "a.png", DecodedImage(dark))
    folder = {"folder": str(tmp_path / "deep"), "validation_folder": str(tmp_path / "deep")}
    recipe = make_recipe(data=folder)
    (batch,) = draw_batches(recipe, 1)
    pair = build_pair_maker(recipe, CPU, None)(batch)
    assert batch.hr.dtype == np.uint16
    assert len(np.unique(pair.hr_NCHW.numpy())) > 900  # of 3072; cut to 8 bit there are 16 levels
    assert torch.equal(
        (pair.hr_NCHW * 65535).round(), torch.from_numpy(batch.hr.astype(np.float32)).permute(0, 3, 1, 2)
    )
    assert sum("no sample of its 16 bits is above a sixteenth of white" in line for line in said) == 1
    (held,) = read_held_out(recipe)
    assert np.array_equal(held.pair.lr, downscale_bicubic(dark, 2))
    assert held.bicubic_scores.psnr_y == score_pair(held.bicubic, dark, 2).psnr_y
    assert held.bicubic_scores.psnr_rgb == pytest.approx(
        -10 * np.log10(np.mean(((held.bicubic.astype(float) - dark)[2:-2, 2:-2] / 65535) ** 2))
    )


def test_a_batch_of_both_depths_has_the_greater(make_recipe, picture_folder):
    write_decoded(picture_folder / "deep.png", DecodedImage(draw(40, 48, 5, top=65536)))
    recipe = make_recipe(data={"batch": 16})
    (batch,) = draw_batches(recipe, 1)
    eight = (batch.hr % 257 == 0).all(axis=(1, 2, 3))
    assert batch.hr.dtype == np.uint16
    assert 0 < eight.sum() < 16
    assert (batch.hr[eight] // 257).max() <= 255


@pytest.mark.parametrize("degraded", [False, True])
def test_gray_networks_train(make_recipe, tmp_path, degraded, said):
    sections = {"degradation": degradation(pool=3)} if degraded else {}
    recipe = make_recipe(
        network={}, data={"workers": 0}, run={"steps": 3}, loss={"adversarial": {"kind": "vanilla", "weight": 0.1}},
        discriminator={"architecture": "unet", "features": 4}, **sections,
    ).model_copy(update={"channels": 1})  # fmt: skip
    assert recipe.arch_spec().title() == "compact x2, 1 blocks, 8 features, gray"
    (batch,) = draw_batches(recipe, 1)
    pair = build_pair_maker(recipe, CPU, None)(batch)
    assert (pair.lr_NCHW.shape, pair.hr_NCHW.shape) == ((4, 1, 8, 8), (4, 1, 16, 16))
    assert torch.equal((pair.lr_NCHW * 255).round() / 255, pair.lr_NCHW)
    manifest = train(recipe, tmp_path / "run", device="cpu")
    assert (manifest.status, manifest.skipped_steps) == ("finished", 0)
    assert manifest.last_validation.model.psnr_y > 5
    assert sum("only the luma (BT.601) is kept" in line for line in said) == 3  # these batches, training, validation


def test_the_pool_keeps_16_bit_from_the_first_batch_that_has_them():
    pool = PairPool(4, seed=0)
    levels = torch.arange(4 * 4, dtype=torch.float32).view(4, 1, 2, 2)

    def pair(top: int, offset: float) -> TrainingPair:
        hr = (levels + offset) / top
        return TrainingPair(levels / 255, hr, hr)

    pool.exchange(pair(255, 0), 0)
    out = pool.exchange(pair(65535, 1000), 1, deep=True)
    assert torch.equal(out.hr_NCHW.sort(dim=0).values, pair(255, 0).hr_NCHW)  # what was kept in 8 bit, to the bit
    other = PairPool(4, seed=0)
    other.load_state_dict(pool.state_dict())
    back = other.exchange(pair(255, 0), 2)
    assert torch.equal(back.hr_NCHW.sort(dim=0).values, pair(65535, 1000).hr_NCHW)


def test_sharpened_targets_of_16_bit_keep_their_depth(make_recipe, tmp_path):
    write_decoded(tmp_path / "deep" / "a.png", DecodedImage(draw(40, 48, 5, top=65536)))
    recipe = make_recipe(
        data={"folder": str(tmp_path / "deep")}, degradation=degradation(sharpen={"enabled": True}, pool=2)
    )
    (batch,) = draw_batches(recipe, 1)
    pair = build_pair_maker(recipe, CPU, build_pool(recipe, 0))(batch)
    assert (pair.target_NCHW * 255 - (pair.target_NCHW * 255).round()).abs().max() > 0.4
