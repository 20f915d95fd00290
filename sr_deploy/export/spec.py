"""Deployment specs: which graphs to make, which shapes engines take, how closely all must agree with PyTorch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

from pydantic import BaseModel, BeforeValidator, Field, model_validator

from sr_deploy.backends import Precision
from sr_deploy.bundle import EnginePlan, Profile, Thresholds, parse_profile
from sr_deploy.config import find_config, load_config
from sr_deploy.errors import ShapeError
from sr_deploy.export.int8.quantization_options import Fp8Options, Int8Options
from sr_deploy.graph.io_dtype import IoDtype

EXPORTABLE: tuple[Precision, ...] = ("fp32", "fp16", "bf16", "int8", "fp8")
"""Precisions that there are graphs for, in the order of a bundle."""


def _read_profile(value: object) -> object:
    if not isinstance(value, str):
        return value
    try:
        return parse_profile(value)
    except ShapeError as error:
        raise ValueError(str(error)) from error


ProfileText = Annotated[Profile, BeforeValidator(_read_profile)]


class ExportSpec(BaseModel, frozen=True, extra="forbid", allow_inf_nan=False, str_max_length=4096):
    """What `sr-deploy export` makes of a checkpoint. TOML files of this form lie in the folder `export/`."""

    name: str = "custom"
    """Name of the spec: the file's, unless it says another."""
    description: str = ""
    """One sentence for people."""
    precisions: tuple[Precision, ...] = ("fp32",)
    """Graphs to make; FP32 is always among them and comes first."""
    io_dtype: IoDtype = "fp32"
    """I/O type of all graphs: `fp32` or `fp16` (N x C x H x W in [0, 1]), `uint8` or `uint16` (N x H x W x C,
    the conversions inside the graph; values that are not finite cannot be seen in them). TensorRT has no uint16."""
    profiles: tuple[ProfileText, ...] = Field(min_length=1, max_length=100)
    """Shapes that engines are built for; in TOML each is `NAME=MIN,OPT,MAX`."""
    engine: EnginePlan = EnginePlan()
    """How engines are built, with which SDK and for which GPUs; in TOML the table `[engine]`."""
    rewrite: bool = True
    """Whether the graphs are rewritten so that backends have less to do for the same output (docs/graph.md)."""
    thresholds: dict[Precision, Thresholds] = {}
    """What verification asks of each precision; one that is left out has the default's."""
    int8: Int8Options = Int8Options()
    """Budget and settings of INT8 (docs/int8.md); in TOML the table `[int8]`."""
    fp8: Fp8Options = Fp8Options()
    """The same of FP8; in TOML the table `[fp8]`."""

    @model_validator(mode="before")
    @classmethod
    def _complete(cls, document: object) -> object:
        if not isinstance(document, dict):
            return document
        precisions = document.get("precisions", ())
        if isinstance(precisions, list | tuple) and all(isinstance(precision, str) for precision in precisions):
            wanted = {"fp32", *precisions}
            known = [precision for precision in EXPORTABLE if precision in wanted]
            document = {**document, "precisions": (*known, *sorted(wanted - set(EXPORTABLE)))}
        return document

    @model_validator(mode="after")
    def _possible(self) -> ExportSpec:
        for precision, limits in self.thresholds.items():
            if limits.psnr_db is None:  # without it, a graph that computes anything at all could pass
                raise ValueError(f"thresholds.{precision}.psnr_db is missing; give the least PSNR allowed, in dB")
        if self.int8.format != "int8":
            raise ValueError(f"int8.format is {self.int8.format!r}; FP8 has a table of its own, [fp8]")
        names = [profile.name for profile in self.profiles]
        if len(set(names)) < len(names):
            raise ValueError(f"profiles need different names; they are {', '.join(names)}")
        return self

    def with_options(
        self,
        *,
        fp16: bool = False,
        bf16: bool = False,
        int8: bool = False,
        fp8: bool = False,
        int8_changes: Mapping[str, object] | None = None,
        io_dtype: IoDtype | None = None,
        profiles: tuple[Profile, ...] = (),
        rewrite: bool = True,
    ) -> ExportSpec:
        """A copy in which what was asked for on the command line comes before what the file says."""
        document = self.model_dump()
        asked: dict[Precision, bool] = {"fp16": fp16, "bf16": bf16, "int8": int8, "fp8": fp8}
        document["precisions"] = (*self.precisions, *(precision for precision, wanted in asked.items() if wanted))
        for table in ("int8", "fp8"):
            document[table] = {**document[table], **(int8_changes or {})}
        if io_dtype is not None:
            document["io_dtype"] = io_dtype
        if profiles:
            document["profiles"] = profiles
        if not rewrite:
            document["rewrite"] = False
        return ExportSpec.model_validate(document)


def load_spec(name: str = "default") -> ExportSpec:
    """Read a spec by name or path.

    Raises:
        RecipeError: no such spec, or it does not validate.
        InputError: a path was given and there is no readable file.
    """
    path = find_config("export", name)
    spec = load_config(path, ExportSpec)
    return spec if "name" in spec.model_fields_set else spec.model_copy(update={"name": path.stem})
