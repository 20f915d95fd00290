from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from sr_deploy.arch.vgg import Vgg19Features, load_vgg19
from sr_deploy.errors import CheckpointError, InputError
from sr_deploy.train.losses.perceptual import PerceptualOptions, build_perceptual_loss

CPU = torch.device("cpu")
SR, HR = torch.rand(2, 2, 3, 16, 24, generator=torch.Generator().manual_seed(3))


def features_of(path, images, layers, activation):
    network = Vgg19Features(layers, activation)
    network.load_state_dict(load_vgg19(path, network.deepest))
    return network(images)


@pytest.mark.parametrize(
    ("layers", "activation", "distance"),
    [
        # The published forms, at layers that the test's small file has.
        ({"conv3_4": 1.0}, "after", "mse"),
        ({"conv3_4": 1.0}, "before", "l1"),
        ({"conv1_2": 0.1, "conv2_2": 0.1, "conv3_4": 1.0}, "before", "l1"),
    ],
)
def test_is_the_weighted_distance_of_features(vgg19, layers, activation, distance):
    options = PerceptualOptions(weight=1, layers=layers, activation=activation, distance=distance, vgg19=str(vgg19))
    loss = build_perceptual_loss(options, CPU)(SR, HR)
    seen, wanted = (features_of(vgg19, images, list(layers), activation) for images in (SR, HR))
    expected = 0.0
    for layer, factor in layers.items():
        difference = (seen[layer] - wanted[layer]).double()
        expected += factor * (difference.abs() if distance == "l1" else difference.square()).mean().item()
    assert loss.shape == ()
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(expected, rel=1e-5)
    assert loss.item() > 0


def test_equal_pictures_have_no_distance(vgg19):
    options = PerceptualOptions(weight=1, layers={"conv2_2": 1}, vgg19=str(vgg19))
    assert build_perceptual_loss(options, CPU)(HR, HR).item() == 0


def test_gradient_flows_into_the_result_alone(vgg19):
    options = PerceptualOptions(weight=0.5, layers={"conv1_2": 1, "conv2_2": 2}, vgg19=str(vgg19))
    loss = build_perceptual_loss(options, CPU)
    sr, hr = SR.clone().requires_grad_(), HR.clone().requires_grad_()
    loss(sr, hr).backward()
    assert sr.grad is not None
    assert hr.grad is None
    assert all(parameter.grad is None and not parameter.requires_grad for parameter in loss.parameters())


def test_half_precision_around_it_changes_nothing(vgg19):
    options = PerceptualOptions(weight=1, layers={"conv2_2": 1}, vgg19=str(vgg19))
    loss = build_perceptual_loss(options, CPU)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = loss(SR, HR)
    assert torch.equal(inside, loss(SR, HR))
    sr = SR.half()
    assert torch.equal(loss(sr, HR), loss(sr.float(), HR))


def test_values_outside_the_range_are_not_clamped(vgg19):
    """A clamp would cut the gradient of pixels that overshoot."""
    loss = build_perceptual_loss(PerceptualOptions(weight=1, layers={"conv1_2": 1}, vgg19=str(vgg19)), CPU)
    sr = torch.full((1, 3, 16, 16), 1.2, requires_grad=True)
    loss(sr, torch.ones(1, 3, 16, 16)).backward()
    assert sr.grad.abs().sum() > 0


def test_missing_file_is_one_line_that_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(InputError) as caught:
        build_perceptual_loss(PerceptualOptions(weight=1, layers={"conv5_4": 1}), CPU)
    message = str(caught.value)
    assert "\n" not in message
    for words in (
        str(tmp_path / "hub" / "checkpoints" / "vgg19-dcbc9e9d.pth"),
        "download https://download.pytorch.org/models/vgg19-dcbc9e9d.pth",
        "--set loss.perceptual.vgg19=FILE",
        "--set loss.perceptual.weight=0",
    ):
        assert words in message
    with pytest.raises(InputError, match=r"mine\.pth is not a file"):
        build_perceptual_loss(PerceptualOptions(weight=1, layers={"conv5_4": 1}, vgg19="mine.pth"), CPU)


def test_file_where_torch_keeps_downloads_is_found(tmp_path, monkeypatch, vgg19):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    place = tmp_path / "hub" / "checkpoints" / vgg19.name
    place.parent.mkdir(parents=True)
    place.symlink_to(vgg19)
    found = build_perceptual_loss(PerceptualOptions(weight=1, layers={"conv2_2": 1}), CPU)
    named = build_perceptual_loss(PerceptualOptions(weight=1, layers={"conv2_2": 1}, vgg19=str(vgg19)), CPU)
    assert torch.equal(found(SR, HR), named(SR, HR))


def test_file_that_ends_too_early_is_refused(vgg19):
    options = PerceptualOptions(weight=1, layers={"conv5_4": 1}, vgg19=str(vgg19))
    with pytest.raises(CheckpointError, match=r"'features\.19\.weight' is missing for VGG19"):
        build_perceptual_loss(options, CPU)


def test_factors_count(vgg19):
    def value(layers):
        return build_perceptual_loss(PerceptualOptions(weight=1, layers=layers, vgg19=str(vgg19)), CPU)(SR, HR).item()

    first, second = value({"conv1_2": 1}), value({"conv2_2": 1})
    assert value({"conv1_2": 0.1, "conv2_2": 3}) == pytest.approx(0.1 * first + 3 * second, rel=1e-5)
    assert first != pytest.approx(second, rel=0.1)
    assert F.l1_loss(SR, HR).item() != pytest.approx(first, rel=0.1)
