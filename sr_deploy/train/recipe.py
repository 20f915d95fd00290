"""What a training is, in one TOML file: the recipe, its reading, writing and comparing."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from sr_deploy.arch.spec import ArchSpec
from sr_deploy.config import find_config, load_config
from sr_deploy.files import require_file, write_text

_STEREO_PAIR = {"motorcycle_left", "motorcycle_right"}
# What may differ between a run and its resumption: none of these changes what a step computes.
_FREE_TO_CHANGE = ("description", "run.", "data.workers", "data.cache_gib")


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class NetworkRecipe(_Section):
    """The generator, apart from its scale (stated once, at the top of the recipe)."""

    architecture: str
    """Name in the registry: srresnet, msrresnet, rrdbnet or compact."""
    features: int = Field(ge=1)
    """Channels of the feature maps in the trunk."""
    blocks: int = Field(ge=0)
    """Residual blocks, or inner convolutions for compact."""
    growth: int | None = Field(default=None, ge=1)
    """Channels that each convolution of a dense block adds (rrdbnet only)."""


class DataRecipe(_Section):
    """What the network sees, and what it is measured on."""

    training: tuple[str, ...] = ()
    """Bundled photographs to train on, by name; not used when `folder` is set."""
    held_out: tuple[str, ...] = ()
    """Bundled photographs to validate on, by name; not used when `validation_folder` is set."""
    folder: str | None = None
    """Folder of images to train on, searched recursively; images of any size."""
    validation_folder: str | None = None
    """Folder of images to validate on."""
    patch_size: int = Field(ge=8)
    """Side of a high-resolution training patch, in pixels; a multiple of the scale."""
    batch: int = Field(ge=1)
    """Patches per step."""
    flips: bool = True
    """Mirror half of the patches, left to right."""
    rotations: bool = True
    """Turn each patch by a random multiple of 90 degrees."""
    workers: int = Field(default=1, ge=0, le=64)
    """Threads that prepare batches ahead of the network; 0 prepares them in the loop. The stream is the same."""
    cache_gib: float = Field(default=4.0, gt=0)
    """Memory for decoded images, in GiB; what does not fit is decoded again when it is drawn."""

    @model_validator(mode="after")
    def _check_sides(self) -> Self:
        if self.folder is None and not self.training:
            raise ValueError("name bundled photographs in data.training, or set data.folder (--data DIR)")
        if self.validation_folder is None and not self.held_out:
            raise ValueError("name bundled photographs in data.held_out, or set data.validation_folder")
        if self.folder is None and self.validation_folder is None:
            if both := sorted(set(self.training) & set(self.held_out)):
                raise ValueError(f"{', '.join(both)} cannot be in both data.training and data.held_out")
            if _STEREO_PAIR & set(self.training) and _STEREO_PAIR & set(self.held_out):
                raise ValueError(
                    "motorcycle_left and motorcycle_right show one scene: put both in data.training or in data.held_out"
                )
        return self


class LossRecipe(_Section):
    """The pixel loss."""

    pixel: Literal["l1", "mse", "charbonnier"] = "l1"
    """Mean absolute error, mean squared error, or the smooth L1 of Charbonnier."""
    weight: float = Field(default=1.0, gt=0)
    """Factor of the pixel loss."""
    charbonnier_epsilon: float = Field(default=1e-3, gt=0)
    """Epsilon of sqrt(d^2 + epsilon^2), in image units of [0, 1] (1e-3 in LapSRN)."""


class ScheduleRecipe(_Section):
    """How the learning rate changes with the step."""

    kind: Literal["constant", "multistep", "cosine", "cosine_restarts"] = "constant"
    """constant; multistep (times `gamma` at each milestone); cosine (to `minimum` at the last step);
    cosine_restarts (a cosine for each of `periods`)."""
    milestones: tuple[int, ...] = ()
    """multistep: steps at which the rate is multiplied by gamma, ascending."""
    gamma: float = Field(default=0.5, gt=0, le=1)
    """multistep: the factor."""
    periods: tuple[int, ...] = ()
    """cosine_restarts: lengths of the cosines in steps, one after another."""
    minimum: float = Field(default=1e-7, ge=0)
    """cosine and cosine_restarts: the rate at the end of a cosine."""
    warm_up: int = Field(default=0, ge=0)
    """Steps in which the rate first grows linearly to its value; 0 for none."""

    @model_validator(mode="after")
    def _check_kind(self) -> Self:
        if self.kind == "multistep" and (not self.milestones or list(self.milestones) != sorted(set(self.milestones))):
            raise ValueError("multistep needs milestones, ascending")
        if self.kind == "cosine_restarts" and (not self.periods or min(self.periods) < 1):
            raise ValueError("cosine_restarts needs periods of at least one step each")
        return self


class OptimiserRecipe(_Section):
    """Adam."""

    learning_rate: float = Field(gt=0)
    """Step size before the schedule."""
    betas: tuple[float, float] = (0.9, 0.99)
    """Decay of Adam's two moments (0.9 and 0.99 in BasicSR and Real-ESRGAN)."""
    schedule: ScheduleRecipe = ScheduleRecipe()
    """How the learning rate changes."""

    @model_validator(mode="after")
    def _check_betas(self) -> Self:
        if not all(0 <= beta < 1 for beta in self.betas):
            raise ValueError("betas lie in [0, 1)")
        return self


class EmaRecipe(_Section):
    """The moving average of the weights, which is what export takes."""

    decay: float = Field(default=0.999, ge=0, lt=1)
    """Share of the old average kept at each step; 0 makes the average equal the weights."""
    warm_up: bool = True
    """Use min(decay, (1 + step) / (10 + step)), so that short trainings forget their first weights."""


class PrecisionRecipe(_Section):
    """How the forward and backward pass compute. Weights and optimiser stay FP32."""

    autocast: Literal["auto", "off", "bf16", "fp16"] = "auto"
    """auto measures at the start which is fastest here; off is FP32."""
    channels_last: bool | Literal["auto"] = "auto"
    """Memory layout NHWC; auto measures."""


class RunRecipe(_Section):
    """How long, and what is written when."""

    steps: int = Field(ge=1)
    """Updates of the weights."""
    log_every: int = Field(default=20, ge=1)
    """Steps between two lines of metrics."""
    validate_every: int = Field(default=1000, ge=1)
    """Steps between two validations; the last step is always validated."""
    checkpoint_every: int = Field(default=1000, ge=1)
    """Steps between two checkpoints; the last step always has one."""
    keep_checkpoints: int = Field(default=3, ge=1)
    """Checkpoints kept, the newest ones."""
    preview_every: int = Field(default=1000, ge=1)
    """Steps between two preview pictures; the last step always has one."""


class Recipe(_Section):
    """One stage of training, complete: with the data and the machine it decides every bit of the result."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    """Name of the recipe and, with a number behind if taken, of the run's folder."""
    description: str = ""
    """What it is for, in a sentence."""
    scale: int = Field(ge=1, le=16)
    """Output pixels per input pixel, along each side."""
    seed: int = Field(default=0, ge=0, lt=2**63)
    """Where all random draws begin."""
    init_from: str | None = None
    """Recipe of the stage before, whose generator this one starts from (given with --from)."""
    network: NetworkRecipe
    """The generator."""
    data: DataRecipe
    """The images."""
    loss: LossRecipe = LossRecipe()
    """What is minimised."""
    optimiser: OptimiserRecipe
    """How it is minimised."""
    ema: EmaRecipe = EmaRecipe()
    """The average of the weights."""
    precision: PrecisionRecipe = PrecisionRecipe()
    """Number formats and memory layout."""
    run: RunRecipe
    """How long."""

    @model_validator(mode="after")
    def _check_patch(self) -> Self:
        if self.data.patch_size % self.scale:
            raise ValueError(f"data.patch_size = {self.data.patch_size} is no multiple of scale = {self.scale}")
        return self

    def arch_spec(self) -> ArchSpec:
        """The generator's full description."""
        return ArchSpec(scale=self.scale, channels=3, **self.network.model_dump())


def load_recipe(name: str, overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe.

    Args:
        name: a shipped recipe's name, or the path of a TOML file.
        overrides: `section.key=value`.

    Raises:
        RecipeError: unknown name or key (the nearest known one is named), a wrong type or value.
        InputError: no such file.
    """
    return load_config(find_config("train", name), Recipe, overrides)


def read_run_recipe(path: Path, overrides: Sequence[str] = ()) -> Recipe:
    """Read the resolved recipe of a run.

    Raises:
        InputError: no such file.
        RecipeError: it does not validate.
    """
    return load_config(require_file(path, "the recipe of a run"), Recipe, overrides)


def write_recipe(path: Path, recipe: Recipe) -> None:
    """Write a recipe so that `read_run_recipe` gives it back, defaults spelled out.

    Raises:
        OutputError: it cannot be written.
    """
    header = "# The recipe as it was trained, every default spelled out. Written by sr-deploy.\n"
    write_text(path, header + format_toml(recipe.model_dump(mode="json")))


def format_toml(document: Mapping[str, object]) -> str:
    """TOML text of nested tables of text, numbers, booleans and lists; keys with None are left out."""
    return "\n".join(_table_lines(document, ())) + "\n"


def find_differences(stored: Recipe, wanted: Recipe) -> list[str]:
    """What keeps `wanted` from going on with a run of `stored`, as `key: stored -> wanted`, sorted.

    Lengths and intervals may change. A wanted "auto" agrees with whatever was measured then.
    """
    before, after = _flatten(stored.model_dump(mode="json")), _flatten(wanted.model_dump(mode="json"))
    return [
        f"{key}: {before.get(key)!r} -> {after.get(key)!r}"
        for key in sorted(before.keys() | after.keys())
        if before.get(key) != after.get(key)
        and not key.startswith(_FREE_TO_CHANGE)
        and not (key.startswith("precision.") and after.get(key) == "auto")
    ]


def _table_lines(table: Mapping[str, object], prefix: tuple[str, ...]) -> list[str]:
    inner = {key: value for key, value in table.items() if isinstance(value, Mapping)}
    plain = {key: value for key, value in table.items() if key not in inner and value is not None}
    lines = [f"{key} = {_format_value(value)}" for key, value in plain.items()]
    for key, value in inner.items():
        path = (*prefix, key)
        lines += ["", f"[{'.'.join(path)}]", *_table_lines(value, path)]
    return lines


def _format_value(value: object) -> str:
    if isinstance(value, str):
        # JSON's escapes are TOML's too, but TOML wants DEL escaped as well.
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, list | tuple):
        return f"[{', '.join(_format_value(item) for item in value)}]"
    raise TypeError(f"no TOML form for {type(value).__name__}")


def _flatten(document: Mapping[str, object], prefix: str = "") -> dict[str, object]:
    flat: dict[str, object] = {}
    for key, value in document.items():
        if isinstance(value, Mapping):
            flat |= _flatten(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat
