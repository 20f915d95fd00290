"""The networks that come with sr-deploy: bundles inside the package, found by name. Nothing is ever written there."""

from __future__ import annotations

from pathlib import Path

_FOLDER = Path(__file__).parent / "_models"

DEFAULT_MODEL = _FOLDER / "small-x2"
"""What upscales where nobody has a network of their own; docs/shipped-model.md says what it is."""


def shipped_models() -> dict[str, Path]:
    """Bundles that can be given by name alone, sorted by name."""
    return {path.parent.name: path.parent for path in sorted(_FOLDER.glob("*/bundle.json"))}


def is_shipped(bundle: Path) -> bool:
    """Whether a bundle's folder is one of these, by whatever path it was reached."""
    return bundle.resolve().parent == _FOLDER.resolve()
