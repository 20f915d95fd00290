"""Weights of one network that start another: what fits, what is made to fit, and what both then give."""

import pytest
import torch
import torch.nn.functional as F

from sr_deploy.arch.registry import build_network
from sr_deploy.arch.spec import ArchSpec
from sr_deploy.arch.transfer import find_misfit, list_modules, transfer_weights

RRDB = {"architecture": "rrdbnet", "features": 8, "growth": 4, "blocks": 2}
SMALL = {
    "rrdbnet": RRDB,
    "compact": {"architecture": "compact", "features": 8, "blocks": 2},
    "srresnet": {"architecture": "srresnet", "features": 8, "blocks": 2},
    "msrresnet": {"architecture": "msrresnet", "features": 8, "blocks": 2},
}


def make(scale, seed, **options):
    """A network and its spec; all its weights are random, none small."""
    spec = ArchSpec(scale=scale, **options)
    torch.manual_seed(seed)
    network = build_network(spec).eval()
    for tensor in network.state_dict().values():
        if tensor.is_floating_point():
            tensor.uniform_(-0.3, 0.3) if tensor.ndim > 1 else tensor.uniform_(0.1, 1)
    return network, spec


def start(given, wanted):
    """The transfer from one network to another, and what the new one was before."""
    (old, before), (new, after) = given, wanted
    assert find_misfit(before, after) is None
    fresh = {key: tensor.clone() for key, tensor in new.state_dict().items()}
    return transfer_weights(old.state_dict(), before, new, after), fresh


@pytest.mark.parametrize("scale", [1, 2])
def test_behind_a_pixel_unshuffle_the_network_does_to_cells_what_it_did_to_pixels(scale):
    given, wanted = make(4, 0, **RRDB), make(scale, 1, **RRDB)
    transfer, _ = start(given, wanted)
    assert (transfer.adapted, transfer.initialized, transfer.unused) == (("conv_first.weight",), (), ())
    assert transfer.title() == f"{len(given[0].state_dict()) - 1} tensors taken, adapted: conv_first"
    lr_NCHW = torch.rand(1, 3, 16, 8)
    with torch.no_grad():
        expected = given[0](F.avg_pool2d(lr_NCHW, 4 // scale))
        assert torch.allclose(wanted[0](lr_NCHW), expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))


def test_other_scales_have_a_new_or_a_shorter_tail():
    transfer, fresh = start(make(4, 0, **RRDB), wanted := make(8, 1, **RRDB))
    assert (transfer.adapted, list_modules(transfer.initialized), transfer.unused) == ((), "conv_up3", ())
    assert torch.equal(wanted[0].conv_up3.weight, fresh["conv_up3.weight"])
    transfer, _ = start(given := make(4, 0, **RRDB), wanted := make(3, 1, **RRDB))
    assert (transfer.initialized, list_modules(transfer.unused)) == ((), "conv_up2")
    assert torch.equal(wanted[0].conv_up1.weight, given[0].conv_up1.weight)
    assert wanted[0](torch.rand(1, 3, 5, 4)).shape == (1, 3, 15, 12)


def test_of_more_blocks_the_first_are_taken_and_of_fewer_the_last_are_new():
    large, small = RRDB | {"blocks": 5}, RRDB | {"blocks": 2}
    transfer, _ = start(given := make(4, 0, **large), wanted := make(4, 1, **small))
    assert transfer.title() == f"{len(wanted[0].state_dict())} tensors taken, unused: body.2 to body.4"
    for key, tensor in wanted[0].state_dict().items():
        assert torch.equal(tensor, given[0].state_dict()[key])
    transfer, fresh = start(make(4, 0, **small), wanted := make(4, 1, **large))
    assert list_modules(transfer.initialized) == "body.2 to body.4"
    assert all(torch.equal(wanted[0].state_dict()[key], fresh[key]) for key in transfer.initialized)


@pytest.mark.parametrize("options", SMALL.values(), ids=SMALL)
def test_a_gray_network_gives_the_mean_of_what_the_rgb_one_gives(options):
    given, wanted = make(2, 0, **options), make(2, 1, **options, channels=1)
    transfer, _ = start(given, wanted)
    assert transfer.initialized == transfer.unused == ()
    assert len(transfer.adapted) == 3  # the input's weights, the output's, its biases
    gray = torch.rand(1, 1, 8, 6)
    with torch.no_grad():
        expected = given[0](gray.expand(1, 3, 8, 6)).mean(1, keepdim=True)
        assert torch.allclose(wanted[0](gray), expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))


def test_the_sum_over_the_input_channels_and_the_mean_of_the_output_ones():
    given, wanted = make(4, 0, **RRDB), make(4, 1, **RRDB, channels=1)
    start(given, wanted)
    assert torch.allclose(wanted[0].conv_first.weight[:, 0], given[0].conv_first.weight.sum(1), atol=1e-6)
    assert torch.allclose(wanted[0].conv_last.weight[0], given[0].conv_last.weight.mean(0), atol=1e-6)
    assert torch.allclose(wanted[0].conv_last.bias[0], given[0].conv_last.bias.mean(), atol=1e-6)


def test_the_last_convolution_of_a_chain_is_the_last_whatever_its_number():
    compact = SMALL["compact"]
    given, wanted = make(4, 0, **compact | {"blocks": 4}), make(4, 1, **compact)
    transfer, _ = start(given, wanted)
    assert list_modules(transfer.unused) == "body.6 to body.9"
    assert torch.equal(wanted[0].body[6].weight, given[0].body[10].weight)
    transfer, fresh = start(given, wanted := make(2, 1, **compact))
    assert list_modules(transfer.initialized) == "body.6"
    assert torch.equal(wanted[0].body[6].weight, fresh["body.6.weight"])
    # Its 48 outputs are as many as its features, and yet the trunk's tensors are not taken for the tail's.
    transfer, _ = start(make(4, 0, **compact | {"features": 48}), make(4, 1, **compact | {"features": 48, "blocks": 1}))
    assert (transfer.initialized, list_modules(transfer.unused)) == ((), "body.4, body.5")


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"features": 12}, "features 8 instead of 12"),
        ({"growth": 6}, "growth 4 instead of 6"),
        (SMALL["msrresnet"], "architecture rrdbnet instead of msrresnet"),
    ],
)
def test_another_trunk_is_refused_and_the_reason_named(changes, reason):
    wanted = changes if "architecture" in changes else RRDB | changes
    assert find_misfit(ArchSpec(scale=4, **RRDB), ArchSpec(scale=4, **wanted)) == reason


def test_modules_are_listed_as_ranges():
    keys = [f"body.{n}.rdb1.conv1.weight" for n in range(6, 23)] + ["conv_first.weight", "conv_first.bias"]
    assert list_modules(keys) == "body.6 to body.22, conv_first"
    assert list_modules(["conv_up1.weight", "conv_up2.weight"]) == "conv_up1, conv_up2"
