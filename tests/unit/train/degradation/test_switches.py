"""Each step of the degradation can be switched off, by the keys that docs/degradation.md has in a table."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from sr_deploy.train.degradation import Degrader
from sr_deploy.train.degradation.draws import draw_batch
from sr_deploy.train.degradation.sheet import describe_sample
from sr_deploy.train.recipe import load_recipe

PAGE = Path(__file__).parents[4] / "docs" / "degradation.md"
CPU = torch.device("cpu")
SWITCHES = {
    f"{order} {part}": [f"{order}.{setting}" for setting in settings]
    for order in ("first", "second")
    for part, settings in {
        "blur": ["blur.probability=0"],
        "resize": ["resize.up=0", "resize.down=0"],
        "noise": ["noise.probability=0"],
        "JPEG": ["jpeg_probability=0"],
    }.items()
} | {"last filter": ["final.sinc=0"]}
MODES = [f"{part}.modes=['area']" for part in ("first.resize", "second.resize", "final")]


def load(*settings: str):
    fixed = ["data.patch_size=160", "degradation.canvas=160"]
    return load_recipe("realesrnet", [*fixed, *(f"degradation.{one}" for one in (*MODES, *settings))]).degradation


def off_but(*kept: str) -> list[str]:
    return [setting for name, settings in SWITCHES.items() if name not in kept for setting in settings]


def degrade(recipe, photographs, step: int = 1):
    return Degrader(recipe, scale=4, patch_size=160, seed=3, device=CPU).degrade(photographs, step)


def shrink(photographs) -> torch.Tensor:
    """Means of 4 x 4 pixels, as near to levels of 255 as they are."""
    return (F.avg_pool2d(photographs.double(), 4) * 255).float()


@pytest.mark.parametrize("orders", [1, 2])
def test_all_switched_off_it_is_a_plain_resize(photographs, orders):
    photographs = F.interpolate(photographs[:, :, ::4, ::4], scale_factor=4)  # means of it are levels themselves
    pair = degrade(load(*off_but(), f"orders={orders}"), photographs)
    assert (pair.lr_NCHW * 255 - shrink(photographs)).abs().max() < 255e-6
    assert torch.equal(pair.hr_NCHW, photographs)


def test_rounding_to_levels_is_left(photographs):
    pair = degrade(load(*off_but()), photographs)
    assert (pair.lr_NCHW * 255 - shrink(photographs)).abs().max() < 0.5 + 1e-3
    assert torch.allclose(pair.lr_NCHW * 255, (pair.lr_NCHW * 255).round(), atol=1e-3)


@pytest.mark.parametrize("name", SWITCHES)
def test_each_alone_has_an_effect_that_its_switch_takes_away(photographs, name):
    # Of some batches both resizes keep the size, and of some samples there is no blur.
    errors = [
        float((degrade(load(*off_but(name)), photographs, step).lr_NCHW * 255 - shrink(photographs)).abs().mean())
        for step in range(4)
    ]
    assert max(errors) > 1  # half a level at most is rounding


@pytest.mark.parametrize("name", SWITCHES)
def test_a_switch_leaves_all_other_draws(name):
    whole, without = (describe(load(*settings)) for settings in ((), SWITCHES[name]))
    changed = {key for key in whole if whole[key] != without[key]}
    if name == "last filter":
        assert changed == {"final.sinc"}
    else:
        order, part = name.split()
        key = {"JPEG": "jpeg_quality"}.get(part, part)
        assert changed == {f"{order}.{key}"}
    nothing = {"noise": {"kind": "none"}, "blur": {"kind": "none"}, "JPEG": None, "filter": {"kind": "none"}}
    part = name.split()[1]
    if part in nothing:
        (key,) = changed
        assert without[key] == [nothing[part]] * 40


def describe(recipe) -> dict[str, list[object]]:
    """What each of 40 samples gets, by order and part."""
    draw = draw_batch(recipe, 3, 1, 0, 40)
    found: dict[str, list[object]] = {}
    for sample in range(40):
        described = describe_sample(draw, sample)
        parts = dict(zip(("first", "second"), described["orders"], strict=True)) | {"final": described["final"]}
        for order, values in parts.items():
            for key, value in values.items():
                found.setdefault(f"{order}.{key}", []).append(value)
    return found


@pytest.mark.parametrize("order", [0, 1])
def test_shares_of_noise_and_jpeg(order):
    settings = [
        f"{name}.{key}=0.3" for name in ("first", "second") for key in ("noise.probability", "jpeg_probability")
    ]
    stage = draw_batch(load(*settings), 1, 0, 0, 4000).stages[order]
    noisy, compressed = stage.sigma > 0, stage.quality > 0
    assert ((stage.poisson_scale > 0) == noisy).all()
    for share, expected in ((noisy, 0.3), (compressed, 0.3), (noisy & compressed, 0.09)):
        assert abs(share.mean() - expected) < 5 * np.sqrt(expected * (1 - expected) / 4000)
    assert set(stage.quality[compressed]) == set(range(30, 96))


def test_samples_of_a_batch_differ_in_what_they_get(photographs):
    recipe = load(*off_but("second JPEG"), "second.jpeg_probability=0.5", "final.jpeg_last=1")
    batch = photographs.repeat(3, 1, 1, 1)
    plain, pair = degrade(load(*off_but()), batch), degrade(recipe, batch)
    changed = (pair.lr_NCHW - plain.lr_NCHW).abs().amax((1, 2, 3)) > 0
    compressed = draw_batch(recipe, 3, 1, 0, 12).stages[1].quality > 0
    assert changed.tolist() == compressed.tolist()
    assert 0 < compressed.sum() < 12


def test_the_page_has_every_switch():
    keys = set(re.findall(r"`((?:first|second|\*|final|sinc|sharpen|orders|pool)[\w.*]* = \w+)`", PAGE.read_text()))
    expected = {
        setting.replace("first.", "*.").replace("second.", "*.").replace("=", " = ")
        for settings in SWITCHES.values()
        for setting in settings
    }
    assert keys >= expected
