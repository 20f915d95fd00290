from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from sr_deploy.config import validate_config
from sr_deploy.imaging.codec import write_image
from sr_deploy.train.recipe import Recipe


def draw_picture(height: int, width: int, seed: int) -> np.ndarray:
    """Smooth stripes and noise: something to learn, and no two patches alike."""
    random = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    waves = np.stack([np.sin(x / (3 + channel) + y / (5 + seed)) for channel in range(3)], axis=2)
    return np.clip(128 + 90 * waves + random.normal(0, 8, waves.shape), 0, 255).astype(np.uint8)


@pytest.fixture
def picture_folder(tmp_path: Path) -> Path:
    folder = tmp_path / "pictures"
    write_image(folder / "a.png", draw_picture(50, 70, 1))
    write_image(folder / "deep" / "er" / "b.png", draw_picture(64, 48, 2))
    write_image(folder / "c.png", draw_picture(41, 43, 3))
    return folder


@pytest.fixture
def make_recipe(picture_folder: Path) -> Callable[..., Recipe]:
    def make(**sections: dict[str, object]) -> Recipe:
        document: dict[str, dict[str, object] | object] = {
            "name": "tiny",
            "scale": 2,
            "seed": 7,
            "network": {"architecture": "compact", "features": 8, "blocks": 1},
            "data": {
                "folder": str(picture_folder),
                "validation_folder": str(picture_folder),
                "patch_size": 16,
                "batch": 4,
                "workers": 0,
            },
            "optimizer": {"learning_rate": 1e-3},
            "precision": {"autocast": "off", "channels_last": False},
            "run": {"steps": 4},
        }
        for name, section in sections.items():
            table = document.setdefault(name, {})
            assert isinstance(table, dict)
            table.update(section)
        return validate_config(document, Recipe, "test")

    return make
