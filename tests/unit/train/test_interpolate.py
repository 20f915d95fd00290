from __future__ import annotations

import json

import pytest
import torch
from safetensors import safe_open

import sr_deploy
from sr_deploy.arch.registry import build_network
from sr_deploy.arch.spec import ArchSpec
from sr_deploy.arch.weights import read_checkpoint, save_generator
from sr_deploy.cli import main
from sr_deploy.errors import CheckpointError, InputError
from sr_deploy.files import sha256_of
from sr_deploy.model import open_model
from sr_deploy.train.interpolate import METADATA_KEY, blend_states

SPEC = ArchSpec(architecture="srresnet", scale=2, features=8, blocks=1)


def make_state(spec, seed):
    torch.manual_seed(seed)
    state = build_network(spec).state_dict()
    for key, tensor in state.items():
        if key.endswith("running_var"):
            tensor.uniform_(0.5, 2)
        elif key.endswith("num_batches_tracked"):
            tensor.fill_(seed)
    return state


@pytest.fixture
def sources(tmp_path):
    for name, seed in (("psnr", 1), ("gan", 2)):
        save_generator(tmp_path / f"{name}.safetensors", make_state(SPEC, seed), SPEC)
    return tmp_path / "psnr.safetensors", tmp_path / "gan.safetensors"


def test_weights_and_statistics_are_blended_and_counters_are_those_of_the_second(sources, tmp_path):
    result = sr_deploy.interpolate_models(*sources, alpha=0.8, out=tmp_path / "blend.safetensors")
    a, b, blend = (read_checkpoint(path).state for path in (*sources, result.path))
    for key, tensor in blend.items():
        if key.endswith("num_batches_tracked"):
            assert tensor == 2
        else:
            expected = 0.2 * a[key].double() + 0.8 * b[key].double()
            torch.testing.assert_close(tensor.double(), expected, rtol=1e-6, atol=1e-7)
    assert any(key.endswith("running_var") for key in blend)


@pytest.mark.parametrize(("alpha", "which"), [(0, 0), (1, 1)])
def test_the_ends_are_the_sources_bit_for_bit(sources, tmp_path, alpha, which):
    result = sr_deploy.interpolate_models(*sources, alpha=alpha, out=tmp_path / "end.safetensors")
    expected = read_checkpoint(sources[which]).state
    blend = read_checkpoint(result.path).state
    for key in expected:
        if expected[key].is_floating_point():
            assert torch.equal(blend[key], expected[key]), key


def test_metadata_name_both_sources(sources, tmp_path):
    result = sr_deploy.interpolate_models(*sources, alpha=0.25, out=tmp_path / "blend.safetensors")
    with safe_open(result.path, framework="pt") as file:
        record = json.loads(file.metadata()[METADATA_KEY])
    assert record == {
        "alpha": 0.25,
        "sources": [
            {"file": "psnr.safetensors", "sha256": sha256_of(sources[0])},
            {"file": "gan.safetensors", "sha256": sha256_of(sources[1])},
        ],
    }
    assert result.source_sha256 == (sha256_of(sources[0]), sha256_of(sources[1]))


def test_published_layouts_bundles_and_ours_blend_with_each_other(make_bundle, exported, tmp_path):
    bundle = make_bundle("rrdbnet-x4", tmp_path)
    spec = exported("rrdbnet-x4").spec
    other = make_state(spec, 5)
    torch.save({"params_ema": other}, tmp_path / "published.pth")
    result = sr_deploy.interpolate_models(
        bundle.path, tmp_path / "published.pth", alpha=0.5, out=tmp_path / "b.safetensors"
    )
    ours = exported("rrdbnet-x4").network.state_dict()
    blend = open_model(result.path).load_network().state_dict()
    for key in ours:
        torch.testing.assert_close(blend[key], (ours[key] + other[key]) / 2)


def test_command_writes_a_checkpoint_that_evaluates(sources, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["interpolate", "psnr.safetensors", "gan.safetensors", "--alpha", "0.8"]) == 0
    out = capsys.readouterr().out
    assert f"0.2 of psnr.safetensors ({sha256_of(sources[0])[:12]})" in out
    assert f"0.8 of gan.safetensors ({sha256_of(sources[1])[:12]})" in out
    assert "psnr+gan-alpha0.8.safetensors: srresnet x2" in out
    model = open_model("psnr+gan-alpha0.8.safetensors")
    assert (model.kind, model.arch) == ("checkpoint", SPEC)
    assert main(["interpolate", "psnr.safetensors", "gan.safetensors", "--alpha", "0.8", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["sha256"] == sha256_of(tmp_path / document["path"])
    assert document["sources"][1] == {"file": "gan.safetensors", "sha256": sha256_of(sources[1])}


def test_different_networks_are_refused_with_both_titles(sources, tmp_path):
    spec = ArchSpec(architecture="srresnet", scale=2, features=8, blocks=2)
    save_generator(tmp_path / "deep.safetensors", make_state(spec, 3), spec)
    with pytest.raises(CheckpointError, match=r"psnr.safetensors is srresnet x2, 1 .*deep.* srresnet x2, 2 "):
        sr_deploy.interpolate_models(
            sources[0], tmp_path / "deep.safetensors", alpha=0.5, out=tmp_path / "x.safetensors"
        )
    assert not (tmp_path / "x.safetensors").exists()


def test_graphs_wrong_shares_and_wrong_names_are_refused(sources, exported, tmp_path, monkeypatch, capsys):
    with pytest.raises(CheckpointError, match="is an ONNX graph and has no PyTorch weights"):
        sr_deploy.interpolate_models(sources[0], exported("compact-x4").path, alpha=0.5)
    for alpha in (-0.1, 1.1, float("nan")):
        with pytest.raises(InputError, match="alpha must lie between 0"):
            sr_deploy.interpolate_models(*sources, alpha=alpha)
    with pytest.raises(InputError, match=r"cannot write blend.pth: weights are written as .safetensors"):
        sr_deploy.interpolate_models(*sources, alpha=0.5, out="blend.pth")
    with pytest.raises(InputError, match="is one of the two networks to blend"):
        sr_deploy.interpolate_models(*sources, alpha=0.5, out=sources[1])
    monkeypatch.chdir(tmp_path)
    assert main(["interpolate", "psnr.safetensors", "none.pth", "--alpha", "0.5"]) == 1
    assert "none.pth does not exist" in capsys.readouterr().err
    assert main(["interpolate", "psnr.safetensors", "gan.safetensors"]) == 2


def test_whole_numbers_are_never_blended():
    a, b = ({"count": torch.tensor(n), "weight": torch.tensor([float(n)])} for n in (10, 20))
    assert blend_states(a, b, 0.25) == {"count": torch.tensor(20), "weight": torch.tensor([12.5])}
