from __future__ import annotations

import re
import tomllib
from typing import get_args

import pytest
from pydantic import BaseModel

from sr_deploy.config import OpenSection, companion_folder, named_files
from sr_deploy.errors import InputError, RecipeError
from sr_deploy.train.recipe import Recipe, find_differences, format_toml, load_recipe, read_run_recipe, write_recipe


@pytest.mark.parametrize("name", sorted(named_files("train")))
def test_shipped_recipe_loads_under_its_name(name):
    assert load_recipe(name).name == name


@pytest.mark.parametrize("name", sorted(named_files("train")))
def test_shipped_recipe_explains_every_field_that_it_sets(name):
    lines = (companion_folder("train") / f"{name}.toml").read_text().splitlines()
    settings = [
        (line, before) for before, line in zip(["", *lines], lines, strict=False) if re.match(r"[a-z_]+ =", line)
    ]
    unexplained = [
        line
        for line, before in settings
        if "#" not in line and not before.startswith("#") and not line.startswith(("name", "description"))
    ]
    assert unexplained == []


def test_demo_is_the_network_of_the_issue():
    recipe = load_recipe("demo")
    assert recipe.arch_spec().title() == "compact x4, 8 blocks, 48 features, RGB"
    assert recipe.optimizer.schedule.kind == "cosine"
    lite = load_recipe("rrdb-lite").arch_spec()
    assert (lite.architecture, lite.blocks, lite.features) == ("rrdbnet", 4, 32)
    assert not set(recipe.data.training) & set(recipe.data.held_out)


def test_overrides_change_single_values():
    recipe = load_recipe("demo", ["run.steps=12", "loss.pixel=mse", 'data.training=["astronaut"]'])
    assert (recipe.run.steps, recipe.loss.pixel, recipe.data.training) == (12, "mse", ("astronaut",))


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("optimizer.learning_rat=1", "unknown key 'optimizer.learning_rat' (did you mean 'learning_rate'?)"),
        ("optimizer.schedule.milestone=[1]", "(did you mean 'milestones'?)"),
        ("network.scale=2", "unknown key 'network.scale'"),
        ("run.steps=many", "'run.steps': Input should be a valid integer"),
        ("data.patch_size=130", "data.patch_size = 130 is not a multiple of scale = 4"),
        ('data.held_out=["motorcycle_left"]', "motorcycle_left cannot be in both"),
        ("loss.pixel=l2", "'loss.pixel': Input should be 'l1', 'mse' or 'charbonnier'"),
        ("optimizer.schedule.kind=multistep", "multistep needs milestones"),
    ],
)
def test_mistakes_are_named(override, message):
    with pytest.raises(RecipeError, match=re.escape(message)):
        load_recipe("demo", [override])


def test_stereo_pair_stays_on_one_side():
    with pytest.raises(RecipeError, match="show one scene"):
        load_recipe("demo", ['data.training=["motorcycle_left"]', 'data.held_out=["motorcycle_right"]'])


def test_unknown_recipe_lists_those_known():
    with pytest.raises(RecipeError, match=r"'dmo' \(did you mean 'demo'\?\); known: .*demo.*rrdb-lite"):
        load_recipe("dmo")
    with pytest.raises(InputError, match=r"nowhere\.toml does not exist"):
        load_recipe("nowhere.toml")


def test_written_recipe_reads_back_equal(tmp_path, make_recipe):
    odd = 'a "quoted"\nline\\ with é, 漢, \x7f and \t'
    recipe = make_recipe().model_copy(update={"description": odd})
    recipe = Recipe.model_validate(
        {
            **recipe.model_dump(),
            "optimizer": {"learning_rate": 1e-7, "schedule": {"kind": "multistep", "milestones": [1, 5]}},
        }
    )
    write_recipe(tmp_path / "recipe.toml", recipe)
    assert read_run_recipe(tmp_path / "recipe.toml") == recipe
    for name in named_files("train"):
        write_recipe(tmp_path / "recipe.toml", load_recipe(name))
        assert read_run_recipe(tmp_path / "recipe.toml") == load_recipe(name)


def test_toml_of_every_kind_of_value():
    document = {"a": 1, "b": 2.5e-9, "c": True, "d": ["x", "y"], "none": None, "t": {"u": {"v": ""}, "w": [1, 2]}}
    read = tomllib.loads(format_toml(document))
    del document["none"]
    assert read == document


def test_differences_name_keys_and_values(make_recipe):
    stored = make_recipe()
    longer = make_recipe(run={"steps": 9, "checkpoint_every": 2}, data={"workers": 3}, precision={"autocast": "auto"})
    assert find_differences(stored, longer) == []
    other = make_recipe(optimizer={"learning_rate": 0.5}, loss={"pixel": "mse"}, precision={"autocast": "bf16"})
    assert [str(one) for one in find_differences(stored, other)] == [
        "loss.pixel: 'l1' -> 'mse'",
        "optimizer.learning_rate: 0.001 -> 0.5",
        "precision.autocast: 'off' -> 'bf16'",
    ]


def test_differences_say_what_a_run_may_change(make_recipe):
    def vgg(path):
        return {"perceptual": {"weight": 1.0, "layers": {"conv3_4": 1.0}, "vgg19": path}}

    one = make_recipe(loss=vgg("/a.pth"), data={"folder": "/a"})
    places = {"folder": "/b", "lr_folder": "/lr", "validation_folder": "/v", "validation_lr_folder": "/vlr"}
    other = make_recipe(loss=vgg("/b.pth"), data={**places, "batch": 8}, network={"features": 9})
    other = other.model_copy(update={"channels": 1})
    kinds = {each.key: (each.is_place, each.is_fixed) for each in find_differences(one, other)}
    assert kinds == {
        "channels": (False, True),
        "data.batch": (False, False),
        "data.folder": (True, False),
        "data.lr_folder": (True, False),
        "data.validation_folder": (True, False),
        "data.validation_lr_folder": (True, False),
        "loss.perceptual.vgg19": (True, False),
        "network.features": (False, True),
    }


def list_fields(model, prefix=""):
    """Every field of a recipe by its dotted key."""
    for name, field in model.model_fields.items():
        inner = [one for one in (field.annotation, *get_args(field.annotation)) if isinstance(one, type)]
        sections = [one for one in inner if issubclass(one, BaseModel)]
        if sections:
            section = sections[0].find_model() if issubclass(sections[0], OpenSection) else sections[0]
            yield from list_fields(section, f"{prefix}{name}.")
        else:
            yield prefix + name


HOSTILE = [
    "nan",
    "inf",
    "-inf",
    "1e308",
    "-1e308",
    str(10**26),
    "9" * 5000,
    "[nan, nan]",
    "[1e308, 1e308]",
    "[-1e9, 1e9]",
]


@pytest.mark.parametrize("key", list(list_fields(Recipe)))
def test_every_number_has_bounds(key):
    """No value is taken that is NaN, infinite or absurd; what a word of a field may be is its own."""
    texts = ("name", "description", "init_from", "network.architecture", "vgg19", "weights", "folder")
    for value in HOSTILE:
        if key.endswith(texts):
            continue
        with pytest.raises(RecipeError) as caught:
            load_recipe("realesrgan", [f"{key}={value}"])
        assert len(str(caught.value)) < 1500


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("data.cache_gib=inf", "'data.cache_gib': Input should be a finite number"),
        ("network.blocks=1000000000", "'network.blocks': Input should be less than or equal to 1024"),
        ("network.features=1000000000", "'network.features': Input should be less than or equal to 8192"),
        ("degradation.final.sizes=[4]", "sizes of kernels are odd, not [4]"),
        ("degradation.final.sizes=[-3]", "greater than or equal to 3"),
        ("degradation.final.sinc_cutoff=[3, 1]", "sinc_cutoff = [3.0, 1.0] does not ascend"),
        ("degradation.first.resize.factors=[0.001, 1]", "the first lies in [0.01, 1]"),
        ("a.b.c.d.e.f.g.h.i.j=1", "a key has at most 8 sections"),
        ("k" * 100_000 + "=1", "unknown key 'kkk"),
        ("x" * 100_000, "--set takes section.key=value"),
    ],
    ids=lambda text: text[:30],
)
def test_bounds_are_told(override, message):
    with pytest.raises(RecipeError) as caught:
        load_recipe("realesrgan", [override])
    assert message in str(caught.value)
    assert len(str(caught.value)) < 1500


def test_many_mistakes_are_told_in_part(tmp_path):
    (tmp_path / "x.toml").write_text("".join(f"k{number} = 1\n" for number in range(500)))
    with pytest.raises(RecipeError, match=r"and 501 more$"):
        load_recipe(str(tmp_path / "x.toml"))
