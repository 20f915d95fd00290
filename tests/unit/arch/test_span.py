"""SPAN as its published files have it: branches, merged copies beside them, and normalization that no tensor tells."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from sr_deploy.arch.fold import merge_branches
from sr_deploy.arch.networks.span import Conv3XC
from sr_deploy.arch.registry import build_network, merged_spec
from sr_deploy.arch.spec import ArchSpec
from sr_deploy.arch.weights import read_checkpoint
from sr_deploy.model import open_model
from sr_deploy.runners import open_runner

SPEC = ArchSpec(architecture="span", scale=2, features=6, blocks=2)
MEAN = (0.4488, 0.4371, 0.4040)


def randomize(network):
    torch.manual_seed(3)
    for parameter in network.parameters():
        torch.nn.init.uniform_(parameter, -0.5, 0.5)
    return network.eval().requires_grad_(False)


def publish(state, *, norm=True, stale=True):
    """The keys of a published file: merged convolutions beside the branches, and a mark where nothing is normalized."""
    shapes = {key.replace(".sk.", ".eval_conv."): tensor.shape for key, tensor in state.items() if ".sk." in key}
    sides = {key: (*shape[:2], 3, 3) if len(shape) == 4 else shape for key, shape in shapes.items()}
    merged = {key: torch.full(shape, 9.0) for key, shape in sides.items()} if stale else {}
    return {**state, **merged, **({} if norm else {"no_norm": torch.zeros(1)})}


def make_picture_giver(img_range, *, norm=True):
    """A network that gives the nearest enlargement of what it was given, if the picture is normalized that way."""
    spec = SPEC.model_copy(update={"norm": norm, "img_range": img_range})
    network = build_network(spec).requires_grad_(False)
    for parameter in network.parameters():
        parameter.zero_()
    for channel in range(3):
        network.conv_1.sk.weight[channel, channel] = 1 / img_range if norm else 1
        network.conv_1.sk.bias[channel] = MEAN[channel] if norm else 0
        network.conv_cat.weight[channel, channel] = 1
        network.upsampler[0].weight[4 * channel : 4 * channel + 4, channel, 1, 1] = 1
    return network


@pytest.mark.parametrize("channels", [3, 6])
def test_branches_merge_to_rounding_at_the_border_too(channels):
    conv = randomize(Conv3XC(channels, 6)).double()
    features = torch.rand(2, channels, 7, 9, dtype=torch.float64)
    merged = conv.merge()
    torch.testing.assert_close(merged(features), conv(features), rtol=1e-12, atol=1e-12)
    # Padded after the first 1x1 convolution, as any 3x3 convolution pads, the border would lack that one's bias.
    first, second, third = conv.conv
    padded_inside = third(second(F.pad(first(features), (1, 1, 1, 1)))) + conv.sk(features)
    torch.testing.assert_close(padded_inside[..., 1:-1, 1:-1], merged(features)[..., 1:-1, 1:-1])
    assert not torch.allclose(padded_inside, merged(features), atol=1e-3)


def test_a_merged_network_has_plain_convolutions_and_the_merged_spec():
    network = randomize(build_network(SPEC))
    lr = torch.rand(1, 3, 9, 8)
    expected = network(lr)
    merged = merge_branches(network)
    torch.testing.assert_close(merged(lr), expected, rtol=1e-5, atol=1e-5 * float(expected.abs().max()))
    assert not any(isinstance(module, Conv3XC) for module in merged.modules())
    spec = merged_spec(SPEC)
    assert spec.options["branches"] == 1
    build_network(spec).load_state_dict(merged.state_dict())


def test_what_is_computed_is_the_published_formula():
    network = merge_branches(randomize(build_network(SPEC.model_copy(update={"norm": True}))))
    lr = torch.rand(1, 3, 6, 7)
    head = network.conv_1((lr - torch.tensor(MEAN).view(1, 3, 1, 1)) * 255)
    features = head
    for block in (network.block_1, network.block_2):
        first = F.silu(block.c1_r(features))
        third = block.c3_r(F.silu(block.c2_r(first)))
        features = (third + features) * (torch.sigmoid(third) - 0.5)
        if block is network.block_1:
            after_first = features
    stages = torch.cat([head, network.conv_2(features), after_first, first], 1)
    expected = F.pixel_shuffle(network.upsampler[0](network.conv_cat(stages)), 2)
    torch.testing.assert_close(network(lr), expected)


def test_merged_copies_in_a_file_are_left_aside(tmp_path):
    state = randomize(build_network(SPEC)).state_dict()
    torch.save({"params": publish(state, norm=False)}, tmp_path / "x.pth")
    checkpoint = read_checkpoint(tmp_path / "x.pth")
    assert (checkpoint.spec.model_dump(), checkpoint.layout, checkpoint.notes) == (
        {**SPEC.model_dump(), "norm": False, "img_range": 255, "branches": 3}, "span", (),
    )  # fmt: skip
    assert checkpoint.state.keys() == state.keys()


def test_a_file_with_merged_convolutions_alone_is_read(tmp_path):
    network = merge_branches(randomize(build_network(SPEC)))
    state = {
        key.replace("_r.", "_r.eval_conv.")
        .replace("conv_1.", "conv_1.eval_conv.")
        .replace("conv_2.", "conv_2.eval_conv."): tensor
        for key, tensor in network.state_dict().items()
    }
    torch.save({**state, "no_norm": torch.zeros(1)}, tmp_path / "x.pth")
    checkpoint = read_checkpoint(tmp_path / "x.pth")
    assert checkpoint.spec.options["branches"] == 1
    assert checkpoint.state.keys() == network.state_dict().keys()


@pytest.mark.parametrize(
    ("img_range", "norm", "expected"),
    [(255, True, "norm True, img_range 255"), (1, True, "norm True, img_range 1"), (255, False, "norm False")],
)
def test_normalization_that_no_tensor_tells_is_found_by_trial(tmp_path, img_range, norm, expected):
    torch.save(publish(make_picture_giver(img_range, norm=norm).state_dict()), tmp_path / "x.pth")
    checkpoint = read_checkpoint(tmp_path / "x.pth")
    assert (checkpoint.spec.options["norm"], checkpoint.spec.options["img_range"]) == (norm, img_range)
    (note,) = checkpoint.notes
    assert note.startswith(expected)
    assert "found by trial" in note
    with open_runner(open_model(tmp_path / "x.pth"), "torch:fp32", device="cpu") as runner:
        lr = torch.rand(1, 3, 5, 6)
        sr = torch.from_numpy(runner.infer(lr.numpy()))
    torch.testing.assert_close(sr, F.interpolate(lr, scale_factor=2.0), rtol=0, atol=1e-5)


def test_where_no_choice_gives_a_picture_the_published_one_is_taken_and_it_is_said(tmp_path):
    torch.save(publish(randomize(build_network(SPEC)).state_dict()), tmp_path / "x.pth")
    checkpoint = read_checkpoint(tmp_path / "x.pth")
    assert (checkpoint.spec.options["norm"], checkpoint.spec.options["img_range"]) == (True, 255)
    assert "no choice gives a picture" in checkpoint.notes[0]
