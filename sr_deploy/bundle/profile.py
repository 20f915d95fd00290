"""Shapes and optimization profiles."""

from __future__ import annotations

import re
from typing import NamedTuple

from pydantic import BaseModel, Field, model_validator

from sr_deploy.errors import ShapeError
from sr_deploy.graph.scale import MAX_SIDE
from sr_deploy.legible import show_value

_NAME = "[A-Za-z0-9_-]{1,100}"


class Shape(NamedTuple):
    """Batch, height and width of a low-resolution input; the channels are the network's. Written `1x720x1280`."""

    n: int
    h: int
    w: int

    def __str__(self) -> str:
        return f"{self.n}x{self.h}x{self.w}"


def parse_shape(text: str) -> Shape:
    """Read `NxHxW`.

    Raises:
        ShapeError: not three integers between 1 and 65536.
    """
    match = re.fullmatch(r"([0-9]{1,9})x([0-9]{1,9})x([0-9]{1,9})", text.strip())
    numbers = [int(part) for part in match.groups()] if match else []
    if not numbers or not all(1 <= number <= MAX_SIDE for number in numbers):
        raise ShapeError(
            f"{show_value(text)} is not a shape; give NxHxW in integers from 1 to {MAX_SIDE}, as in 1x720x1280"
        )
    return Shape(*numbers)


class Profile(BaseModel, frozen=True, extra="forbid"):
    """The shapes that an engine is built for: any between `min` and `max`, fastest at `opt`."""

    name: str = Field(pattern=rf"^{_NAME}$")
    """Short name, as in `tile`."""
    min: Shape
    """Smallest batch, height and width."""
    opt: Shape
    """The one that the builder tunes for: give the shape that will be run most."""
    max: Shape
    """Largest batch, height and width."""

    @model_validator(mode="after")
    def _ordered(self) -> Profile:
        for axis, low, middle, high in zip("NHW", self.min, self.opt, self.max, strict=True):
            if not 1 <= low <= middle <= high <= MAX_SIDE:
                raise ValueError(
                    f"profile {show_value(self.name)} needs 1 <= min <= opt <= max <= {MAX_SIDE} on each axis; "
                    f"{axis} is {', '.join(map(show_value, (low, middle, high)))}"
                )
        return self

    def contains(self, shape: Shape) -> bool:
        """Whether an engine with this profile runs `shape`."""
        return all(low <= side <= high for low, side, high in zip(self.min, shape, self.max, strict=True))

    def __str__(self) -> str:
        return f"{self.name}={self.min},{self.opt},{self.max}"


def parse_profile(text: str) -> Profile:
    """Read `NAME=MIN,OPT,MAX`, each `NxHxW`.

    Raises:
        ShapeError: another form, or min, opt and max out of order.
    """
    name, equals, shapes = text.partition("=")
    parts = shapes.split(",")
    if not equals or not re.fullmatch(_NAME, name) or len(parts) != 3:
        raise ShapeError(
            f"{show_value(text)} is not a profile; give NAME=MIN,OPT,MAX, each NxHxW, as in "
            "tile=1x64x64,1x256x256,4x512x512"
        )
    smallest, optimal, largest = (parse_shape(part) for part in parts)
    try:
        return Profile(name=name, min=smallest, opt=optimal, max=largest)
    except ValueError as error:
        message = str(error).split("Value error, ")[-1].split(" [type=")[0]
        raise ShapeError(message) from error
