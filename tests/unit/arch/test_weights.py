import argparse
import os
import pickle
import random
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open

from sr_deploy.arch.registry import build_network
from sr_deploy.arch.spec import ArchSpec
from sr_deploy.arch.weights import read_checkpoint, save_generator
from sr_deploy.errors import CheckpointError, InputError, OutputError, SrDeployError

COMPACT = ArchSpec(architecture="compact", scale=4, features=6, blocks=2)
RRDB = ArchSpec(architecture="rrdbnet", scale=4, features=6, blocks=2, growth=4)
SRRESNET = ArchSpec(architecture="srresnet", scale=4, features=6, blocks=2)


def weights_of(spec):
    torch.manual_seed(spec.scale)
    network = build_network(spec)
    for tensor in network.state_dict().values():
        if tensor.is_floating_point():
            tensor.uniform_(0.1, 1)
    return network.state_dict()


def to_esrgan(key, _blocks, _ups):
    """The names of the ESRGAN and BSRGAN repositories."""
    key = re.sub(r"^body\.(\d+)\.rdb(\d)", r"RRDB_trunk.\1.RDB\2", key)
    key = re.sub(r"^conv_body", "trunk_conv", key)
    key = re.sub(r"^conv_up", "upconv", key)
    return re.sub(r"^conv_hr", "HRconv", key)


def to_old_esrgan(key, blocks, ups):
    """The numbered names of the first ESRGAN, as torch numbers the children of its Sequential."""
    key = re.sub(r"^conv_first", "model.0", key)
    key = re.sub(r"^conv_body", f"model.1.sub.{blocks}", key)
    key = re.sub(r"^body\.(\d+)\.rdb(\d)\.conv(\d)", r"model.1.sub.\1.RDB\2.conv\3.0", key)
    key = re.sub(r"^conv_up(\d)", lambda match: f"model.{3 * int(match[1])}", key)
    key = re.sub(r"^conv_hr", f"model.{2 + 3 * ups}", key)
    return re.sub(r"^conv_last", f"model.{4 + 3 * ups}", key)


def assert_reads(path, spec, layout, state):
    checkpoint = read_checkpoint(path)
    assert checkpoint.spec == spec
    assert checkpoint.layout == layout
    assert list(checkpoint.state) == list(state) or set(checkpoint.state) == set(state)
    assert all(torch.equal(checkpoint.state[key], tensor) for key, tensor in state.items())


RRDB_SPECS = [
    RRDB,
    ArchSpec(architecture="rrdbnet", scale=2, features=6, blocks=1, growth=4),
    ArchSpec(architecture="rrdbnet", scale=1, features=6, blocks=1, growth=4),
    ArchSpec(architecture="rrdbnet", scale=1, features=6, blocks=1, growth=4, unshuffle=1),
    ArchSpec(architecture="rrdbnet", scale=2, features=6, blocks=1, growth=4, unshuffle=1),
    ArchSpec(architecture="rrdbnet", scale=8, features=5, blocks=3, growth=2, channels=1),
    ArchSpec(architecture="rrdbnet", scale=4, features=6, blocks=1, growth=4, unshuffle=2),
]


@pytest.mark.parametrize("spec", RRDB_SPECS, ids=lambda spec: f"x{spec.scale}-{spec.unshuffle}-{spec.channels}")
@pytest.mark.parametrize(
    ("layout", "rename"),
    [("rrdbnet", lambda key, *_: key), ("esrgan", to_esrgan), ("esrgan-old", to_old_esrgan)],
)
def test_rrdbnet_layouts(tmp_path, spec, layout, rename):
    state = weights_of(spec)
    ups = sum(key.startswith("conv_up") for key in state) // 2
    torch.save({rename(key, spec.blocks, ups): tensor for key, tensor in state.items()}, tmp_path / "x.pth")
    assert_reads(tmp_path / "x.pth", spec, layout, state)


def test_old_esrgan_keys_as_published(tmp_path):
    """The renaming above is only as good as these names, read from a published x4 file."""
    keys = {to_old_esrgan(key, 2, 2).rpartition(".")[0] for key in weights_of(RRDB)}
    assert {
        "model.0",
        "model.1.sub.0.RDB1.conv1.0",
        "model.1.sub.2",
        "model.3",
        "model.6",
        "model.8",
        "model.10",
    } <= keys


@pytest.mark.parametrize(
    "spec",
    [
        COMPACT,
        ArchSpec(architecture="compact", scale=2, features=7, blocks=0, channels=1),
        ArchSpec(architecture="compact", scale=1, features=7, blocks=1),
        ArchSpec(architecture="msrresnet", scale=4, features=6, blocks=2),
        ArchSpec(architecture="msrresnet", scale=3, features=6, blocks=1, channels=1),
        ArchSpec(architecture="msrresnet", scale=2, features=6, blocks=3),
        SRRESNET,
        ArchSpec(architecture="srresnet", scale=2, features=5, blocks=1, channels=1),
    ],
    ids=lambda spec: f"{spec.architecture}-x{spec.scale}-{spec.channels}",
)
def test_other_layouts(tmp_path, spec):
    state = weights_of(spec)
    torch.save(state, tmp_path / "x.pth")
    assert_reads(tmp_path / "x.pth", spec, spec.architecture, state)
    save_generator(tmp_path / "x.safetensors", state, spec)
    assert_reads(tmp_path / "x.safetensors", spec, "sr-deploy", state)


@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: {"params": {}, "params_ema": state},
        lambda state: {"params-ema": state, "params": state["body.0.weight"]},
        lambda state: {"model_state_dict": state, "epoch": 3, "optimizer": {"lr": 1.0}},
        lambda state: {"state_dict": {"params": state}},
        lambda state: {"model": state, "note": "text", "seen": [1, 2]},
        lambda state: {"net": state},
        lambda state: {"anything": {"else": state}},
        lambda state: {f"module.{key}": tensor for key, tensor in state.items()},
        lambda state: {"params": {f"module.netG.{key}": tensor for key, tensor in state.items()}},
    ],
)
def test_wrappers_and_prefixes(tmp_path, wrap):
    state = weights_of(COMPACT)
    torch.save(wrap(state), tmp_path / "x.pth")
    assert_reads(tmp_path / "x.pth", COMPACT, "compact", state)


def test_averaged_weights_come_before_the_others(tmp_path):
    state, averaged = weights_of(COMPACT), {key: tensor + 1 for key, tensor in weights_of(COMPACT).items()}
    torch.save({"params": state, "params_ema": averaged}, tmp_path / "x.pth")
    assert_reads(tmp_path / "x.pth", COMPACT, "compact", averaged)


def test_foreign_safetensors_are_recognised_by_their_keys(tmp_path):
    from safetensors.torch import save_file

    state = weights_of(RRDB)
    save_file({f"module.{key}": tensor for key, tensor in state.items()}, tmp_path / "x.safetensors", {"format": "pt"})
    assert_reads(tmp_path / "x.safetensors", RRDB, "rrdbnet", state)


def test_half_precision_becomes_single_and_counters_stay(tmp_path):
    state = weights_of(SRRESNET)
    halved = {key: tensor.half() if tensor.is_floating_point() else tensor for key, tensor in state.items()}
    torch.save(halved, tmp_path / "x.pth")
    read = read_checkpoint(tmp_path / "x.pth").state
    assert read["conv_first.weight"].dtype == torch.float32
    assert torch.equal(read["conv_first.weight"], halved["conv_first.weight"].float())
    assert read["body.0.bn1.num_batches_tracked"].dtype == torch.int64


def test_tensors_saved_on_a_gpu_load_on_the_cpu(tmp_path, monkeypatch):
    state = weights_of(COMPACT)
    with monkeypatch.context() as patch:  # what a machine with a GPU writes
        patch.setattr(torch.serialization, "location_tag", lambda _storage: "cuda:0")
        torch.save(state, tmp_path / "x.pth")
    assert b"cuda:0" in (tmp_path / "x.pth").read_bytes()
    assert_reads(tmp_path / "x.pth", COMPACT, "compact", state)
    assert {tensor.device.type for tensor in read_checkpoint(tmp_path / "x.pth").state.values()} == {"cpu"}


def test_published_animevideo_network():
    data = os.environ.get("SR_DEPLOY_DATA")
    if not data:
        pytest.skip("SR_DEPLOY_DATA is not set: the published checkpoint is not at hand")
    checkpoint = read_checkpoint(Path(data) / "checkpoints" / "realesr-animevideov3.pth")
    assert checkpoint.spec == ArchSpec(architecture="compact", scale=4, features=64, blocks=16)
    assert checkpoint.layout == "compact"
    assert sum(tensor.numel() for tensor in checkpoint.state.values()) == 621_424


def test_our_file_carries_spec_and_extra_in_its_metadata(tmp_path):
    path = tmp_path / "deep" / "x.safetensors"
    save_generator(path, weights_of(COMPACT), COMPACT, {"step": "500"})
    with safe_open(path, framework="np") as file:
        metadata = file.metadata()
    assert metadata["format"] == "sr-deploy"
    assert metadata["step"] == "500"
    assert ArchSpec.model_validate_json(metadata["arch"]) == COMPACT
    assert os.listdir(path.parent) == ["x.safetensors"]


def test_shared_and_strided_tensors_are_saved(tmp_path):
    state = weights_of(COMPACT)
    state["body.3.weight"] = state["body.1.weight"]
    state["body.2.weight"] = state["body.2.weight"].permute(1, 0, 2, 3)
    save_generator(tmp_path / "x.safetensors", state, COMPACT)
    assert_reads(tmp_path / "x.safetensors", COMPACT, "sr-deploy", state)


def test_unwritable_place_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="a file stands where a folder is needed"):
        save_generator(tmp_path / "file" / "x.safetensors", weights_of(COMPACT), COMPACT)


def assert_refused(path, *patterns):
    with pytest.raises(CheckpointError) as caught:
        read_checkpoint(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert "\n" not in message
    for pattern in patterns:
        assert pattern in message, message


class _Runs:
    def __init__(self, marker):
        self.marker = str(marker)

    def __reduce__(self):
        return os.mkdir, (self.marker,)


@pytest.mark.parametrize("zipped", [True, False])
def test_code_in_a_pickle_is_refused_and_not_run(tmp_path, zipped):
    marker = tmp_path / "ran"
    document = {"params": weights_of(COMPACT), "note": _Runs(marker)}
    torch.save(document, tmp_path / "x.pth", _use_new_zipfile_serialization=zipped)
    assert_refused(
        tmp_path / "x.pth", "'posix.mkdir'" if os.name == "posix" else "mkdir", "tensors and plain containers"
    )
    assert not marker.exists()


def test_environment_cannot_switch_the_protection_off(tmp_path, monkeypatch):
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
def test_other_objects_are_refused_by_name(tmp_path, document, name):
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
def test_files_that_are_no_checkpoints(tmp_path, content, words):
    (tmp_path / "x.pth").write_bytes(content)
    assert_refused(tmp_path / "x.pth", words)


@pytest.mark.parametrize("kind", ["zip", "legacy", "safetensors"])
def test_truncated_and_garbled_files_end_in_one_error(tmp_path, kind):
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
def test_files_without_a_generator(tmp_path, document, words):
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
def test_shapes_that_contradict_each_other(tmp_path, spec, changes, words):
    state = dict(weights_of(spec))
    for key, shape in changes.items():
        if shape is None:
            del state[key]
        else:
            state[key] = torch.ones(shape)
    torch.save(state, tmp_path / "x.pth")
    assert_refused(tmp_path / "x.pth", *words)


def test_a_missing_block_is_found(tmp_path):
    state = {key: tensor for key, tensor in weights_of(RRDB).items() if not key.startswith("body.0.rdb2")}
    torch.save(state, tmp_path / "x.pth")
    assert_refused(tmp_path / "x.pth", "'body.0.rdb2.conv1.weight' is missing", "rrdbnet x4, 2 blocks")


def test_old_layout_with_a_wrong_number_of_layers(tmp_path):
    state = {to_old_esrgan(key, 2, 2).replace("model.10", "model.11"): value for key, value in weights_of(RRDB).items()}
    torch.save(state, tmp_path / "x.pth")
    assert_refused(tmp_path / "x.pth", "'model.11'", "4, 7, 10 or 13")


def test_metadata_of_ours_are_checked_against_the_shapes(tmp_path):
    save_generator(tmp_path / "x.safetensors", weights_of(COMPACT), COMPACT.model_copy(update={"features": 8}))
    assert_refused(tmp_path / "x.safetensors", "'body.0.weight' has shape (6, 3, 3, 3)", "must have (8, 3, 3, 3)")
    save_generator(tmp_path / "x.safetensors", weights_of(COMPACT), COMPACT.model_copy(update={"architecture": "edsr"}))
    assert_refused(tmp_path / "x.safetensors", "unknown architecture 'edsr'")
    save_generator(tmp_path / "x.safetensors", weights_of(COMPACT), COMPACT.model_copy(update={"scale": -1}))
    assert_refused(tmp_path / "x.safetensors", "its metadata describe no network", "scale")


def test_discriminator_of_ours_is_named(tmp_path):
    from safetensors.torch import save_file

    metadata = {"format": "sr-deploy", "role": "discriminator"}
    save_file({"conv0.weight": torch.ones(2)}, tmp_path / "x.safetensors", metadata)
    assert_refused(tmp_path / "x.safetensors", "no generator but discriminator")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_diverged_weights_are_named(tmp_path, value):
    state = weights_of(COMPACT)
    state["body.2.bias"][1] = value
    torch.save(state, tmp_path / "x.pth")
    assert_refused(tmp_path / "x.pth", "'body.2.bias' holds NaN or infinity")


def test_whole_numbers_are_no_weights(tmp_path):
    state = weights_of(COMPACT)
    state["body.2.weight"] = state["body.2.weight"].to(torch.int8)
    torch.save(state, tmp_path / "x.pth")
    assert_refused(tmp_path / "x.pth", "'body.2.weight' holds torch.int8")
