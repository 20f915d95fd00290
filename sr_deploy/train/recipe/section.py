"""What all sections of a recipe have in common."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

Steps = Annotated[int, Field(ge=1, le=10**9)]
"""A count of updates of the weights."""
Factor = Annotated[float, Field(ge=0, le=10**6)]
"""Of a term of the loss."""
LearningRate = Annotated[float, Field(gt=0, le=100)]
"""Learning rate of the optimizer."""


class Section(BaseModel):
    """A table of a recipe: frozen, and without unknown keys or numbers that are NaN or infinite."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, str_max_length=4096)
