"""Files of other trainers: where the generator is in them, and which of several is taken."""

from __future__ import annotations

from collections import OrderedDict

import pytest
import torch
from safetensors.torch import save_file
from torch.optim.swa_utils import AveragedModel

from sr_deploy.arch.discriminators.factory import build_discriminator
from sr_deploy.arch.registry import build_network
from sr_deploy.arch.spec import ArchSpec, DiscriminatorSpec
from sr_deploy.arch.weights import read_checkpoint
from sr_deploy.errors import CheckpointError

SPEC = ArchSpec(architecture="rrdbnet", scale=4, features=6, blocks=2, growth=4)


def make_network(seed: int, spec: ArchSpec = SPEC) -> torch.nn.Module:
    torch.manual_seed(seed)
    return build_network(spec)


RAW, AVERAGED = make_network(1).state_dict(), make_network(2).state_dict()
DISCRIMINATOR = build_discriminator(DiscriminatorSpec(architecture="unet", features=4)).state_dict()


def prefixed(**states: dict) -> dict:
    return {f"{prefix}.{key}": value for prefix, state in states.items() for key, value in state.items()}


def averaged_model() -> dict:
    model = AveragedModel(make_network(1))
    model.module.load_state_dict(AVERAGED)
    return model.state_dict()


def lightning(**networks: dict) -> dict:
    return {
        "epoch": 3,
        "global_step": 100,
        "pytorch-lightning_version": "2.5.0",
        "state_dict": OrderedDict(prefixed(**networks)),
        "optimizer_states": [{"state": {0: {"exp_avg": torch.zeros(3)}}, "param_groups": [{"lr": 1e-4}]}],
    }


WRAPPED = {
    "plain": RAW,
    "params": {"params": RAW},
    "model and optimizer": {"model": RAW, "optimizer": {"state": {0: {"exp_avg": torch.zeros(3)}}}},
    "DataParallel": prefixed(module=RAW),
    "torch.compile": prefixed(_orig_mod=RAW),
    "both": {f"module._orig_mod.{key}": value for key, value in RAW.items()},
    "net_g": {"net_g": RAW, "net_d": DISCRIMINATOR, "iter": 5},
    "Lightning, one network": lightning(model=RAW),
    "Lightning, two networks": lightning(generator=RAW, discriminator=DISCRIMINATOR),
    "Lightning, compiled": lightning(**{"generator._orig_mod": RAW, "discriminator._orig_mod": DISCRIMINATOR}),
    "names of somebody's own": {"weights": {"upscaler": RAW, "judge": DISCRIMINATOR}},
    "deep": {"a": {"b": {"c": {"d": RAW}}}},
}
BOTH = {
    "params_ema": {"params": RAW, "params_ema": AVERAGED},
    "ema": {"model": RAW, "ema": AVERAGED},
    "ema with its state": {"model": RAW, "ema": {"decay": 0.999, "module": AVERAGED}},
    "net_g_ema": {"net_g": RAW, "net_g_ema": AVERAGED, "net_d": DISCRIMINATOR},
    "generator_ema in one dictionary": prefixed(generator=RAW, generator_ema=AVERAGED, discriminator=DISCRIMINATOR),
    "Lightning": lightning(generator=RAW, generator_ema=AVERAGED, discriminator=DISCRIMINATOR),
    "ema-pytorch": {
        **prefixed(online_model=RAW, ema_model=AVERAGED),
        "step": torch.tensor(3),
        "initted": torch.ones(1),
    },
    "AveragedModel": {"model": RAW, "swa_model": averaged_model()},
    "averaged beside the rest": {**RAW, **prefixed(ema=AVERAGED)},
}


def read(tmp_path, document):
    path = tmp_path / "weights.pth"
    torch.save(document, path)
    return read_checkpoint(path)


def assert_same(state, expected):
    assert state.keys() == expected.keys()
    assert all(torch.equal(state[key], expected[key]) for key in expected)


@pytest.mark.parametrize("name", WRAPPED)
def test_a_generator_is_found_in_what_trainers_save(name, tmp_path):
    checkpoint = read(tmp_path, WRAPPED[name])
    assert (checkpoint.spec, checkpoint.layout, checkpoint.notes) == (SPEC, "rrdbnet", ())
    assert_same(checkpoint.state, RAW)


@pytest.mark.parametrize("name", BOTH)
def test_of_raw_and_averaged_weights_the_averaged_ones_are_taken_and_it_is_said(name, tmp_path):
    checkpoint = read(tmp_path, BOTH[name])
    assert_same(checkpoint.state, AVERAGED)
    (note,) = checkpoint.notes
    assert "the averaged ones are taken" in note


def test_a_lone_average_needs_no_word(tmp_path):
    checkpoint = read(tmp_path, averaged_model())
    assert checkpoint.notes == ()
    assert_same(checkpoint.state, AVERAGED)


def test_prefixes_are_taken_off_safetensors_too(tmp_path):
    path = tmp_path / "weights.safetensors"
    save_file(prefixed(generator=RAW, generator_ema=AVERAGED), path)
    assert_same(read_checkpoint(path).state, AVERAGED)


def test_of_several_generators_that_of_a_known_name_is_taken_and_the_other_is_named(tmp_path):
    checkpoint = read(tmp_path, {"generator": RAW, "teacher": AVERAGED})
    assert_same(checkpoint.state, RAW)
    assert checkpoint.notes == ("the file holds several generators; generator is taken, teacher is not",)


def test_several_generators_without_a_known_name_are_refused(tmp_path):
    with pytest.raises(CheckpointError, match=r"several generators \(first, second\)"):
        read(tmp_path, {"first": RAW, "second": AVERAGED})


def test_a_part_of_another_network_is_no_generator(tmp_path):
    """Its trunk begins as the compact network does: a convolution, then a vector."""
    part = {
        f"trunk.{key}": value
        for key, value in make_network(0, ArchSpec(architecture="compact", scale=4, features=6, blocks=1))
        .state_dict()
        .items()
    }
    with pytest.raises(CheckpointError, match="unknown layout"):
        read(
            tmp_path,
            {**{key.replace("body.4", "body.9"): value for key, value in part.items()}, "head.weight": torch.zeros(3)},
        )


def test_what_fits_a_known_name_but_not_whole_is_told_what_is_missing(tmp_path):
    damaged = {key: value for key, value in RAW.items() if key != "conv_body.bias"}
    with pytest.raises(CheckpointError, match=r"tensor 'conv_body\.bias' is missing"):
        read(tmp_path, {"net_g": damaged, "net_d": DISCRIMINATOR})
