"""A recipe that trains in a second, and the small networks of the unit tests."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from sr_deploy.config import validate_config
from sr_deploy.imaging.codec import write_image
from sr_deploy.train.recipe import Recipe
from tests.unit.conftest import exported, make_bundle  # noqa: F401 - fixtures


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    y, x = np.mgrid[:72, :88]
    for number in range(3):
        waves = np.stack([np.sin(x / (3 + number) + channel + y / 5) for channel in range(3)], axis=2)
        write_image(folder / f"{number}.png", (128 + 100 * waves).astype(np.uint8))
    return folder


@pytest.fixture
def make_recipe(pictures: Path) -> Callable[..., Recipe]:
    def make(**sections: object) -> Recipe:
        document: dict[str, object] = {
            "name": "tiny",
            "scale": 2,
            "seed": 3,
            "network": {"architecture": "compact", "features": 8, "blocks": 1},
            "data": {"folder": str(pictures), "validation_folder": str(pictures), "patch_size": 16, "batch": 2},
            "optimizer": {"learning_rate": 2e-3, "schedule": {"kind": "cosine", "warm_up": 3}},
            "precision": {"autocast": "off", "channels_last": False},
            "run": {"steps": 12, "log_every": 3, "checkpoint_every": 4, "validate_every": 6, "preview_every": 100},
        }
        for name, section in sections.items():
            known = document.get(name)
            document[name] = {**known, **section} if isinstance(known, dict) and isinstance(section, dict) else section
        return validate_config(document, Recipe, "test")

    return make
