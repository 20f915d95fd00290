from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from sr_deploy.arch.registry import build_network
from sr_deploy.arch.spec import ArchSpec
from sr_deploy.arch.vgg import LAYER_INDICES, Vgg19Features, load_vgg19
from sr_deploy.arch.weights import read_checkpoint
from sr_deploy.errors import CheckpointError, InputError

# The paper's column E, written out; M is a maximum. torchvision numbers every entry, and every ReLU after a number.
COLUMN_E = [64, 64, "M", 128, 128, "M", 256, 256, 256, 256, "M", 512, 512, 512, 512, "M", 512, 512, 512, 512, "M"]


def compute_plainly(state, images, last):
    """Every entry of torchvision's `features` up to `last`, by its number, with nothing of ours but the weights."""
    mean, deviation = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    x = (images - mean[None, :, None, None]) / deviation[None, :, None, None]
    entries = []
    for entry in COLUMN_E:
        if entry == "M":
            x = F.max_pool2d(x, 2, 2)
        else:
            number = len(entries)
            x = F.conv2d(x, state[f"features.{number}.weight"], state[f"features.{number}.bias"], padding=1)
            assert x.shape[1] == entry
            entries.append(x)
            x = torch.relu(x)
        entries.append(x)
        if len(entries) > last:
            break
    return entries


def test_indices_by_counting():
    counted, stage, number, index = {}, 1, 1, 0
    for entry in COLUMN_E:
        if entry == "M":
            stage, number, index = stage + 1, 1, index + 1
        else:
            counted[f"conv{stage}_{number}"] = index
            number, index = number + 1, index + 2
    assert counted == LAYER_INDICES
    published = {"conv1_2": 2, "conv2_2": 7, "conv3_4": 16, "conv4_4": 25, "conv5_4": 34}
    assert published.items() <= counted.items()


@pytest.mark.parametrize("activation", ["before", "after"])
def test_features_are_those_of_a_plain_computation(activation):
    torch.manual_seed(1)
    layers = ["conv1_2", "conv2_2", "conv3_4", "conv4_4"]
    network = Vgg19Features(layers, activation)
    images = torch.rand(1, 3, 32, 48)
    taken = network(images)
    entries = compute_plainly(network.state_dict(), images, 26)
    shift = 1 if activation == "after" else 0
    assert list(taken) == layers
    for layer, index in zip(layers, (2, 7, 16, 25), strict=True):
        assert torch.equal(taken[layer], entries[index + shift]), layer
        negative = (taken[layer] < 0).any()
        assert negative == (activation == "before")


def test_only_what_is_needed_is_built():
    with torch.device("meta"):
        shallow, deep = Vgg19Features(["conv1_2"]), Vgg19Features(["conv5_4", "conv1_2"])
    assert (shallow.deepest, len(shallow.features)) == ("conv1_2", 3)
    # 3 x 3 weights of 3->64->64, ->128->128, ->256 x 4, ->512 x 8, and a bias for each channel.
    pairs = 3 * 64 + 64 * 64 + 64 * 128 + 128 * 128 + 128 * 256 + 3 * 256 * 256 + 256 * 512 + 7 * 512 * 512
    biases = 2 * 64 + 2 * 128 + 4 * 256 + 8 * 512
    assert 9 * pairs + biases == 20_024_384
    assert sum(parameter.numel() for parameter in deep.parameters()) == 20_024_384
    taken = deep.to_empty(device="cpu")(torch.zeros(1, 3, 64, 80))  # shapes alone: the numbers are whatever was there
    assert {layer: tuple(features.shape) for layer, features in taken.items()} == {
        "conv5_4": (1, 512, 4, 5),
        "conv1_2": (1, 64, 64, 80),
    }


def test_pictures_are_centered_as_imagenet_was():
    network = Vgg19Features(["conv1_1"])
    mean = torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1).expand(1, 3, 8, 8)
    bias = network.features[0].bias
    assert torch.equal(network(mean)["conv1_1"], bias.view(1, 64, 1, 1).expand(1, 64, 8, 8))


def test_weights_are_frozen_and_half_precision_is_off():
    network = Vgg19Features(["conv2_2"])
    images = torch.rand(1, 3, 16, 16)
    plain = network(images)["conv2_2"]
    assert not plain.requires_grad
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(network(images)["conv2_2"], plain)
    assert network(images.to(torch.bfloat16))["conv2_2"].dtype == torch.float32


@pytest.mark.parametrize("layers", [["conv1_3"], ["relu5_4"], []])
def test_unknown_layers(layers):
    with pytest.raises(InputError, match=r"is not a layer of VGG19; it has conv1_1, .* conv5_4"):
        Vgg19Features(layers)


def small_state(last="conv2_2"):
    torch.manual_seed(2)
    return Vgg19Features([last]).state_dict()


def test_file_with_more_than_is_needed(tmp_path):
    state = small_state("conv3_1")
    halved = {key: tensor.half() for key, tensor in state.items()}
    torch.save({**halved, "classifier.0.weight": torch.zeros(2, 2)}, tmp_path / "vgg.pth")
    read = load_vgg19(tmp_path / "vgg.pth", "conv2_2")
    assert list(read) == list(small_state())
    assert {tensor.dtype for tensor in read.values()} == {torch.float32}
    assert all(torch.equal(read[key], halved[key].float()) for key in read)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        # VGG16's third stage has three convolutions; one with batch normalization has its weights at 1.
        ({"features.7.weight": None}, "'features.7.weight' is missing for VGG19"),
        ({"features.2.weight": (64,)}, "'features.2.weight' has shape (64,)"),
        ({"features.2.weight": (64, 64, 5, 5)}, "it must have (64, 64, 3, 3)"),
    ],
)
def test_other_networks_are_refused(tmp_path, change, words):
    state = small_state()
    for key, shape in change.items():
        if shape is None:
            del state[key]
        else:
            state[key] = torch.zeros(shape)
    path = tmp_path / "other.pth"
    torch.save(state, path)
    with pytest.raises(CheckpointError) as caught:
        load_vgg19(path, "conv2_2")
    assert str(caught.value).startswith(f"{path}: ")
    assert words in str(caught.value)
    assert "give torchvision's vgg19-dcbc9e9d.pth (this file begins with features.0.weight" in str(caught.value)


def test_vgg16_is_told_apart(tmp_path):
    """Its conv3_3 is followed by a maximum: nothing is at 16."""
    state = small_state("conv3_4")
    del state["features.16.weight"], state["features.16.bias"]
    torch.save(state, tmp_path / "vgg16.pth")
    with pytest.raises(CheckpointError, match=r"'features\.16\.weight' is missing"):
        load_vgg19(tmp_path / "vgg16.pth", "conv5_4")


def test_broken_numbers_and_files(tmp_path):
    state = small_state()
    state["features.5.weight"][0, 0, 0, 0] = float("nan")
    torch.save(state, tmp_path / "nan.pth")
    with pytest.raises(CheckpointError, match=r"'features\.5\.weight' holds NaN"):
        load_vgg19(tmp_path / "nan.pth", "conv2_2")
    (tmp_path / "text.pth").write_text("not weights")
    with pytest.raises(CheckpointError, match="no checkpoint"):
        load_vgg19(tmp_path / "text.pth")
    with pytest.raises(InputError, match=r"none\.pth does not exist; give VGG19's weights"):
        load_vgg19(tmp_path / "none.pth")


def test_generators_and_vgg_are_not_taken_for_each_other(tmp_path):
    torch.save(small_state(), tmp_path / "vgg.pth")
    with pytest.raises(CheckpointError, match="looks like VGG's weights"):
        read_checkpoint(tmp_path / "vgg.pth")
    generator = build_network(ArchSpec(architecture="compact", scale=2, features=4, blocks=0))
    torch.save(generator.state_dict(), tmp_path / "generator.pth")
    with pytest.raises(CheckpointError, match=r"'features\.0\.weight' is missing.*begins with body\.0"):
        load_vgg19(tmp_path / "generator.pth")
