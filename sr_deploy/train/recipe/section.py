"""What all sections of a recipe have in common."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Section(BaseModel):
    """A table of a recipe: frozen, and without unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid")
