from pathlib import Path

import pytest
from pydantic import BaseModel, ConfigDict, Field

from sr_deploy.config import companion_folder, find_config, load_config, named_files
from sr_deploy.errors import InputError, RecipeError


class Loss(BaseModel):
    model_config = ConfigDict(extra="forbid")
    kind: str = "l1"
    weight: float = Field(default=1.0, gt=0)


class Settings(BaseModel):
    model_config = ConfigDict(extra="forbid")
    scale: int
    loss: Loss = Loss()


@pytest.fixture
def recipe(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text('scale = 4\n[loss]\nkind = "mse"\n')
    return path


def test_values_and_overrides(recipe):
    assert load_config(recipe, Settings) == Settings(scale=4, loss=Loss(kind="mse"))
    changed = load_config(recipe, Settings, ["loss.weight=0.5", "scale=2", "loss.kind=charbonnier"])
    assert changed == Settings(scale=2, loss=Loss(kind="charbonnier", weight=0.5))


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["loss.wieght=1"], r"unknown key 'loss.wieght' \(did you mean 'weight'\?\); known there: kind, weight"),
        (["scael=1"], r"unknown key 'scael' \(did you mean 'scale'\?\); known there: scale, loss"),
        (["scale=four"], r"'scale': Input should be a valid integer.*\(it is 'four'\)"),
        (["loss.weight=-1"], r"'loss.weight': Input should be greater than 0 \(it is -1\)"),
        (["scale"], r"--set takes section.key=value, not 'scale'"),
        (["scale.deep=1"], r"'scale' is a value, not a section"),
    ],
)
def test_errors_name_key_value_and_way_out(recipe, overrides, message):
    with pytest.raises(RecipeError, match=message):
        load_config(recipe, Settings, overrides)


def test_missing_key_and_broken_file(tmp_path):
    empty = tmp_path / "empty.toml"
    empty.write_text("")
    with pytest.raises(RecipeError, match=r"empty.toml: 'scale' is missing"):
        load_config(empty, Settings)
    broken = tmp_path / "broken.toml"
    broken.write_text("scale = = 4")
    with pytest.raises(RecipeError, match=r"broken.toml is not valid TOML"):
        load_config(broken, Settings)
    binary = tmp_path / "binary.toml"
    binary.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(RecipeError, match=r"binary.toml is not valid TOML"):
        load_config(binary, Settings)


def test_found_by_name_in_the_checkout():
    assert companion_folder("train") == Path(__file__).parents[2] / "train"
    assert find_config("train", "demo").name == "demo.toml"
    assert "demo" in named_files("train")
    assert "default" in named_files("export")


def test_unknown_name_lists_the_known(tmp_path):
    with pytest.raises(RecipeError, match=r"'dmeo' \(did you mean 'demo'\?\); known: .*demo"):
        find_config("train", "dmeo")
    with pytest.raises(RecipeError, match=r"no spec named 'nothing-like-it'; known: .*default"):
        find_config("export", "nothing-like-it")
    with pytest.raises(InputError, match=r"x\.toml does not exist"):
        find_config("train", str(tmp_path / "x.toml"))
