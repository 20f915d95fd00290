"""RealPLKSR in the forms that are published: either normalization, with and without attention and DySample."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from sr_deploy.arch.networks.realplksr import DySample, LargeKernel, LayerNorm
from sr_deploy.arch.registry import build_network, describe_cost
from sr_deploy.arch.spec import ArchSpec
from sr_deploy.arch.weights import read_checkpoint
from sr_deploy.errors import InputError

SPEC = ArchSpec(architecture="realplksr", scale=2, features=8, blocks=2, kernel=5, partial=2)
FORMS = {
    "group": {},
    "layer": {"norm": "layer"},
    "no attention": {"attention": False},
    "DySample": {"dysample": True, "norm": "layer", "scale": 4},
    "DySample x3, gray": {"dysample": True, "scale": 3, "channels": 1},
    "x1": {"scale": 1, "dysample": True},
}


@pytest.mark.parametrize("name", FORMS)
def test_every_form_is_known_by_its_tensors(name, tmp_path):
    spec = SPEC.model_copy(update=FORMS[name])
    state = build_network(spec).state_dict()
    torch.save({"params_ema": state}, tmp_path / "x.pth")
    checkpoint = read_checkpoint(tmp_path / "x.pth")
    assert checkpoint.layout == "realplksr"
    assert checkpoint.spec.options.items() >= {**SPEC.options, **spec.options}.items()
    assert (checkpoint.spec.scale, checkpoint.spec.channels) == (spec.scale, spec.channels)
    assert checkpoint.state.keys() == state.keys()


def test_keys_are_the_published_ones():
    keys = {key.rpartition(".")[0] for key in build_network(SPEC.model_copy(update={"dysample": True})).state_dict()}
    block = {
        f"feats.1.{name}" for name in ("channel_mixer.0", "channel_mixer.2", "lk.conv", "attn.f.0", "refine", "norm")
    }
    assert keys >= block | {"feats.0", "feats.4", "to_img", "to_img.offset", "to_img.scope", "to_img.end_conv"}
    assert "feats.1.layer_norm" in {
        key.rpartition(".")[0] for key in build_network(SPEC.model_copy(update={"norm": "layer"})).state_dict()
    }


@pytest.mark.parametrize("scale", [1, 2, 3, 4])
def test_dysample_without_offsets_is_bilinear(scale):
    sample = DySample(12, 12, scale, 4 if scale % 2 == 0 else 3)
    torch.nn.init.zeros_(sample.offset.weight)
    torch.nn.init.zeros_(sample.offset.bias)
    sample.end_conv = torch.nn.Identity()
    features = torch.rand(2, 12, 5, 7)
    expected = F.interpolate(features, scale_factor=float(scale), mode="bilinear", align_corners=False)
    torch.testing.assert_close(sample(features), expected, rtol=0, atol=1e-5)


def test_offsets_move_columns_first_and_groups_apart():
    """A whole pixel to the right for the second group alone, half of which the scope lets through at its start."""
    sample = DySample(4, 4, 1, 2)
    torch.nn.init.zeros_(sample.offset.weight)
    torch.nn.init.zeros_(sample.scope.weight)
    sample.offset.bias.data = torch.tensor([0.0, 4.0, 0.0, 0.0])  # x of both groups, then y; times 1/2 and 1/2
    features = torch.rand(1, 4, 5, 6)
    moved = sample(features)
    torch.testing.assert_close(moved[:, :2], features[:, :2])
    torch.testing.assert_close(moved[:, 2:, :, :-1], features[:, 2:, :, 1:], rtol=0, atol=1e-5)


def test_parts_are_what_torch_computes():
    features = torch.randn(2, 6, 5, 4)
    norm = LayerNorm(6)
    torch.nn.init.uniform_(norm.weight)
    torch.nn.init.uniform_(norm.bias)
    expected = F.layer_norm(features.movedim(1, -1), (6,), norm.weight, norm.bias, 1e-6).movedim(-1, 1)
    torch.testing.assert_close(norm(features), expected)
    kernel = LargeKernel(2, 3)
    result = kernel(features)
    assert torch.equal(result[:, 2:], features[:, 2:])
    torch.testing.assert_close(
        result[:, :2], F.conv2d(features[:, :2], kernel.conv.weight, kernel.conv.bias, padding=1)
    )


def test_receptive_field_is_the_whole_picture_unless_normalization_is_by_layer():
    assert describe_cost(SPEC).receptive_radius is None
    assert describe_cost(SPEC.model_copy(update={"norm": "layer"})).receptive_radius == 1 + 2 * (1 + 1 + 2 + 1) + 1
    assert describe_cost(SPEC.model_copy(update={"norm": "layer", "dysample": True})).receptive_radius is None


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"kernel": 4}, "odd side, not 4"),
        ({"partial": 9}, "read 9 of only 8 features"),
        ({"groups": 3}, "8 features do not make 3 equal groups"),
    ],
)
def test_what_cannot_be_built_is_named(changes, said):
    with pytest.raises(InputError, match=said):
        build_network(SPEC.model_copy(update=changes))
