"""Files that give no generator: what is wrong with them is said in one line, and nothing in them runs."""

import argparse
import os
import pickle
import random

import numpy as np
import pytest
import torch

from sr_deploy.arch.spec import ArchSpec
from sr_deploy.arch.weights import read_checkpoint, save_generator
from sr_deploy.errors import InputError, SrDeployError

COMPACT = ArchSpec(architecture="compact", scale=4, features=6, blocks=2)
RRDB = ArchSpec(architecture="rrdbnet", scale=4, features=6, blocks=2, growth=4)
SRRESNET = ArchSpec(architecture="srresnet", scale=4, features=6, blocks=2)


class _Runs:
    def __init__(self, marker):
        self.marker = str(marker)

    def __reduce__(self):
        return os.mkdir, (self.marker,)


@pytest.mark.parametrize("zipped", [True, False])
def test_code_in_a_pickle_is_refused_and_not_run(tmp_path, zipped, weights_of, assert_refused):
    marker = tmp_path / "ran"
    document = {"params": weights_of(COMPACT), "note": _Runs(marker)}
    torch.save(document, tmp_path / "x.pth", _use_new_zipfile_serialization=zipped)
    assert_refused(
        tmp_path / "x.pth",
        "'posix.mkdir'" if os.name == "posix" else "mkdir",
        "tensors and plain containers",
    )
    assert not marker.exists()


def test_environment_cannot_switch_the_protection_off(tmp_path, monkeypatch, assert_refused):
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    torch.save({"params": _Runs(tmp_path / "ran")}, tmp_path / "x.pth")
    assert_refused(tmp_path / "x.pth", "refused")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("document", "name"),
    [
        ({"params": {}, "args": argparse.Namespace(a=1)}, "argparse.Namespace"),
        ({"x": np.ones(2)}, "numpy"),
        (torch.nn.Conv2d(1, 1, 1), "torch.nn.modules.conv.Conv2d"),
    ],
)
def test_other_objects_are_refused_by_name(tmp_path, document, name, assert_refused):
    torch.save(document, tmp_path / "x.pth")
    assert_refused(tmp_path / "x.pth", "refused", name)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "the file is empty"),
        (b"# notes\nnot a checkpoint\n", "start with b'# notes"),
        (pickle.dumps({"a": 1}), "no file of torch.save"),
        (b"PK\x03\x04 and nothing more", "damaged or truncated"),
        (b"\x10\0\0\0\0\0\0\0{not json at all", "damaged or truncated safetensors file"),
    ],
)
def test_files_that_are_no_checkpoints(tmp_path, content, words, assert_refused):
    (tmp_path / "x.pth").write_bytes(content)
    assert_refused(tmp_path / "x.pth", words)


@pytest.mark.parametrize("kind", ["zip", "legacy", "safetensors"])
def test_truncated_and_garbled_files_end_in_one_error(tmp_path, kind, weights_of, assert_refused):
    spec = ArchSpec(architecture="compact", scale=2, features=4, blocks=0)
    path = tmp_path / "x"
    if kind == "safetensors":
        save_generator(path, weights_of(spec), spec)
    else:
        torch.save(weights_of(spec), path, _use_new_zipfile_serialization=kind == "zip")
    whole = path.read_bytes()
    for share in (0.3, 0.6, 0.95):
        path.write_bytes(whole[: int(len(whole) * share)])
        assert_refused(path, "again")
    chance = random.Random(0)
    refused = 0
    for _ in range(150):
        garbled = bytearray(whole)
        for _ in range(4):
            garbled[chance.randrange(len(garbled))] = chance.randrange(256)
        path.write_bytes(garbled)
        try:
            read_checkpoint(path)
        except SrDeployError:
            refused += 1
    assert refused > 20


def test_missing_file_and_folder(tmp_path):
    with pytest.raises(InputError, match=r"none\.pth does not exist; give a checkpoint"):
        read_checkpoint(tmp_path / "none.pth")
    with pytest.raises(InputError, match="is a folder, but a checkpoint must be a file"):
        read_checkpoint(tmp_path)


@pytest.mark.parametrize(
    ("document", "words"),
    [
        ({"optimizer": {"state": {}}, "epoch": 3}, ["training state without the gen", "'optimizer', 'epoch'"]),
        ({"epoch": 3, "loss": 0.5}, ["no weights", "'epoch', 'loss'"]),
        ({}, ["it holds nothing"]),
        (torch.ones(3), ["one bare tensor of shape (3,)"]),
        ([1, 2], ["holds a list"]),
        ({"conv0.weight": torch.ones(2), "conv1.weight_orig": torch.ones(2)}, ["looks like a discriminator"]),
        ({"conv0_0.weight": torch.ones(2), "linear1.weight": torch.ones(2)}, ["looks like a discriminator"]),
        (
            {"layers.0.attn.weight": torch.ones(2), "norm.bias": torch.ones(2)},
            [
                "unknown layout",
                "layers.0.attn.weight, norm.bias",
                "RRDB_trunk.N.RDB1.conv1",
                "SRVGGNetCompact",
                "upconv1",
            ],
        ),
    ],
)
def test_files_without_a_generator(tmp_path, document, words, assert_refused):
    torch.save(document, tmp_path / "x.pth")
    assert_refused(tmp_path / "x.pth", *words)


@pytest.mark.parametrize(
    ("spec", "changes", "words"),
    [
        (
            COMPACT,
            {"body.2.weight": (6, 5, 3, 3)},
            ["'body.2.weight' has shape (6, 5, 3, 3)", "must have (6, 6, 3, 3)"],
        ),
        (COMPACT, {"body.2.bias": (5,)}, ["'body.2.bias' has shape (5,)", "must have (6,)"]),
        (COMPACT, {"body.4.weight": None}, ["'body.4.weight' is missing", "compact x4, 2 blocks", "(6, 6, 3, 3)"]),
        (COMPACT, {"body.6.weight": (50, 6, 3, 3)}, ["'body.6.weight' gives 50 channels", "scale^2"]),
        (COMPACT, {"extra.weight": (2,)}, ["'extra.weight' has no place"]),
        (COMPACT, {"body.0.weight": (6, 5, 3, 3), "body.6.weight": (80, 6, 3, 3)}, ["1 or 3 channels, not 5"]),
        (RRDB, {"body.1.rdb2.conv3.weight": (4, 9, 3, 3)}, ["'body.1.rdb2.conv3.weight'", "must have (4, 14, 3, 3)"]),
        (RRDB, {"conv_first.weight": (6, 6, 3, 3)}, ["'conv_first.weight' reads 6 channels", "pixel-unshuffle"]),
        (RRDB, {"conv_last.weight": None}, ["looks like RRDBNet of BasicSR", "'conv_last.weight' is missing"]),
        (RRDB, {"conv_first.weight": (6, 3)}, ["'conv_first.weight' has shape (6, 3)", "4 axes"]),
        (SRRESNET, {"body.0.bn1.weight": (7,)}, ["'body.0.bn1.weight' has shape (7,)"]),
    ],
)
def test_shapes_that_contradict_each_other(
    tmp_path, spec, changes, words, *, weights_of, change_shapes, assert_refused
):
    state = change_shapes(weights_of(spec), changes)
    torch.save(state, tmp_path / "x.pth")
    assert_refused(tmp_path / "x.pth", *words)


def test_a_missing_block_is_found(tmp_path, weights_of, assert_refused):
    state = {key: tensor for key, tensor in weights_of(RRDB).items() if not key.startswith("body.0.rdb2")}
    torch.save(state, tmp_path / "x.pth")
    assert_refused(tmp_path / "x.pth", "'body.0.rdb2.conv1.weight' is missing", "rrdbnet x4, 2 blocks")


def test_metadata_of_ours_are_checked_against_the_shapes(tmp_path, weights_of, assert_refused):
    save_generator(tmp_path / "x.safetensors", weights_of(COMPACT), COMPACT.model_copy(update={"features": 8}))
    assert_refused(tmp_path / "x.safetensors", "'body.0.weight' has shape (6, 3, 3, 3)", "must have (8, 3, 3, 3)")
    save_generator(tmp_path / "x.safetensors", weights_of(COMPACT), COMPACT.model_copy(update={"architecture": "edsr"}))
    assert_refused(tmp_path / "x.safetensors", "unknown architecture 'edsr'")
    save_generator(tmp_path / "x.safetensors", weights_of(COMPACT), COMPACT.model_copy(update={"scale": -1}))
    assert_refused(tmp_path / "x.safetensors", "its metadata describe no network", "scale")


def test_discriminator_of_ours_is_named(tmp_path, assert_refused):
    from safetensors.torch import save_file

    metadata = {"format": "sr-deploy", "role": "discriminator"}
    save_file({"conv0.weight": torch.ones(2)}, tmp_path / "x.safetensors", metadata)
    assert_refused(tmp_path / "x.safetensors", "no generator but discriminator")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_diverged_weights_are_named(tmp_path, value, weights_of, assert_refused):
    state = weights_of(COMPACT)
    state["body.2.bias"][1] = value
    torch.save(state, tmp_path / "x.pth")
    assert_refused(tmp_path / "x.pth", "'body.2.bias' holds NaN or infinity")


def test_whole_numbers_are_no_weights(tmp_path, weights_of, assert_refused):
    state = weights_of(COMPACT)
    state["body.2.weight"] = state["body.2.weight"].to(torch.int8)
    torch.save(state, tmp_path / "x.pth")
    assert_refused(tmp_path / "x.pth", "'body.2.weight' holds torch.int8")
