from __future__ import annotations

import pytest
import torch

from sr_deploy.arch.registry import build_network
from sr_deploy.arch.spec import ArchSpec
from sr_deploy.errors import RecipeError
from sr_deploy.train.frozen import freeze_parts, freeze_statistics
from sr_deploy.train.networks import check_inputs


def build_srresnet(blocks: int = 1) -> torch.nn.Module:
    return build_network(ArchSpec(architecture="srresnet", scale=2, features=8, blocks=blocks))


def trained_names(network: torch.nn.Module) -> list[str]:
    return [name for name, one in network.named_parameters() if one.requires_grad]


def test_names_are_taken_up_to_a_dot():
    network = build_srresnet(blocks=11)
    before = trained_names(network)
    freeze_parts(network, ["conv_first", "body.1", "conv_last.weight"])
    gone = [name for name in before if name not in trained_names(network)]
    assert gone[:2] == ["conv_first.weight", "conv_first.bias"]
    assert gone[-1] == "conv_last.weight"
    assert len(gone) == 2 + 7 + 1
    assert {name.rsplit(".", 2)[0] for name in gone[2:-1]} == {"body.1"}  # neither body.10 nor conv_body


def test_nothing_is_frozen_without_names():
    network = build_srresnet()
    freeze_parts(network, [])
    freeze_statistics(network.train())
    assert len(trained_names(network)) == len(list(network.parameters()))
    assert all(module.training for module in network.modules())


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        (
            ["tail"],
            r"optimizer\.frozen names 'tail', which is no part .*; there are conv_first, prelu, body, conv_body",
        ),
        (["bod"], "names 'bod'"),
        (
            ["body.1"],
            r"'body\.1', .* conv_first\.weight, conv_first\.bias, prelu\.weight, body\.0, conv_body",
        ),
        (
            ["conv_first", "prelu", "body", "conv_body", "bn_body", "upsample", "conv_last"],
            r"optimizer\.frozen = \['conv_first', .*\] freezes all of the network; leave out a part",
        ),
    ],
)
def test_what_is_no_part_and_all_parts_are_refused(parts, message):
    with pytest.raises(RecipeError, match=message):
        freeze_parts(build_srresnet(), parts)


def test_many_names_are_counted():
    with pytest.raises(RecipeError, match=r"body\.0, .*body\.16 and 19 more$"):
        freeze_parts(build_srresnet(blocks=30), ["body.30"])


def test_a_recipe_is_refused_before_anything_is_built(make_recipe):
    check_inputs(make_recipe(optimizer={"frozen": ["body.0"]}))
    with pytest.raises(RecipeError, match=r"names 'head', .* there are body$"):
        check_inputs(make_recipe(optimizer={"frozen": ["head"]}))


def test_frozen_normalizations_keep_their_statistics():
    network = build_srresnet()
    freeze_parts(network, ["body"])
    freeze_statistics(network.train())
    before = {name: buffer.clone() for name, buffer in network.named_buffers()}
    network(torch.rand(2, 3, 12, 12)).sum().backward()
    changed = {name for name, buffer in network.named_buffers() if not torch.equal(buffer, before[name])}
    assert changed == {"bn_body.running_mean", "bn_body.running_var", "bn_body.num_batches_tracked"}
    assert [name for name, one in network.named_parameters() if one.grad is None] == [
        name for name, _ in network.named_parameters() if name.startswith("body.")
    ]
