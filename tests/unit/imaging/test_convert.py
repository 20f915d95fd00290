from __future__ import annotations

import numpy as np
import pytest

from sr_deploy.errors import ShapeError
from sr_deploy.imaging.convert import to_image, to_nchw


def test_every_value_survives_the_way_there_and_back() -> None:
    image = np.arange(256 * 3, dtype=np.int64).reshape(16, 16, 3).astype(np.uint8)
    batch = to_nchw(image)
    assert batch.shape == (1, 3, 16, 16)
    assert batch.dtype == np.float32
    assert batch.flags.c_contiguous
    assert batch[0, 2, 3, 5] == np.float32(image[3, 5, 2]) / np.float32(255)
    assert np.array_equal(to_image(batch), image)


def test_clamps_and_rounds() -> None:
    values = np.array([-3.0, -0.001, 0.4 / 255, 0.6 / 255, 254.4 / 255, 254.6 / 255, 1.2, 40.0], np.float32)
    assert to_image(values.reshape(1, 1, 1, 8))[0, :, 0].tolist() == [0, 0, 0, 1, 254, 255, 255, 255]


def test_refuses_other_axes() -> None:
    with pytest.raises(ShapeError, match="not 4 x 4"):
        to_nchw(np.zeros((4, 4), np.uint8))
    with pytest.raises(ShapeError, match="not 2 x 3 x 4 x 4"):
        to_image(np.zeros((2, 3, 4, 4), np.float32))
