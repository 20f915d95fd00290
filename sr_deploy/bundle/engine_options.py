"""What a builder of engines can be told beside the shapes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

from pydantic import AfterValidator, BaseModel, Field, ValidationError

from sr_deploy.backends.registry import builder_names
from sr_deploy.errors import InputError
from sr_deploy.legible import show_value

_ALWAYS = "strongly_typed"


class EngineOptions(BaseModel, frozen=True, extra="forbid"):
    """Settings of the builder. What an SDK has no such setting for is refused by name, never left out silently."""

    tf32: bool = False
    """Whether FP32 convolutions may round their inputs to TF32's 10 bits of mantissa."""
    optimization_level: int | None = Field(default=None, ge=0, le=5)
    """How long the builder looks for faster kernels, 0 to 5; None: its own default (3 in TensorRT 10 and 11)."""
    workspace_gib: float | None = Field(default=None, gt=0, le=1024, allow_inf_nan=False)
    """Most memory that a layer may use for scratch, in GiB; None: all of the GPU's."""
    version_compatible: bool = False
    """Whether later releases of the same major version may run the engine. `tensorrt` only."""
    hardware_compatible: bool = False
    """Whether every GPU from Ampere on may run the engine, not only the model it was built on. `tensorrt` only."""
    strip_weights: bool = False
    """Leave the weights out of the engine; they are put back from the bundle's graph when it is opened."""
    refittable: bool = False
    """Whether weights can be exchanged in the built engine."""

    def as_flags(self) -> dict[str, str]:
        """Every setting as text, for an engine's record and its key; `strongly_typed` is one, and always on."""
        flags = {_ALWAYS: "on"}
        for name in EngineOptions.model_fields:
            value = getattr(self, name)
            if isinstance(value, bool):
                flags[name] = "on" if value else "off"
            else:
                flags[name] = "default" if value is None else str(value)
        return flags

    @staticmethod
    def from_flags(flags: Mapping[str, str]) -> EngineOptions:
        """The settings that `as_flags` gives back as `flags`.

        Raises:
            InputError: there are none; the message names the flag.
        """
        words = {"on": True, "off": False, "default": None}
        values = {name: words.get(text, text) for name, text in flags.items() if name != _ALWAYS}
        try:
            options = EngineOptions.model_validate(values)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            raise InputError(f"no builder has the setting {first['loc'][0]}={first['input']!r}") from error
        for name, text in sorted({*flags.items()} ^ {*options.as_flags().items()}):
            raise InputError(f"the setting {name}={text!r} of a builder is left out, or is written in another way")
        return options

    def options(self) -> EngineOptions:
        """These settings alone, whatever a subclass adds."""
        return EngineOptions.model_validate({name: getattr(self, name) for name in EngineOptions.model_fields})

    def with_options(self, **changes: bool | float | None) -> EngineOptions:
        """A copy in which what was asked for comes before what stood here; `None` and `False` ask for nothing.

        Raises:
            InputError: a value that is not allowed.
        """
        asked = {name: value for name, value in changes.items() if value is not None and value is not False}
        try:
            return EngineOptions.model_validate({**self.options().model_dump(), **asked})
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            raise InputError(
                f"{first['loc'][0]} of the builder is {show_value(first['input'])}: {first['msg']}"
            ) from error


def list_engine_backends() -> tuple[str, ...]:
    """What `EnginePlan.backend` may be."""
    return ("auto", *builder_names(), "none")


def _check_backend(name: str) -> str:
    if name not in list_engine_backends():
        raise ValueError(f"no engines are built for {show_value(name)}; known: {', '.join(list_engine_backends())}")
    return name


class EnginePlan(EngineOptions):
    """How a bundle's engines are built and for which GPUs, unless the command that builds them says otherwise."""

    backend: Annotated[str, AfterValidator(_check_backend)] = "auto"
    """For which backend engines are built: `auto` (each that can be on the machine at hand), one by name, or `none`."""
    compute_capabilities: tuple[Annotated[str, Field(pattern=r"^[A-Za-z]{0,2}_?[0-9]{1,3}(\.[0-9])?$")], ...] = Field(
        default=(), max_length=32
    )
    """GPUs that TensorRT-RTX builds for, as in `["sm86", "sm89"]`; empty: all that it knows."""
