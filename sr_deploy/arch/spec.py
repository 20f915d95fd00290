"""What a generator or a discriminator is, in a few numbers. No torch here: bundles are read without it."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, PlainValidator, model_validator

MOST_CHANNELS = 8192
"""Channels of feature maps that a network can have."""
MOST_BLOCKS = 1024
"""Blocks that a network can have."""
_MOST_OPTIONS = 32
_LARGEST_OPTION = 2**16
_LONGEST_OPTION = 64
_OPTION_NAME = re.compile(r"[a-z][a-z0-9_]{0,63}")
MAX_DISCRIMINATOR_FEATURES = 1024
"""Channels of a discriminator's first feature maps that it can have."""


def _check_option(value: object) -> bool | int | str:
    if isinstance(value, int) and abs(value) <= _LARGEST_OPTION:
        return value
    if isinstance(value, str) and len(value) <= _LONGEST_OPTION:
        return value
    raise ValueError(
        f"true, false, an integer of up to {_LARGEST_OPTION} or a text of up to {_LONGEST_OPTION} characters is taken"
    )


Option = Annotated[Any, PlainValidator(_check_option)]
"""Value of an option of an architecture: bool, int or str."""


class ArchSpec(BaseModel):
    """One generator, described well enough to build it anew. Stored in checkpoints, bundles and graphs.

    Beside the fields below it holds the options of its architecture, such as `blocks`. Which ones there are and what
    they may be says the subclass of this in the architecture's module; `registry.complete_spec` checks against it.
    """

    model_config = ConfigDict(frozen=True, extra="allow")
    __pydantic_extra__: dict[str, Option]

    architecture: str = Field(max_length=64)
    """Name in the registry, that of the architecture's module."""
    scale: int = Field(ge=1, le=16)
    """Output pixels per input pixel, along each side."""
    channels: int = Field(default=3)
    """Image channels in and out: 3 (RGB) or 1 (gray)."""

    @model_validator(mode="before")
    @classmethod
    def _leave_out_none(cls, values: object) -> object:
        if not isinstance(values, dict):
            return values
        if len(values) > _MOST_OPTIONS:
            raise ValueError(f"a network has at most {_MOST_OPTIONS} options, not {len(values)}")
        wrong = next((key for key in values if not _OPTION_NAME.fullmatch(str(key))), None)
        if wrong is not None:
            raise ValueError(f"{str(wrong)[:64]!r} is not a name of an option; those have small letters and digits")
        return {key: value for key, value in values.items() if value is not None}

    @property
    def options(self) -> dict[str, bool | int | str]:
        """The options of its architecture, by name."""
        return {key: value for key, value in self.model_dump(exclude_none=True).items() if key not in _COMMON}

    def title(self) -> str:
        """One line for people, as in `rrdbnet x4, 23 blocks, 64 features, growth 32, RGB`."""
        counts = [f"{value} {name}" for name, value in sorted(self.options.items()) if name.endswith("s")]
        others = [f"{name} {value}" for name, value in sorted(self.options.items()) if not name.endswith("s")]
        color = "RGB" if self.channels == 3 else "gray"
        return ", ".join((f"{self.architecture} x{self.scale}", *counts, *others, color))


_COMMON = frozenset(ArchSpec.model_fields)


DiscriminatorName = Literal["srgan", "vgg128", "vgg256", "unet"]


class DiscriminatorSpec(BaseModel, frozen=True, extra="forbid"):
    """One discriminator, described well enough to build it anew. Stored with its weights."""

    architecture: DiscriminatorName
    """srgan (8 convolutions), vgg128 (ESRGAN's, 10), vgg256 (12), unet (Real-ESRGAN's: a verdict for each pixel)."""
    features: int = Field(default=64, ge=1, le=MAX_DISCRIMINATOR_FEATURES)
    """Channels of its first feature maps."""
    patch_size: int | None = Field(default=None, ge=1, le=4096)
    """Side of the images that it judges; the dense layers of all but unet depend on it."""
    spectral_norm: bool = False
    """Whether weights are divided by their largest singular value (unet only)."""
    channels: int = Field(default=3, ge=1, le=16)
    """Of the images."""

    def title(self) -> str:
        """One line for people, as in `unet, 64 features, spectral norm, RGB`."""
        color = {1: "gray", 3: "RGB"}.get(self.channels, f"{self.channels} channels")
        if self.architecture == "unet":
            kind = "spectral norm" if self.spectral_norm else "no spectral norm"
        else:
            kind = f"patches of {self.patch_size}"
        return f"{self.architecture}, {self.features} features, {kind}, {color}"


def _tidy(text: str | None) -> str | None:
    """One line of 200 characters at most: a name or an address, not a text; None of nothing."""
    return " ".join((text or "").split())[:200] or None


Line = Annotated[str | None, AfterValidator(_tidy)]


class Attribution(BaseModel, frozen=True):
    """Whose weights these are. Stored with them, and shown wherever they are deployed."""

    license: Line = None
    """Under which they may be used, such as an SPDX identifier; None: not recorded."""
    author: Line = None
    """Who trained them."""
    source: Line = None
    """Where they were published, such as an address."""

    def override(self, stated: Attribution) -> Attribution:
        """The same with what `stated` says in its place."""
        return self.model_copy(update=stated.stated)

    @property
    def stated(self) -> dict[str, str]:
        """What is recorded, by name."""
        return {name: text for name, text in self if text is not None}


NOT_STATED = Attribution()
"""Of weights of which nothing is recorded."""
