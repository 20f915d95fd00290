"""Every shipped recipe, made small, is trained for a moment, exported as users do, and verified from its bundle."""

import json
from pathlib import Path

import pytest

from sr_deploy.cli import main
from sr_deploy.config import named_files
from sr_deploy.train.chain import plan_stages
from sr_deploy.train.recipe import Recipe

pytestmark = pytest.mark.slow


FOR_INT8 = {"compact-qat": "compact", "rrdb-lite-qat": "rrdb-lite"}
"""Recipes that train for INT8, and what they are given."""
TEACHERS = {"compact-from-x4plus": "realesrgan-plus"}
"""Recipes that learn from another network, and here from what."""


def recipes_of(name: str) -> list[Recipe]:
    """A recipe with the stages before it, first to last."""
    nowhere = Path(__file__).parent / "runs"
    return [stage.recipe for stage in plan_stages(name, [], nowhere, alone=False)]


def shorten(recipe: Recipe) -> list[str]:
    """What makes one stage short; each has its own, so that it also trains where a test of a later one runs alone."""
    values = [
        "network.features=16", "network.blocks=2", "run.steps=2", "data.batch=2", "data.patch_size=32",
        "data.workers=0", "precision.autocast=off",
    ]  # fmt: skip
    if "growth" in recipe.arch_spec().options:
        values.append("network.growth=8")
    if recipe.degradation is not None:
        values.append("degradation.canvas=96")
    if recipe.loss.perceptual is not None:
        values += ["loss.perceptual.weight=0", "loss.weight=1"]
    if recipe.name in TEACHERS:
        values.append(f"loss.distill.teacher=runs/{TEACHERS[recipe.name]}")
    return [part for value in values for part in ("--set", f"{recipe.name}:{value}")]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("recipes")


# Stages that others start from come first: their runs are taken, and so are those of networks that train for INT8.
@pytest.mark.parametrize(
    "name", sorted(named_files("train"), key=lambda name: (name in FOR_INT8 or name in TEACHERS, len(recipes_of(name))))
)
def test_is_exported_and_verified(name, folder, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    sets = [word for recipe in recipes_of(name) for word in shorten(recipe)]
    sets += ["--qat", f"runs/{FOR_INT8[name]}"] if name in FOR_INT8 else []
    assert main(["train", name, "--device", "cpu", *sets]) == 0
    assert main(["export", f"runs/{name}", "--backend", "none", "--out", f"deployments/{name}"]) == 0
    capsys.readouterr()
    assert main(["verify", f"deployments/{name}", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["passed"] is True
