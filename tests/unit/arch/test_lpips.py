"""LPIPS's arithmetic, with random weights: no published ones could be had."""

import numpy as np
import pytest
import torch

from sr_deploy.arch import lpips as module
from sr_deploy.arch.lpips import Lpips
from sr_deploy.errors import CheckpointError, InputError, ShapeError


def random_weights(name):
    generator = torch.Generator().manual_seed(3)
    backbone, linear = {}, {}
    for one in module._BACKBONES[name]:
        fan_in = one.shape[1] * one.shape[2] ** 2
        backbone[f"{one.key}.weight"] = torch.randn(one.shape, generator=generator) * (2 / fan_in) ** 0.5
        backbone[f"{one.key}.bias"] = torch.randn(one.shape[0], generator=generator) * 0.1
        if one.compared:
            weight = torch.rand((1, one.shape[0], 1, 1), generator=generator)
            linear[f"lin{len(linear)}.model.1.weight"] = weight
    backbone["classifier.6.weight"] = torch.zeros(4, 4)  # published files have more than is needed
    return backbone, linear


@pytest.fixture(scope="module")
def weight_files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("lpips")
    files = {}
    for name in ("AlexNet", "VGG16"):
        files[name] = folder / f"{name}.pth", folder / f"{name}-linear.pth"
        for tensors, path in zip(random_weights(name), files[name], strict=True):
            torch.save(tensors, path)
    return files


def convolve(x_CHW, weight, bias, stride, padding):
    """Written out in numpy, apart from torch."""
    kernel = weight.shape[2]
    padded = np.pad(x_CHW, ((0, 0), (padding, padding), (padding, padding)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (kernel, kernel), axis=(1, 2))[:, ::stride, ::stride]
    return np.einsum("chwij,ocij->ohw", windows, weight, optimize=True) + bias[:, None, None]


def pool(x_CHW, kernel):
    return np.lib.stride_tricks.sliding_window_view(x_CHW, (kernel, kernel), axis=(1, 2))[:, ::2, ::2].max(axis=(3, 4))


def alexnet_distance(a, b, backbone, linear):
    """The paper's equation 1 with AlexNet's five layers."""
    layers = ((0, 4, 2, 0), (3, 1, 2, 3), (6, 1, 1, 3), (8, 1, 1, 0), (10, 1, 1, 0))  # key, stride, padding, pool
    shift, scale = np.array([-0.030, -0.088, -0.188]), np.array([0.458, 0.448, 0.450])
    unit = []
    for image in (a, b):
        x = ((image / 127.5 - 1 - shift) / scale).transpose(2, 0, 1)
        per_layer = []
        for key, stride, padding, kernel in layers:
            x = pool(x, kernel) if kernel else x
            weight, bias = (backbone[f"features.{key}.{part}"].double().numpy() for part in ("weight", "bias"))
            x = np.maximum(convolve(x, weight, bias, stride, padding), 0)
            per_layer.append(x / (np.sqrt((x**2).sum(axis=0)) + 1e-10))
        unit.append(per_layer)
    total = 0.0
    for number, (left, right) in enumerate(zip(*unit, strict=True)):
        weight = linear[f"lin{number}.model.1.weight"].double().numpy()[0]
        total += ((left - right) ** 2 * weight).sum(axis=0).mean()
    return total


def test_equals_the_formula_written_out_in_numpy(weight_files):
    rng = np.random.default_rng(5)
    a = rng.integers(0, 256, (48, 40, 3), np.uint8)
    b = np.clip(a + rng.normal(0, 20, a.shape), 0, 255).astype(np.uint8)
    lpips = Lpips.read(*weight_files["AlexNet"])
    expected = alexnet_distance(a, b, *random_weights("AlexNet"))
    assert expected > 0.01
    assert lpips(a, b) == pytest.approx(expected, rel=1e-4)
    assert lpips(a, b) == pytest.approx(lpips(b, a))
    assert lpips.name == "AlexNet"


@pytest.mark.parametrize("name", ["AlexNet", "VGG16"])
def test_zero_for_equal_pictures_and_more_for_more_noise(weight_files, name):
    lpips = Lpips.read(*weight_files[name])
    assert lpips.name == name
    rng = np.random.default_rng(1)
    a = np.full((40, 40, 3), 120, np.uint8)
    slight, strong = (np.clip(a + rng.normal(0, sigma, a.shape), 0, 255).astype(np.uint8) for sigma in (2, 60))
    assert lpips(a, a) == 0
    assert 0 < lpips(a, slight) < lpips(a, strong)
    assert lpips(a[..., :1], a[..., :1]) == 0


def test_vgg16_has_torchvision_s_layout():
    convolutions = module._BACKBONES["VGG16"]
    assert [one.key.removeprefix("features.") for one in convolutions] == [
        "0", "2", "5", "7", "10", "12", "14", "17", "19", "21", "24", "26", "28"
    ]  # fmt: skip
    compared = [(one.key, one.shape[0]) for one in convolutions if one.compared]
    assert compared == [("features.2", 64), ("features.7", 128), ("features.14", 256), ("features.21", 512),
                        ("features.28", 512)]  # fmt: skip
    assert [one.key for one in convolutions if one.pool] == ["features.5", "features.10", "features.17", "features.24"]


def test_wrong_files_say_what_is_expected(weight_files, tmp_path):
    backbone, linear = weight_files["AlexNet"]
    with pytest.raises(CheckpointError, match=r"no AlexNet or VGG16 .*\(first keys: lin0.*alexnet-owt"):
        Lpips.read(linear, backbone)
    with pytest.raises(CheckpointError, match=r"'lin1.model.1.weight' has shape \(1, 128, 1, 1\).*must have \(1, 192,"):
        Lpips.read(backbone, weight_files["VGG16"][1])
    tensors, _ = random_weights("AlexNet")
    del tensors["features.8.bias"]
    torch.save(tensors, tmp_path / "cut.pth")
    with pytest.raises(CheckpointError, match=r"'features.8.bias' is missing for AlexNet, .*; give torchvision's"):
        Lpips.read(tmp_path / "cut.pth", linear)
    with pytest.raises(InputError, match=r"none.pth does not exist; .* LPIPS's backbone"):
        Lpips.read(tmp_path / "none.pth", linear)
    torch.save(print, tmp_path / "code.pth")
    with pytest.raises(CheckpointError, match=r"code.pth: refused"):
        Lpips.read(tmp_path / "code.pth", linear)


def test_pictures_must_fit_each_other_and_the_network(weight_files):
    lpips = Lpips.read(*weight_files["AlexNet"])
    a = np.zeros((40, 40, 3), np.uint8)
    with pytest.raises(ShapeError, match="one shape"):
        lpips(a, a[:39])
    with pytest.raises(ShapeError, match="at least 32 pixels, not 31x40"):
        lpips(a[:31], a[:31])
