from __future__ import annotations

import pickle

import pytest
import torch

from sr_deploy.errors import InputError, RecipeError
from sr_deploy.plugins import find_modules
from sr_deploy.train.losses.registry import LossInputs, TeacherOutput, find_terms, loss_names
from sr_deploy.train.networks import build_criteria

CPU = torch.device("cpu")
SR, HR = torch.rand(2, 2, 3, 8, 8, generator=torch.Generator().manual_seed(3))
ADVERSARIAL = {"adversarial": {"kind": "hinge", "weight": 0.5}}
PERCEPTUAL = {"perceptual": {"weight": 2.0, "layers": {"conv1_2": 1.0}, "vgg19": "nowhere.pth"}}
DISTILL = {"distill": {"weight": 1.5, "teacher": "nowhere.pth"}}
DISCRIMINATOR = {"architecture": "unet", "features": 4}


def inputs(sr=SR, hr=HR):
    return LossInputs(sr, sr, hr, hr, lambda images: images.mean((1, 2, 3)), lambda lr: TeacherOutput(lr, None))


def test_terms_are_added_in_one_order_and_those_without_weight_left_out(make_recipe):
    everything = make_recipe(loss=ADVERSARIAL | PERCEPTUAL | DISTILL, discriminator=DISCRIMINATOR)
    found = find_terms(everything)
    assert [(term.name, term.options.weight) for term in found] == [
        ("pixel", 1.0), ("perceptual", 2.0), ("distill", 1.5), ("adversarial", 0.5)
    ]  # fmt: skip
    assert sorted(term.name for term in found) == list(loss_names())
    without = {"weight": 1.0, "perceptual": {**PERCEPTUAL["perceptual"], "weight": 0.0}, "distill": {"weight": 0.0}}
    assert list(build_criteria(make_recipe(loss=without), CPU).terms) == ["pixel"]
    assert list(build_criteria(make_recipe(loss={"weight": 0.0, **DISTILL}), CPU).terms) == ["distill"]


def test_weights_count_and_the_pair_is_complete(make_recipe):
    one = build_criteria(make_recipe(), CPU)
    assert one.discriminator_loss is None
    both = build_criteria(make_recipe(loss={"weight": 3.0, **ADVERSARIAL}, discriminator=DISCRIMINATOR), CPU)
    assert both.terms["pixel"](inputs()).item() == pytest.approx(3 * one.terms["pixel"](inputs()).item(), rel=1e-6)
    assert both.terms["adversarial"](inputs()).item() == pytest.approx(-0.5 * SR.mean().item(), rel=1e-6)
    assert both.discriminator_loss(torch.ones(2, 1), torch.full((2, 1), -1.0)).item() == 0


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"loss": {"weight": 0.0}}, r"of loss\.weight, loss\.perceptual\.weight, loss\.distill\.weight at least one"),
        ({"loss": {"weight": 0.0, **ADVERSARIAL}, "discriminator": DISCRIMINATOR}, "nothing ties the result to"),
        ({"loss": ADVERSARIAL}, r"loss\.adversarial needs a \[discriminator\]"),
        ({"loss": {"distill": {"weight": 1.0}}}, r"name a checkpoint, run or bundle as loss\.distill\.teacher"),
        ({"discriminator": DISCRIMINATOR}, r"a loss that needs it \(\[loss\.adversarial\]\)"),
        ({"loss": {"adversaria": {}}}, r"unknown key 'loss\.adversaria' \(did you mean 'adversarial'\?\)"),
        ({"loss": {"adversarial": {"kind": "hinge", "wight": 1}}}, r"known there: weight, kind"),
    ],
)
def test_recipes_that_cannot_be_are_refused(make_recipe, sections, message):
    with pytest.raises(RecipeError, match=message):
        make_recipe(**sections)


def test_a_recipe_goes_to_another_process(make_recipe):
    recipe = make_recipe(loss=ADVERSARIAL | PERCEPTUAL, discriminator=DISCRIMINATOR)
    assert pickle.loads(pickle.dumps(recipe)) == recipe


@pytest.mark.parametrize("name", ["learning_rate", "Loss-1", "loss"])
def test_a_loss_of_another_package_cannot_have_a_name_of_ours(name, tmp_path, monkeypatch):
    metadata = tmp_path / "other-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: other\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text(f"[sr_deploy.losses]\n{name} = other\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    find_modules.cache_clear()
    try:
        with pytest.raises(InputError, match=f"names a loss '{name}'"):
            loss_names()
    finally:
        find_modules.cache_clear()
