"""What all sections of a recipe have in common."""

from __future__ import annotations

from collections.abc import Collection
from typing import Annotated

from pydantic import AfterValidator, BaseModel, Field
from pydantic_core import PydanticKnownError

Steps = Annotated[int, Field(ge=1, le=10**9)]
"""A count of updates of the weights."""
Factor = Annotated[float, Field(ge=0, le=10**6)]
"""Of a term of the loss."""
LearningRate = Annotated[float, Field(gt=0, le=100)]
"""Adam's, before any schedule."""


class Section(BaseModel, frozen=True, extra="forbid", allow_inf_nan=False, str_max_length=4096):
    """A table of a recipe: frozen, and without unknown keys or numbers that are NaN or infinite."""


def one_of(known: Collection[str]) -> AfterValidator:
    """Refuses a text that is none of `known`, with the message that pydantic has for a Literal."""

    def check(value: str) -> str:
        if value not in known:
            *most, last = (repr(one) for one in known)
            expected = f"{', '.join(most)} or {last}" if most else last
            raise PydanticKnownError("literal_error", {"expected": expected})
        return value

    return AfterValidator(check)
