from __future__ import annotations

from datetime import UTC, datetime

import pytest

from sr_deploy.errors import RecipeError
from sr_deploy.measure.machine import describe_machine
from sr_deploy.train.chain import plan_stages
from sr_deploy.train.recipe import write_recipe
from sr_deploy.train.run import PrecisionRecord, RunManifest, write_manifest

FIRST = """
name = "first"
scale = 2
[network]
architecture = "compact"
features = 8
blocks = 1
[data]
training = ["astronaut"]
held_out = ["chelsea"]
patch_size = 32
batch = 2
[optimizer]
learning_rate = 1e-3
[run]
steps = 5
"""
SECOND = (
    FIRST.replace('name = "first"', 'name = "second"\ninit_from = "first.toml"')
    + """
[loss.adversarial]
kind = "vanilla"
weight = 0.1
[discriminator]
architecture = "unet"
"""
)


@pytest.fixture
def recipes(tmp_path):
    (tmp_path / "first.toml").write_text(FIRST)
    (tmp_path / "second.toml").write_text(SECOND)
    return tmp_path


def plan(recipes, *overrides, alone=False):
    return plan_stages(str(recipes / "second.toml"), overrides, recipes / "runs", alone=alone)


def record_run(folder, recipe, *, status: str, step: int) -> None:
    (folder / "checkpoints" / f"step-{step:06d}").mkdir(parents=True)
    write_recipe(folder / "recipe.toml", recipe)
    now = datetime.now(UTC)
    precision = PrecisionRecord(autocast="off", channels_last=False)
    manifest = RunManifest(
        name=folder.name, recipe=recipe.name, created_at=now, updated_at=now, status=status, step=step,
        steps=recipe.run.steps, seconds=1.0, precision=precision, device="cpu", data_sha256="0" * 64, versions={},
        machine=describe_machine(),
    )  # fmt: skip
    write_manifest(folder, manifest)


def test_stages_go_from_the_first_to_the_one_asked_for(recipes):
    stages = plan(recipes)
    assert [(stage.recipe.name, stage.action, stage.run) for stage in stages] == [
        ("first", "train", recipes / "runs" / "first"),
        ("second", "train", recipes / "runs" / "second"),
    ]
    assert [stage.recipe.name for stage in plan(recipes, alone=True)] == ["second"]


def test_overrides_count_where_their_section_is(recipes):
    first, second = (
        stage.recipe
        for stage in plan(
            recipes, "run.steps=7", "scale=4", "loss.adversarial.weight=0.5", "first:data.batch=6", "seed=3",
            "description=last", "discriminator.features=16",
        )
    )  # fmt: skip
    assert (first.run.steps, second.run.steps) == (7, 7)
    assert (first.scale, second.scale, first.seed, second.seed) == (4, 4, 3, 3)
    assert first.loss.adversarial is None
    assert second.loss.adversarial.weight == 0.5
    assert (first.data.batch, second.data.batch) == (6, 2)
    assert (first.description, second.description) == ("", "last")
    assert second.discriminator.features == 16


def test_a_stage_that_is_not_there_is_named(recipes):
    with pytest.raises(RecipeError, match=r"no stage 'frist' here; the stages are first, second"):
        plan(recipes, "frist:run.steps=1")


def test_a_finished_stage_is_taken_and_what_differs_is_said(recipes):
    first = plan(recipes)[0].recipe
    record_run(recipes / "runs" / "first", first, status="finished", step=5)
    stage = plan(recipes)[0]
    assert (stage.action, stage.run) == ("take", recipes / "runs" / "first")
    assert stage.note == f"{stage.run} is finished (5 steps) and is started from"
    assert plan(recipes, "data.batch=4")[0].note.endswith(
        "is started from; trained with data.batch: 2 -> 4: move it away to train anew"
    )
    other = plan(recipes, "network.features=16")[0]
    assert (other.action, other.run) == ("train", recipes / "runs" / "first-2")


def test_an_unfinished_stage_of_the_same_settings_goes_on(recipes):
    first = plan(recipes)[0].recipe
    record_run(recipes / "runs" / "first", first, status="stopped", step=3)
    assert (plan(recipes)[0].action, plan(recipes)[0].run) == ("resume", recipes / "runs" / "first")
    assert plan(recipes, "data.batch=4")[0].action == "train"


def test_stages_must_share_their_network_and_not_go_in_a_circle(recipes):
    with pytest.raises(RecipeError, match=r"second trains .*, 12 features.* \(features 8 instead of 12\)"):
        plan(recipes, "second:network.features=12")
    assert plan(recipes, "second:network.blocks=3")[0].action == "train"  # the first blocks start those
    (recipes / "first.toml").write_text(FIRST.replace('name = "first"', 'name = "first"\ninit_from = "second.toml"'))
    with pytest.raises(RecipeError, match="leads back to itself; stages cannot go in a circle"):
        plan(recipes)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("/etc/first.toml", "'/etc/first.toml' leads out of its folder"),
        ("../first.toml", "'../first.toml' leads out of its folder"),
        ("deep/../first.toml", "leads out of its folder"),
        ("link.toml", "link.toml is a link that leads out of"),
        ("../first", r"init_from = '\.\./first' is not a recipe's name and no \.toml file beside this one"),
        ("/etc/passwd", r"init_from = '/etc/passwd' is not a recipe's name"),
        ("", "no recipe named ''"),
    ],
)
def test_the_stage_before_lies_beside_the_recipe_that_names_it(recipes, tmp_path_factory, name, message):
    outside = tmp_path_factory.mktemp("outside") / "first.toml"
    outside.write_text(FIRST)
    (recipes / "link.toml").symlink_to(outside)
    (recipes / "second.toml").write_text(SECOND.replace("first.toml", name))
    with pytest.raises(RecipeError, match=message):
        plan(recipes)
    (recipes / "deep").mkdir()
    (recipes / "deep" / "first.toml").write_text(FIRST)
    (recipes / "second.toml").write_text(SECOND.replace("first.toml", "deep/first.toml"))
    assert [stage.recipe.name for stage in plan(recipes)] == ["first", "second"]
