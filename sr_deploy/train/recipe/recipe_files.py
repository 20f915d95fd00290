"""Recipes as TOML: reading, writing, comparing."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeGuard

from pydantic import create_model

from sr_deploy.arch.registry import get_architecture
from sr_deploy.config import find_config, format_toml_value, load_config, validate_config
from sr_deploy.errors import RecipeError
from sr_deploy.files import require_file, write_text
from sr_deploy.train.recipe.stage import Recipe

# What may differ between a run and its resumption: none of these changes what a step computes.
_FREE_TO_CHANGE = ("description", "run.", "data.workers", "data.cache_gib")
# Of these the pictures are compared, not the places; the others are only read by a run that begins, or hold the same.
_PLACES = ("data.folder", "data.lr_folder", "data.training", "data.validation_folder", "data.validation_lr_folder",
           "data.held_out", "loss.perceptual.vgg19",
           "discriminator.weights", "quantization.checkpoint", "init_from")  # fmt: skip
_FIXED = ("name", "scale", "channels", "discriminator", "discriminator.architecture", "discriminator.features",
          "discriminator.spectral_norm", "quantization", "quantization.checkpoint_sha256")  # fmt: skip
_FIXED_SECTIONS = ("network.", "precision.", "quantization.input_steps")


def load_recipe(name: str, overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe.

    Args:
        name: a shipped recipe's name, or the path of a TOML file.
        overrides: `section.key=value`.

    Raises:
        RecipeError: unknown name or key (the nearest known one is named), a wrong type or value.
        InputError: no such file.
    """
    return _load(find_config("train", name), overrides)


def read_run_recipe(path: Path, overrides: Sequence[str] = ()) -> Recipe:
    """Read the resolved recipe of a run.

    Raises:
        InputError: no such file.
        RecipeError: it does not validate.
    """
    return _load(require_file(path, "the recipe of a run"), overrides)


def _load(path: Path, overrides: Sequence[str]) -> Recipe:
    recipe = load_config(path, Recipe, overrides)
    options = recipe.network.model_dump()
    for key in ("scale", "channels"):
        if key in options:
            raise RecipeError(
                f"{path}: unknown key 'network.{key}'; it stands at the top of a recipe, once: {key} = ..."
            )
    architecture = get_architecture(recipe.network.architecture)
    section = create_model("Section", network=(architecture.spec, ...))  # so that errors name the keys of the recipe
    validate_config({"network": {"scale": recipe.scale, "channels": recipe.channels, **options}}, section, str(path))
    return recipe


def write_recipe(path: Path, recipe: Recipe) -> None:
    """Write a recipe so that `read_run_recipe` gives it back, defaults spelled out.

    Raises:
        OutputError: it cannot be written.
    """
    header = "# The recipe as it was trained, every default spelled out. Written by sr-deploy.\n"
    write_text(path, header + format_toml(recipe.model_dump(mode="json")))


def format_toml(document: Mapping[str, object]) -> str:
    """TOML text of nested tables of text, numbers, booleans and lists, of tables too; keys with None are left out."""
    return "\n".join(_table_lines(document, ())) + "\n"


@dataclass(frozen=True)
class Difference:
    """A key that has another value in another recipe."""

    key: str
    """As in `optimizer.learning_rate`."""
    old: object
    """None: not there."""
    new: object

    def __str__(self) -> str:
        return f"{self.key}: {self.old!r} -> {self.new!r}"

    @property
    def is_place(self) -> bool:
        """Whether it only says where something lies, or what is validated on: no step computes otherwise."""
        return self.key in _PLACES

    @property
    def is_fixed(self) -> bool:
        """Whether no run can change it: its checkpoints would not fit."""
        return self.key in _FIXED or self.key.startswith(_FIXED_SECTIONS)


def find_differences(stored: Recipe, wanted: Recipe) -> list[Difference]:
    """What `wanted` has otherwise than `stored`, sorted by key.

    Lengths, intervals, threads and memory may differ. "auto" accepts what was measured before.
    """
    before, after = flatten_tables(stored.model_dump(mode="json")), flatten_tables(wanted.model_dump(mode="json"))
    return [
        Difference(key, before.get(key), after.get(key))
        for key in sorted(before.keys() | after.keys())
        if before.get(key) != after.get(key)
        and not key.startswith(_FREE_TO_CHANGE)
        and not (key.startswith("precision.") and after.get(key) == "auto")
    ]


def _table_lines(table: Mapping[str, object], prefix: tuple[str, ...]) -> list[str]:
    inner = {key: value for key, value in table.items() if isinstance(value, Mapping)}
    several = {key: value for key, value in table.items() if _is_tables(value)}
    plain = {key: value for key, value in table.items() if key not in {*inner, *several} and value is not None}
    lines = [f"{_quote(key)} = {format_toml_value(value)}" for key, value in plain.items()]
    for key, value in inner.items():
        path = (*prefix, _quote(key))
        lines += ["", f"[{'.'.join(path)}]", *_table_lines(value, path)]
    for key, tables in several.items():
        path = (*prefix, _quote(key))
        for one in tables:
            lines += ["", f"[[{'.'.join(path)}]]", *_table_lines(one, path)]
    return lines


def _is_tables(value: object) -> TypeGuard[Sequence[Mapping[str, object]]]:
    return isinstance(value, list | tuple) and any(isinstance(one, Mapping) for one in value)


def _quote(key: str) -> str:
    return key if re.fullmatch(r"[A-Za-z0-9_-]+", key) else format_toml_value(key)


def flatten_tables(document: Mapping[str, object], prefix: str = "") -> dict[str, object]:
    """Values of nested tables by key, as in `optimizer.learning_rate`."""
    flat: dict[str, object] = {}
    for key, value in document.items():
        if isinstance(value, Mapping):
            flat |= flatten_tables(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat
