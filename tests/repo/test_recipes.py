"""The shipped recipes explain themselves, say what was published, and are listed."""

import re
import tomllib
from pathlib import Path

import pytest

from sr_deploy.arch.registry import describe_cost
from sr_deploy.config import named_files, validate_config
from sr_deploy.train.chain import plan_stages
from sr_deploy.train.recipe import Recipe, load_recipe
from sr_deploy.train.training_images import training_sources, validation_paths

ROOT = Path(__file__).parents[2]
NAMES = sorted(named_files("train"))
DEGRADED = [name for name in NAMES if load_recipe(name).degradation is not None]
ADVERSARIAL = [name for name in NAMES if load_recipe(name).discriminator is not None]
KEY = re.compile(r"(?P<key>[a-z_0-9]+) = ")

# Steps, batch, patch size, learning rate and the stage before, as published.
PUBLISHED = {
    "srresnet": (1_000_000, 16, 96, 1e-4, None),
    "srgan": (200_000, 16, 96, 1e-4, "srresnet"),
    "msrresnet": (1_000_000, 16, 128, 2e-4, None),
    "esrgan-psnr": (1_000_000, 16, 128, 2e-4, None),
    "esrgan": (400_000, 16, 128, 1e-4, "esrgan-psnr"),
    "realesrnet": (1_000_000, 48, 256, 2e-4, "esrgan"),
    "realesrgan": (400_000, 48, 256, 1e-4, "realesrnet"),
    "realesrgan-plus": (400_000, 48, 256, 1e-4, "realesrnet"),
    "realesrnet-x2": (1_000_000, 48, 256, 2e-4, None),
    "realesrgan-x2": (400_000, 48, 256, 1e-4, "realesrnet-x2"),
}
PARAMETERS = {
    "srresnet": 1_547_350, "msrresnet": 1_517_571, "esrgan": 16_697_987, "realesrgan-plus": 16_697_987,
    "realesrgan-x2": 16_703_171, "anime-6b": 4_467_779, "compact": 1_213_296,
}  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_every_field_is_explained(name):
    lines = named_files("train")[name].read_text().splitlines()
    assert lines[0].startswith("# ")
    unexplained = []
    for before, line in zip(["", *lines], lines, strict=False):
        found = KEY.match(line)
        if found and found["key"] not in {"name", "description"} and " # " not in line and not before.startswith("#"):
            unexplained.append(line)
    assert unexplained == []


@pytest.mark.parametrize("name", NAMES)
def test_runs_without_arguments_and_bears_its_files_name(name):
    recipe = load_recipe(name)
    assert recipe.name == name
    assert recipe.description.endswith(".")
    assert sum(len(source.paths) for source in training_sources(recipe.data)) == (4 if name == "small-x2" else 6)
    assert len(validation_paths(recipe.data)) == 3
    assert recipe.init_from is None or recipe.init_from in NAMES


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_schedules(name):
    recipe = load_recipe(name)
    steps, batch, patch_size, learning_rate, before = PUBLISHED[name]
    assert (recipe.run.steps, recipe.data.batch, recipe.data.patch_size) == (steps, batch, patch_size)
    assert (recipe.optimizer.learning_rate, recipe.init_from) == (learning_rate, before)
    assert recipe.ema.decay == 0.999
    schedule = recipe.optimizer.schedule
    assert sum(schedule.periods) in {0, steps}
    assert all(milestone < steps for milestone in schedule.milestones)


@pytest.mark.parametrize("name", PARAMETERS)
def test_published_networks(name):
    assert describe_cost(load_recipe(name).arch_spec()).parameters == PARAMETERS[name]


def test_published_losses():
    def terms(name):
        loss = load_recipe(name).loss
        perceptual, adversarial = loss.perceptual, loss.adversarial
        return (
            loss.pixel, loss.weight, perceptual.weight, perceptual.layers, perceptual.activation, perceptual.distance,
            adversarial.kind, adversarial.weight,
        )  # fmt: skip

    last = {"conv5_4": 1.0}
    five = {"conv1_2": 0.1, "conv2_2": 0.1, "conv3_4": 1.0, "conv4_4": 1.0, "conv5_4": 1.0}
    assert terms("srgan") == ("mse", 0.0, 0.006, last, "after", "mse", "vanilla", 1e-3)
    assert terms("srgan-illustration") == ("mse", 0.0, 0.006, last, "after", "mse", "vanilla", 1e-5)
    assert terms("esrgan") == ("l1", 0.01, 1.0, last, "before", "l1", "relativistic_average", 5e-3)
    for name in ("realesrgan", "realesrgan-plus", "realesrgan-x2", "compact-gan", "anime-6b"):
        assert terms(name) == ("l1", 1.0, 1.0, five, "before", "l1", "vanilla", 0.1)
        assert load_recipe(name).discriminator.spectral_norm
    assert {load_recipe(name).discriminator.architecture for name in ADVERSARIAL} == {"srgan", "vgg128", "unet"}


def test_all_degrade_alike_but_for_the_sharpening():
    model = load_recipe("realesrnet").degradation
    for name in DEGRADED:
        degradation = load_recipe(name).degradation
        assert degradation.sharpen.enabled == (name == "realesrgan-plus")
        assert degradation.model_copy(update={"sharpen": model.sharpen}) == model


def test_a_million_illustrations_get_two_epochs_and_one():
    before, after = load_recipe("srgan-illustration-mse"), load_recipe("srgan-illustration")
    assert before.run.steps * before.data.batch == 2_000_000
    assert after.run.steps * after.data.batch == 1_000_000


def test_patches_are_drawn_as_published():
    for name in NAMES:
        data = load_recipe(name).data
        drawn = (data.draw, data.scales, data.short_side)
        if name.startswith(("realesrnet", "realesrgan")):
            assert drawn == ("area", (1.0, 0.75, 0.5, 1 / 3), 400)
        else:
            assert drawn == (
                "area" if name.startswith("esrgan") or name in ("span", "realplksr") else "picture",
                (1.0,),
                None,
            )


@pytest.mark.parametrize("name", [name for name in PUBLISHED if "esrgan" in name or "realesrnet" in name])
def test_the_published_mixture_that_a_recipe_names_is_valid(name):
    text = re.sub(
        r"^# (\[\[data|folder = .photographs/images|scaled)", r"\1", named_files("train")[name].read_text(), flags=re.M
    )
    data = validate_config(tomllib.loads(text), Recipe, name).data
    assert [Path(source.folder).name for source in data.source] == ["DIV2K", "Flickr2K", "OST"]
    assert [source.scaled for source in data.source] == [True, True, not name.startswith("real")]


@pytest.mark.parametrize(
    ("name", "switches", "stages"),
    [
        ("srgan", ["network.blocks=5"], 2),
        ("realesrgan", ["degradation.orders=1"], 4),
        ("realesrgan", ["degradation.sinc=false"], 4),
        ("realesrgan", ["realesrgan:discriminator.spectral_norm=false"], 4),
        ("realesrgan", ["realesrgan:discriminator.architecture=vgg256"], 4),
        ("realesrgan-plus", ["realesrnet:degradation.sharpen.enabled=true"], 4),
        ("compact-gan", ["network.blocks=16"], 2),
    ],
)
def test_switches_that_the_recipes_name(tmp_path, name, switches, stages):
    text = named_files("train")[name].read_text() + named_files("train")["compact"].read_text()
    for switch in switches:
        assert f"--set {switch}" in text
    assert len(plan_stages(name, switches, tmp_path, alone=False)) == stages


@pytest.mark.parametrize("name", ADVERSARIAL)
def test_the_way_without_vgg19_that_a_recipe_names_is_valid(name):
    text = named_files("train")[name].read_text()
    assert "--set loss.perceptual.weight=0" in text
    pixel = tomllib.loads(text)["loss"]["weight"]
    switches = ["loss.perceptual.weight=0"]
    if pixel < 1:
        assert f"--set {name}:loss.weight=1" in text
        switches.append("loss.weight=1")
    recipe = load_recipe(name, switches)
    assert (recipe.loss.perceptual.weight, recipe.loss.weight) == (0, 1)


def test_readme_lists_every_recipe_with_its_numbers():
    rows = {}
    section = (ROOT / "train" / "README.md").read_text().split("## All recipes\n", 1)[1].split("\n## ", 1)[0]
    for line in section.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if len(cells) == 8 and cells[0].startswith("`"):
            rows[cells[0].strip("`")] = cells
    assert sorted(rows) == NAMES
    for name, (_, _, before, _, _, steps, batch, patch) in rows.items():
        recipe = load_recipe(name)
        assert before.strip("`") == (recipe.init_from or "")
        assert int(steps.replace(" ", "")) == recipe.run.steps
        assert (int(batch), int(patch)) == (recipe.data.batch, recipe.data.patch_size)
