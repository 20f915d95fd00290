"""The stages that lead to a recipe: which are there already, which go on, which have to be trained. No torch here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Literal

from sr_deploy.arch.transfer import find_misfit
from sr_deploy.candidates import read_each
from sr_deploy.config import find_config, read_toml
from sr_deploy.errors import RecipeError
from sr_deploy.files import require_file
from sr_deploy.run_folder import MANIFEST_NAME, RECIPE_NAME, find_last_checkpoint
from sr_deploy.train.recipe import Recipe, find_differences, load_recipe, read_run_recipe
from sr_deploy.train.run import RunManifest, free_run_folder, read_manifest
from sr_deploy.untrusted import find_inside

# What says which stage this is, so never meant for the stages before it.
_OWN_KEYS = ("name", "description", "init_from")


@dataclass(frozen=True)
class Stage:
    """One recipe of a chain and the run that it has, or will have."""

    recipe: Recipe
    """With the overrides that are meant for it."""
    run: Path
    action: Literal["train", "resume", "take"]
    """Train it anew, go on with it, or take it as it is, finished."""
    note: str = ""
    """Why not anew, for the user."""
    numbered: bool = False
    """Whether the folder of a new run is a name of ours: another one will do if it is taken meanwhile."""


def plan_stages(
    name: str, overrides: Sequence[str], runs: Path, *, alone: bool, out: Path | None = None
) -> list[Stage]:
    """The stages to go through for a recipe, first to last.

    An override `section.key=value` counts for every stage whose recipe has that section, `STAGE:section.key=value`
    for one of them. Earlier stages are looked for in `runs`, by the recipe that their manifests name: a finished one
    is taken, an unfinished one of the same settings goes on, else a new one is trained. The last is always new.

    Args:
        name: the last recipe, shipped or a TOML file; `init_from` in a file may be a TOML file beside it.
        overrides: as on the command line.
        runs: where runs lie side by side.
        alone: leave out the stages before (the weights to start from are given).
        out: the last stage's folder; None: a free one in `runs`.

    Raises:
        RecipeError: a recipe does not validate, an override names a stage that is not there, or stages go in a circle.
        InputError: no such file.
    """
    files = _follow_back(name, alone=alone)
    _check_stage_names(overrides, [path.stem for path in files])
    recipes = [load_recipe(str(path), _overrides_for(path, overrides, last=path == files[-1])) for path in files]
    for before, after in pairwise(recipes):
        if misfit := find_misfit(before.arch_spec(), after.arch_spec()):
            raise RecipeError(
                f"recipe {after.name} trains {after.arch_spec().title()} and starts from recipe {before.name}, which "
                f"trains {before.arch_spec().title()}: no weights fit ({misfit}); give both the same network"
            )
    last = recipes[-1]
    stages = [_find_stage(recipe, runs) for recipe in recipes[:-1]]
    return [*stages, _new_stage(last, runs) if out is None else Stage(last, out, "train")]


def _follow_back(name: str, *, alone: bool) -> list[Path]:
    """Files of the recipes from the first stage to `name`."""
    files = [find_config("train", name)]
    while not alone and (before := read_toml(files[0]).get("init_from")) is not None:
        found = _find_stage_before(files[0], str(before))
        if found in files:
            raise RecipeError(f"{files[0]}: init_from = {before!r} leads back to itself; stages cannot go in a circle")
        files.insert(0, found)
    return files


def _find_stage_before(file: Path, name: str) -> Path:
    """The file that `init_from` means: a shipped recipe, or a TOML file in the folder of the one that names it."""
    if name.endswith(".toml"):
        return require_file(find_inside(file.parent, name, RecipeError), "a TOML file")
    if "/" in name:
        raise RecipeError(f"{file}: init_from = {name!r} is not a recipe's name and no .toml file beside this one")
    return find_config("train", name)


def _check_stage_names(overrides: Sequence[str], names: Sequence[str]) -> None:
    for override in overrides:
        stage, _ = _split_override(override)
        if stage is not None and stage not in names:
            raise RecipeError(f"--set {override}: no stage {stage!r} here; the stages are {', '.join(names)}")


def _overrides_for(path: Path, overrides: Sequence[str], *, last: bool) -> list[str]:
    document = read_toml(path)
    chosen = []
    for override in overrides:
        stage, setting = _split_override(override)
        if stage == path.stem or (stage is None and (last or _is_meant_for(document, setting))):
            chosen.append(setting)
    return chosen


def _is_meant_for(document: dict[str, object], setting: str) -> bool:
    """Whether an earlier stage has the section of a setting."""
    *sections, key = setting.partition("=")[0].strip().split(".")
    if not sections:
        return key not in _OWN_KEYS
    table: object = document
    for section in sections:
        table = table.get(section) if isinstance(table, dict) else None
    return isinstance(table, dict)


def _split_override(override: str) -> tuple[str | None, str]:
    """(stage or None, `section.key=value`)."""
    key, equals, value = override.partition("=")
    stage, colon, rest = key.partition(":")
    return (stage.strip(), rest + equals + value) if colon else (None, override)


def _find_stage(recipe: Recipe, runs: Path) -> Stage:
    found, _ = read_each(runs, MANIFEST_NAME, lambda run: _read_run(run, recipe.name))
    ours = [(manifest, stored, run) for (manifest, stored), run in found if stored is not None]
    for manifest, stored, run in sorted(ours, key=lambda one: one[0].updated_at, reverse=True):
        differences = find_differences(stored, recipe)
        if manifest.status == "finished" and stored.arch_spec() == recipe.arch_spec():
            other = (
                f"; trained with {'; '.join(map(str, differences))}: move it away to train anew" if differences else ""
            )
            return Stage(recipe, run, "take", f"{run} is finished ({manifest.step} steps) and is started from{other}")
        if manifest.status != "finished" and not differences and find_last_checkpoint(run) is not None:
            return Stage(recipe, run, "resume", f"{run} goes on first: the recipe starts from it")
    return _new_stage(recipe, runs)


def _read_run(run: Path, name: str) -> tuple[RunManifest, Recipe | None]:
    """A run's manifest, and its recipe if it is the one of that name."""
    manifest = read_manifest(run)
    return manifest, read_run_recipe(run / RECIPE_NAME) if manifest.recipe == name else None


def _new_stage(recipe: Recipe, runs: Path) -> Stage:
    return Stage(recipe, free_run_folder(runs, recipe.name), "train", numbered=True)
