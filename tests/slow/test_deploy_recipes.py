"""Every shipped recipe, made small, is trained for a moment, exported as users do, and verified from its bundle."""

import json

import pytest

from sr_deploy.cli import main
from sr_deploy.config import named_files
from sr_deploy.train.recipe import Recipe, load_recipe

# Stages start from the runs of those before: one process takes them all.
pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("recipes")]


def count_stages(name):
    before = load_recipe(name).init_from
    return 1 if before is None else 1 + count_stages(before)


def shorten(recipe: Recipe) -> list[str]:
    sets = [
        "network.features=16", "network.blocks=2", "run.steps=2", "data.batch=2", "data.patch_size=32",
        "data.workers=0", "precision.autocast=off",
    ]  # fmt: skip
    if recipe.network.growth is not None:
        sets.append("network.growth=8")
    if recipe.degradation is not None:
        sets.append("degradation.canvas=96")
    if recipe.loss.perceptual is not None:
        sets += ["loss.perceptual.weight=0", f"{recipe.name}:loss.weight=1"]
    return sets


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("recipes")


# Stages that others start from come first: their runs are taken.
@pytest.mark.parametrize("name", sorted(named_files("train"), key=count_stages))
def test_is_exported_and_verified(name, folder, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    sets = [part for one in shorten(load_recipe(name)) for part in ("--set", one)]
    assert main(["train", name, "--device", "cpu", *sets]) == 0
    assert main(["export", f"runs/{name}", "--backend", "none", "--out", f"deployments/{name}"]) == 0
    capsys.readouterr()
    assert main(["verify", f"deployments/{name}", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["passed"] is True
