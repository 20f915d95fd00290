"""What a page says of a run, read from its files: where one is damaged or missing, the rest is shown."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from sr_deploy.config import named_files, read_toml
from sr_deploy.errors import SrDeployError
from sr_deploy.run_folder import RECIPE_NAME
from sr_deploy.train.best import is_better
from sr_deploy.train.metrics import read_metrics
from sr_deploy.train.recipe import Recipe, RunRecipe, flatten_tables, load_recipe, read_run_recipe
from sr_deploy.train.run import RunManifest, ValidationResult, read_manifest
from sr_deploy.untrusted import find_inside

T = TypeVar("T")


@dataclass(frozen=True)
class RunContent:
    """A run, as far as its files can be read."""

    run: Path
    manifest: RunManifest | None
    recipe: Recipe | None
    """As it was run."""
    values: Mapping[str, object]
    """Of the recipe by key; there even where the recipe does not validate."""
    shipped: Mapping[str, object] | None
    """Values of the shipped recipe of that name; None: there is none."""
    lines: Sequence[Mapping[str, Any]]
    """Of the log."""
    validations: Sequence[ValidationResult]
    """Of the log too, by step."""
    missing: list[str]
    """What could not be read, and why; sections of the page add theirs."""

    @property
    def title(self) -> str:
        """The run's name."""
        return self.manifest.name if self.manifest is not None else self.run.absolute().name

    @property
    def best_by(self) -> str:
        """The figure by which validations are compared."""
        return self.recipe.run.best_by if self.recipe is not None else "psnr_y"

    @property
    def best(self) -> ValidationResult | None:
        """The best validation, by the manifest; by the log where that has none."""
        if self.manifest is not None and self.manifest.best_validation is not None:
            return self.manifest.best_validation
        settings = self.recipe.run if self.recipe is not None else RunRecipe(steps=1)
        best = None
        for one in self.validations:
            best = one if is_better(one, best, settings) else best
        return best

    @property
    def last(self) -> ValidationResult | None:
        """The last validation."""
        if self.manifest is not None and self.manifest.last_validation is not None:
            return self.manifest.last_validation
        return self.validations[-1] if self.validations else None

    def attempt(self, what: str, read: Callable[[], T]) -> T | None:
        """What `read` gives; None where it fails, and `missing` says so of `what`."""
        try:
            return read()
        except SrDeployError as error:
            self.missing.append(f"{what}: {error}")
            return None


def read_content(run: Path) -> RunContent:
    """Read a run's manifest, recipe and log."""
    content = RunContent(run, None, None, {}, None, (), (), [])
    manifest = content.attempt("status, versions and history", lambda: read_manifest(run))
    recipe = content.attempt("the whole recipe", lambda: read_run_recipe(find_inside(run, RECIPE_NAME)))
    if recipe is not None:
        values: Mapping[str, object] | None = flatten_tables(recipe.model_dump(mode="json"))
    else:
        values = content.attempt("its values", lambda: flatten_tables(read_toml(find_inside(run, RECIPE_NAME))))
    lines = content.attempt("curves", lambda: read_metrics(run)) or []
    return RunContent(
        run=run,
        manifest=manifest,
        recipe=recipe,
        values=values or {},
        shipped=_read_shipped((values or {}).get("name")),
        lines=lines,
        validations=sorted(_read_validations(lines), key=lambda one: one.step),
        missing=content.missing,
    )


def _read_shipped(name: object) -> dict[str, object] | None:
    if not isinstance(name, str) or name not in named_files("train"):
        return None
    return flatten_tables(load_recipe(name).model_dump(mode="json"))


def _read_validations(lines: Sequence[Mapping[str, Any]]) -> list[ValidationResult]:
    found = []
    for line in lines:
        if line["kind"] == "validation":
            try:
                found.append(ValidationResult.model_validate({key: line[key] for key in line if key != "kind"}))
            except ValidationError:  # a line that is damaged is none
                continue
    return found
