from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from sr_deploy.train.degradation.resize import resize
from sr_deploy.train.degradation.taps import Taps, apply_taps


@pytest.mark.parametrize("mode", ["area", "bilinear", "bicubic"])
@pytest.mark.parametrize("size", [(160, 80), (97, 131), (200, 33), (1, 7), (240, 160)])
def test_resizing_agrees_with_torch(photographs, mode, size):
    images = photographs[:, :, :, :120]
    # torch finds places in FP32, which is a few millionths of a pixel off.
    assert (resize(images, size, mode) - F.interpolate(images, size, mode=mode)).abs().max() < 5e-5


def test_the_same_size_gives_the_images_back_and_none_becomes_one_pixel(photographs):
    assert resize(photographs, (160, 160), "bicubic") is photographs
    single = resize(photographs, (0, 0), "area")
    assert torch.allclose(single, photographs.mean((2, 3), keepdim=True), atol=1e-5)


def test_taps_add_up_rows_and_columns(photographs):
    here = photographs.device
    rows = Taps.make(torch.tensor([[0, 2], [5, 5]]), torch.tensor([[1.0, -1.0], [0.5, 0.25]]), here)
    columns = Taps.make(torch.tensor([[3], [0], [159]]), torch.tensor([[2.0], [1.0], [1.0]]), here)
    result = apply_taps(photographs, rows, columns)
    expected = torch.stack([photographs[:, :, 0] - photographs[:, :, 2], 0.75 * photographs[:, :, 5]], dim=2)
    expected = torch.stack([2 * expected[..., 3], expected[..., 0], expected[..., 159]], dim=3)
    assert torch.allclose(result, expected, atol=1e-6)
