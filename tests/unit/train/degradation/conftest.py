from __future__ import annotations

from functools import lru_cache

import numpy as np
import pytest
import torch
from skimage import data

from sr_deploy.train.recipe import load_recipe


@lru_cache(maxsize=1)
def _photographs() -> torch.Tensor:
    pictures = [data.astronaut(), data.coffee(), data.chelsea(), data.immunohistochemistry()]
    return torch.stack([torch.from_numpy(p[:160, :160].copy()).permute(2, 0, 1) for p in pictures]).float() / 255


@pytest.fixture
def photographs() -> torch.Tensor:
    """4 x 3 x 160 x 160 in [0, 1]."""
    return _photographs().clone()


@pytest.fixture(scope="session")
def degradation():
    """The published numbers, on a small canvas."""
    recipe = load_recipe("realesrnet").degradation
    return recipe.model_copy(update={"canvas": 160})


@pytest.fixture
def random() -> np.random.Generator:
    return np.random.default_rng(0)
