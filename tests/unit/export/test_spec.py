from __future__ import annotations

import re
from pathlib import Path

import pytest

from sr_deploy.bundle import DEFAULT_THRESHOLDS, parse_profile
from sr_deploy.config import named_files, validate_config
from sr_deploy.errors import InputError, RecipeError
from sr_deploy.export.spec import ExportSpec, load_spec

REPOSITORY = Path(__file__).parents[3]


def test_default_spec_makes_fp32_and_one_tile_profile():
    spec = load_spec()
    assert spec.name == "default"
    assert spec.precisions == ("fp32",)
    assert [str(profile) for profile in spec.profiles] == ["tile=1x32x32,1x256x256,2x512x512"]
    assert spec.thresholds == {name: DEFAULT_THRESHOLDS[name] for name in ("fp32", "fp16")}
    assert spec.thresholds["fp32"].max_abs == 1e-5


@pytest.mark.parametrize("name", named_files("export"))
def test_every_spec_loads(name):
    assert load_spec(name).description


def test_readme_names_every_field_and_every_spec():
    text = (REPOSITORY / "export" / "README.md").read_text()
    fields = set(ExportSpec.model_fields) - {"name", "thresholds"}
    assert {field for field in fields if f"`{field}`" not in text} == set()
    assert {name for name in named_files("export") if f"`{name}`" not in text} == set()
    assert re.search(r"`thresholds\.PRECISION\.psnr_db`", text)


def test_options_come_before_the_file():
    profile = parse_profile("video=1x720x1280,1x720x1280,1x720x1280")
    spec = load_spec().with_options(fp16=True, profiles=(profile,))
    assert spec.precisions == ("fp32", "fp16")
    assert spec.profiles == (profile,)
    assert load_spec().with_options() == load_spec()


def test_fp32_is_always_made_and_first():
    document = {"precisions": ["fp16"], "profiles": ["a=1x8x8,1x8x8,1x8x8"]}
    assert validate_config(document, ExportSpec, "x").precisions == ("fp32", "fp16")


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ({"profiles": []}, "'profiles': "),
        ({"profiles": ["tile=1x8x8"]}, "'tile=1x8x8' is not a profile; give NAME=MIN,OPT,MAX"),
        ({"profiles": ["t=1x8x8,1x9x9,1x8x8"]}, "min <= opt <= max"),
        ({"profiles": ["t=1x8x8,1x8x8,1x8x8"] * 2}, "profiles need different names; they are t, t"),
        ({"profiles": ["t=1x8x8,1x8x8,1x8x8"], "int8": {"max_drop_db": -1}}, "greater than or equal to 0"),
        ({"profiles": ["t=1x8x8,1x8x8,1x8x8"], "precisions": [["fp16"]]}, "'precisions.0': "),
        ({"profiles": ["t=1x8x8,1x8x8,1x8x8"], "thresholds": {"fp16": {}}}, "thresholds.fp16.psnr_db is missing"),
        ({"profiles": ["t=1x8x8,1x8x8,1x8x8"], "profile": []}, "unknown key 'profile' (did you mean 'profiles'?)"),
        ({"profiles": ["t=1x8x8,1x8x8,1x8x8"], "thresholds": {"fp16": {"psnr_db": -1}}}, "thresholds.fp16.psnr_db"),
    ],
)
def test_nonsense_is_refused_in_one_line(document, message):
    with pytest.raises(RecipeError) as caught:
        validate_config(document, ExportSpec, "my.toml")
    assert message in str(caught.value)
    assert str(caught.value).startswith("my.toml: ")


def test_unknown_names_list_the_known_ones(tmp_path):
    with pytest.raises(RecipeError, match=r"no spec named 'defualt' .did you mean 'default'"):
        load_spec("defualt")
    with pytest.raises(InputError, match="does not exist"):
        load_spec(str(tmp_path / "gone.toml"))
    path = tmp_path / "mine.toml"
    path.write_text('profiles = ["t=1x8x8,1x8x8,1x8x8"]\n')
    assert load_spec(str(path)).name == "mine"
