"""A photograph for several files."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from sr_deploy.imaging.codec import bundled_photographs, read_image


@pytest.fixture(scope="module")
def photograph() -> NDArray[np.uint8]:
    return read_image(bundled_photographs()["astronaut"])[:120, :161]
