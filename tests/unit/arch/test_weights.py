import os
import re
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from sr_deploy.arch.keys import rename_by
from sr_deploy.arch.spec import ArchSpec
from sr_deploy.arch.tensors import shapes_of
from sr_deploy.arch.weights import read_checkpoint, save_generator
from sr_deploy.errors import OutputError

COMPACT = ArchSpec(architecture="compact", scale=4, features=6, blocks=2)
RRDB = ArchSpec(architecture="rrdbnet", scale=4, features=6, blocks=2, growth=4)
SRRESNET = ArchSpec(architecture="srresnet", scale=4, features=6, blocks=2)


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


@pytest.mark.parametrize(
    "spec", RRDB_SPECS, ids=lambda spec: f"x{spec.scale}-{spec.options.get('unshuffle')}-{spec.channels}"
)
@pytest.mark.parametrize(
    ("layout", "rename"),
    [("rrdbnet", lambda key, *_: key), ("esrgan", to_esrgan), ("esrgan-old", to_old_esrgan)],
)
def test_rrdbnet_layouts(tmp_path, spec, layout, rename, weights_of):
    state = weights_of(spec)
    ups = sum(key.startswith("conv_up") for key in state) // 2
    torch.save({rename(key, spec.blocks, ups): tensor for key, tensor in state.items()}, tmp_path / "x.pth")
    assert_reads(tmp_path / "x.pth", spec, layout, state)


def test_old_esrgan_keys_as_published(tmp_path, weights_of):
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


def test_old_layout_with_a_wrong_number_of_layers(tmp_path, weights_of, assert_refused):
    state = {to_old_esrgan(key, 2, 2).replace("model.10", "model.11"): value for key, value in weights_of(RRDB).items()}
    torch.save(state, tmp_path / "x.pth")
    assert_refused(tmp_path / "x.pth", "'model.11'", "4, 7, 10 or 13")


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
def test_other_layouts(tmp_path, spec, weights_of):
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
def test_wrappers_and_prefixes(tmp_path, wrap, weights_of):
    state = weights_of(COMPACT)
    torch.save(wrap(state), tmp_path / "x.pth")
    assert_reads(tmp_path / "x.pth", COMPACT, "compact", state)


def test_averaged_weights_come_before_the_others(tmp_path, weights_of):
    state, averaged = weights_of(COMPACT), {key: tensor + 1 for key, tensor in weights_of(COMPACT).items()}
    torch.save({"params": state, "params_ema": averaged}, tmp_path / "x.pth")
    assert_reads(tmp_path / "x.pth", COMPACT, "compact", averaged)


def test_foreign_safetensors_are_recognized_by_their_keys(tmp_path, weights_of):
    from safetensors.torch import save_file

    state = weights_of(RRDB)
    save_file({f"module.{key}": tensor for key, tensor in state.items()}, tmp_path / "x.safetensors", {"format": "pt"})
    assert_reads(tmp_path / "x.safetensors", RRDB, "rrdbnet", state)


def test_half_precision_becomes_single_and_counters_stay(tmp_path, weights_of):
    state = weights_of(SRRESNET)
    halved = {key: tensor.half() if tensor.is_floating_point() else tensor for key, tensor in state.items()}
    torch.save(halved, tmp_path / "x.pth")
    read = read_checkpoint(tmp_path / "x.pth").state
    assert read["conv_first.weight"].dtype == torch.float32
    assert torch.equal(read["conv_first.weight"], halved["conv_first.weight"].float())
    assert read["body.0.bn1.num_batches_tracked"].dtype == torch.int64


def test_tensors_saved_on_a_gpu_load_on_the_cpu(tmp_path, monkeypatch, weights_of):
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


def test_our_file_carries_spec_and_extra_in_its_metadata(tmp_path, weights_of):
    path = tmp_path / "deep" / "x.safetensors"
    save_generator(path, weights_of(COMPACT), COMPACT, {"step": "500"})
    with safe_open(path, framework="np") as file:
        metadata = file.metadata()
    assert metadata["format"] == "sr-deploy"
    assert metadata["step"] == "500"
    assert ArchSpec.model_validate_json(metadata["arch"]) == COMPACT
    assert os.listdir(path.parent) == ["x.safetensors"]


def test_shared_and_strided_tensors_are_saved(tmp_path, weights_of):
    state = weights_of(COMPACT)
    state["body.3.weight"] = state["body.1.weight"]
    state["body.2.weight"] = state["body.2.weight"].permute(1, 0, 2, 3)
    save_generator(tmp_path / "x.safetensors", state, COMPACT)
    assert_reads(tmp_path / "x.safetensors", COMPACT, "sr-deploy", state)


def test_unwritable_place_is_one_line(tmp_path, weights_of):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="a file stands where a folder is needed"):
        save_generator(tmp_path / "file" / "x.safetensors", weights_of(COMPACT), COMPACT)


MMSR = ((r"^body\.", "recon_trunk."), (r"^conv_hr\.", "HRconv."))
LORNATANG = (
    (r"^conv_first\.", "conv1.0."), (r"^prelu\.", "conv1.1."), (r"^body\.(\d+)\.conv1\.", r"trunk.\1.rcb.0."),
    (r"^body\.(\d+)\.bn1\.", r"trunk.\1.rcb.1."), (r"^body\.(\d+)\.prelu\.", r"trunk.\1.rcb.2."),
    (r"^body\.(\d+)\.conv2\.", r"trunk.\1.rcb.3."), (r"^body\.(\d+)\.bn2\.", r"trunk.\1.rcb.4."),
    (r"^conv_body\.", "conv2.0."), (r"^bn_body\.", "conv2.1."), (r"^conv_last\.", "conv3."),
    (r"^upsample\.(\d+)\.conv\.", r"upsampling.\1.upsample_block.0."),
    (r"^upsample\.(\d+)\.prelu\.", r"upsampling.\1.upsample_block.2."),
)  # fmt: skip


@pytest.mark.parametrize(
    ("spec", "rules", "layout"),
    [
        (ArchSpec(architecture="msrresnet", scale=4, features=6, blocks=2), MMSR, "msrresnet-mmsr"),
        (SRRESNET, LORNATANG, "srresnet-lornatang"),
    ],
    ids=["mmsr", "Lornatang"],
)
def test_layouts_of_other_repositories(tmp_path, spec, rules, layout, weights_of):
    """Keys as in files that their code wrote (`conv1.0.weight`, `recon_trunk.0.conv1.weight`)."""
    state = weights_of(spec)
    renamed = rename_by(*rules)(shapes_of(state))
    torch.save({renamed[key]: tensor for key, tensor in state.items()}, tmp_path / "x.pth")
    assert_reads(tmp_path / "x.pth", spec, layout, state)
