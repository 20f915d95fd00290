"""Bundles that are damaged or contradict themselves, with right hashes where there are hashes: one line, 3 or 1."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from sr_deploy.cli import main
from sr_deploy.imaging.codec import write_image

KEY = "0123456789abcdef"


@pytest.fixture(scope="module")
def sound(make_bundle, tmp_path_factory) -> Path:
    return make_bundle("compact-x4", tmp_path_factory.mktemp("sound"), fp16=True).path


@pytest.fixture(scope="module")
def picture(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("pictures") / "in.png"
    write_image(path, np.full((16, 16, 3), 90, np.uint8))
    return path


@pytest.fixture
def bundle(sound, tmp_path) -> Path:
    return Path(shutil.copytree(sound, tmp_path / "bundle"))


def change(bundle: Path, name: str, edit: Callable[[dict], object]) -> None:
    path = bundle / name
    document = json.loads(path.read_text())
    edit(document)
    path.write_text(json.dumps(document))


def rehash(bundle: Path) -> None:
    """Enter the hash of each file, as a tool that wrote it would."""

    def enter(manifest):
        for record in (manifest["reference"], *manifest["graphs"]):
            record["sha256"] = hashlib.sha256((bundle / record["file"]).read_bytes()).hexdigest()

    change(bundle, "bundle.json", enter)


def replace(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


def complain(capsys, *arguments: object) -> tuple[int, str]:
    """The exit code of a command, and its one line on stderr, what it was doing left out."""
    capsys.readouterr()
    code = main([str(one) for one in arguments])
    lines = capsys.readouterr().err.splitlines()
    said = [line for line in lines if line.startswith("error: ")]
    assert lines[-1:] == said, lines
    assert len(said) == 1, lines
    assert "internal" not in said[0]
    return code, said[0]


MANIFESTS = {
    "input_multiple 0": (lambda m: m.update(input_multiple=0), "input_multiple: Input should be greater"),
    "input_multiple -3": (lambda m: m.update(input_multiple=-3), "input_multiple: Input should be greater"),
    "input_multiple 10^9": (lambda m: m.update(input_multiple=10**9), "input_multiple: Input should be less"),
    "profile off the multiple": (lambda m: m.update(input_multiple=3), "not multiples of input_multiple, which is 3"),
    "absolute graph": (lambda m: m["graphs"][0].update(file="/etc/passwd"), "'/etc/passwd' leads out of its folder"),
    "graph above": (lambda m: m["graphs"][0].update(file="../x.onnx"), "'../x.onnx' leads out of its folder"),
    "graph below": (lambda m: m["graphs"][0].update(file="engines/x.onnx"), "is not a file of a bundle's own folder"),
    "graph without suffix": (lambda m: m["graphs"][0].update(file="model"), "that ends with .onnx"),
    "hidden graph": (lambda m: m["graphs"][0].update(file=".x.onnx"), "'.x.onnx' is not a file of a bundle's own"),
    "pickled reference": (lambda m: m["reference"].update(file="x.pth"), "that ends with .safetensors"),
    "reference with a colon": (
        lambda m: m["reference"].update(file="C:x.safetensors"),
        "is not a file of a bundle's own",
    ),
    "reference with backslashes": (
        lambda m: m["reference"].update(file="..\\x.safetensors"),
        "is not a file of a bundle's own folder",
    ),
    "no fp32": (lambda m: m.update(graphs=m["graphs"][1:]), "graphs are of fp16; each precision stands once, and fp32"),
    "no graphs": (lambda m: m.update(graphs=[]), "graphs are of none; each precision stands once"),
    "fp32 twice": (lambda m: m["graphs"][1].update(precision="fp32"), "graphs are of fp32, fp32; each precision"),
    "fp32 last": (lambda m: m["graphs"].reverse(), "graphs are of fp16, fp32; each precision stands once, and fp32"),
    "one file twice": (lambda m: m["graphs"].__setitem__(1, {**m["graphs"][0], "precision": "fp16"}), "more than once"),
    "int8 alone": (lambda m: m["graphs"][1].update(precision="int8"), "one of them is missing"),
    "int8_share of fp16": (lambda m: m["graphs"][1].update(int8_share=0.5), "is fp16 and has an int8_share"),
    "int8_share 2": (lambda m: m["graphs"][1].update(int8_share=2), "int8_share: Input should be less"),
    "planned_fp32 of fp32": (lambda m: m["graphs"][0].update(planned_fp32=["x"]), "is fp32 and has planned_fp32"),
    "empty name": (lambda m: m.update(name=""), "name: '' is not a name of a folder"),
    "absolute name": (lambda m: m.update(name="/abs/x"), "name: '/abs/x' is not a name of a folder"),
    "name above": (lambda m: m.update(name="../../x"), "name: '../../x' is not a name of a folder"),
    "name of dots": (lambda m: m.update(name=".."), "name: '..' is not a name of a folder"),
    "unknown architecture": (lambda m: m["arch"].update(architecture="../x"), "arch.architecture is '../x'; known:"),
    "2 channels": (lambda m: m["arch"].update(channels=2), "arch.channels is 2; a network has 1 or 3"),
    "10^9 blocks": (lambda m: m["arch"].update(blocks=10**9), "arch.blocks: true, false, an integer of up to 65536"),
    "scale 0": (lambda m: m["arch"].update(scale=0), "arch.scale: Input should be greater"),
    "no profiles": (lambda m: m.update(profiles=[]), "profiles: Tuple should have at least 1 item"),
    "65 profiles": (lambda m: m.update(profiles=m["profiles"] * 65), "profiles: Tuple should have at most 64"),
    "one profile twice": (lambda m: m.update(profiles=m["profiles"] * 2), "each needs a name of its own"),
    "profile of no name": (lambda m: m["profiles"][0].update(name="../x"), "profiles.0.name: String should match"),
    "profile out of order": (lambda m: m["profiles"][0].update(min=[9, 9, 9]), "needs 1 <= min <= opt <= max"),
    "threshold NaN": (lambda m: m.update(thresholds={"fp32": {"psnr_db": "NaN"}}), "Input should be a finite number"),
    "threshold infinite": (lambda m: m.update(thresholds={"fp32": {"max_abs": "inf"}}), "should be a finite number"),
    "capability": (
        lambda m: m["engine"].update(compute_capabilities=["../x"]),
        "compute_capabilities.0: String should",
    ),
    "short hash": (lambda m: m["reference"].update(sha256="0"), "reference.sha256: String should match"),
    "time": (lambda m: m.update(created_at="tomorrow"), "created_at: Invalid isoformat string"),
    "unknown field": (lambda m: m.update(extra=1), "extra: Extra inputs are not permitted"),
    "control characters": (lambda m: m["source"].update(layout="\x1b[2J"), "holds control characters"),
    "newer schema": (lambda m: m.update(schema_version=2), "has schema version 2; this sr-deploy reads version 1"),
    "schema of text": (lambda m: m.update(schema_version="1"), "it states no schema version"),
}


@pytest.mark.parametrize("edit", MANIFESTS)
def test_a_manifest_that_cannot_be_true(bundle, picture, tmp_path, capsys, edit):
    function, message = MANIFESTS[edit]
    change(bundle, "bundle.json", function)
    code, said = complain(capsys, "verify", bundle)
    assert (code, message in said) == (3, True), said
    assert said.startswith(f"error: NOT verified: {bundle}/bundle.json ")
    out = tmp_path / "out.png"
    for arguments in (("info", bundle), ("upscale", picture, out, "--model", bundle), ("info", bundle / "bundle.json")):
        code, said = complain(capsys, *arguments)
        assert (code, message in said) == (1, True), (arguments, said)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bundle"]


def _grow(path: Path) -> None:
    os.truncate(path, 2**40)  # sparse


TEXTS = {
    "nothing": (lambda path: path.write_text(""), "Expecting value"),
    "half": (lambda path: path.write_text(path.read_text()[:-20]), "bundle.json is damaged"),
    "no object": (lambda path: path.write_text("[]"), "it states no schema version"),
    "key twice": (lambda path: replace(path, '"name"', '"name": "x", "name"'), "the key 'name' occurs twice"),
    "NaN": (lambda path: replace(path, '"input_multiple":1', '"input_multiple":NaN'), "NaN is not JSON"),
    "1e400": (lambda path: replace(path, '"input_multiple":1', '"input_multiple":1e400'), "1e400 is too large"),
    "5000 digits": (lambda path: replace(path, '"input_multiple":1', f'"input_multiple":{"1" * 5000}'), "4300 digits"),
    "a million brackets": (lambda path: path.write_text("[" * 10**6), "nested deeper than 32 levels"),
    "half a surrogate pair": (lambda path: replace(path, '"compact-x4"', '"\\ud800"'), "holds control characters"),
    "UTF-16": (lambda path: path.write_bytes(path.read_text().encode("utf-16")), "'utf-8' codec can't decode"),
    "a terabyte": (_grow, "it has more than 32 MiB"),
}


@pytest.mark.parametrize("kind", TEXTS)
def test_a_manifest_that_is_not_the_json_it_should_be(bundle, capsys, kind):
    damage, message = TEXTS[kind]
    damage(bundle / "bundle.json")
    code, said = complain(capsys, "verify", bundle)
    assert (code, message in said) == (3, True), said
    code, said = complain(capsys, "info", bundle)
    assert (code, message in said) == (1, True), said


def _put_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def _put_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def _put_link(path: Path) -> None:
    path.rename(path.parent.parent / path.name)
    path.symlink_to(path.parent.parent / path.name)


def _put_device(path: Path) -> None:
    path.unlink()
    path.symlink_to("/dev/zero")


@pytest.mark.parametrize("name", ["bundle.json", "generator.safetensors", "model.fp32.onnx", "model.fp16.onnx"])
@pytest.mark.parametrize("put", [_put_pipe, _put_folder, _put_link, _put_device])
def test_what_is_no_plain_file_of_the_bundle_is_not_opened(bundle, capsys, name, put):
    put(bundle / name)
    code, said = complain(capsys, "verify", bundle)
    assert (code, name in said) == (3, True)
    assert any(one in said for one in ("is not a plain file", "is a link that leads out of", "is damaged")), said
    assert complain(capsys, "info", bundle)[0] == 1


@pytest.mark.parametrize("name", ["generator.safetensors", "model.fp16.onnx", "engines/0123456789abcdef.json"])
def test_a_sparse_terabyte_is_not_hashed(bundle, capsys, name):
    (bundle / "engines").mkdir(exist_ok=True)
    (bundle / name).touch()
    os.truncate(bundle / name, 2**40)
    code, said = complain(capsys, "verify", bundle, "--backend", "onnxruntime:fp32")
    assert (code, name in said) == (3, True), said
    assert "no file of a bundle has more than 8 GiB" in said or "it has more than 32 MiB" in said, said


def _change_weights(bundle: Path, edit: Callable[[dict, dict], object]) -> None:
    path = bundle / "generator.safetensors"
    with safe_open(path, "pt") as file:
        metadata = dict(file.metadata())
    tensors = load_file(path)
    edit(tensors, metadata)
    save_file(tensors, path, metadata)


def _change_graph(bundle: Path, edit: Callable[[onnx.ModelProto], object], name: str = "model.fp32.onnx") -> None:
    model = onnx.load(bundle / name)
    edit(model)
    (bundle / name).write_bytes(model.SerializeToString())  # onnx itself would not write what some edits make


def _keep_outside(location: str) -> Callable[[onnx.ModelProto], None]:
    def edit(model: onnx.ModelProto) -> None:
        tensor = model.graph.initializer[0]
        size = len(tensor.raw_data)
        onnx.external_data_helper.set_external_data(tensor, location, 0, size)
        tensor.ClearField("raw_data")

    return edit


def _keep_attribute_outside(model: onnx.ModelProto) -> None:
    tensor = onnx.helper.make_tensor("t", onnx.TensorProto.FLOAT, [1], [0.0])
    node = onnx.helper.make_node("Constant", [], ["unused"], value=tensor)
    model.graph.node.append(node)
    stored = model.graph.node[-1].attribute[0].t
    stored.ClearField("float_data")
    stored.raw_data = bytes(4)
    onnx.external_data_helper.set_external_data(stored, "../x", 0, 4)
    stored.ClearField("raw_data")


def _keep_sparse_outside(model: onnx.ModelProto) -> None:
    values = onnx.helper.make_tensor("sparse", onnx.TensorProto.FLOAT, [1], bytes(4), raw=True)
    indices = onnx.helper.make_tensor("indices", onnx.TensorProto.INT64, [1], [0])
    onnx.external_data_helper.set_external_data(values, "../x", 0, 4)
    values.ClearField("raw_data")
    model.graph.sparse_initializer.append(onnx.helper.make_sparse_tensor(values, indices, [4]))


CONTENTS = {
    "scale of another network": (
        lambda bundle: change(bundle, "bundle.json", lambda m: m["arch"].update(scale=2)),
        "generator.safetensors holds compact x4, 2 blocks, 8 features, RGB, but",
    ),
    "gray": (
        lambda bundle: change(bundle, "bundle.json", lambda m: m["arch"].update(channels=1)),
        "generator.safetensors holds compact x4, 2 blocks, 8 features, RGB, but",
    ),
    "input_multiple of another network": (
        lambda bundle: change(bundle, "bundle.json", lambda m: m.update(input_multiple=2)),
        "says that sides are multiples of 2, and compact x4, 2 blocks, 8 features, RGB takes multiples of 1",
    ),
    "profile beyond all memory": (
        lambda bundle: change(bundle, "bundle.json", lambda m: m["profiles"][0].update(max=[65536, 65536, 65536])),
        "more than any GPU holds",
    ),
    "weights of nothing": (
        lambda bundle: (bundle / "generator.safetensors").write_bytes(b"weights" * 50),
        "generator.safetensors: no checkpoint",
    ),
    "weights of NaN": (
        lambda bundle: _change_weights(bundle, lambda tensors, _: tensors["body.0.bias"].fill_(float("nan"))),
        "generator.safetensors: tensor 'body.0.bias' holds NaN",
    ),
    "weights pickled": (
        lambda bundle: torch.save({"x": torch.zeros(2)}, bundle / "generator.safetensors"),
        "generator.safetensors: ",
    ),
    "weights of a deep description": (
        lambda bundle: _change_weights(bundle, lambda _, metadata: metadata.update(arch="[" * 60_000)),
        "generator.safetensors: its metadata describe no network",
    ),
    "graph of nothing": (
        lambda bundle: (bundle / "model.fp32.onnx").write_bytes(b""),
        "model.fp32.onnx is not an ONNX",
    ),
    "graph of noise": (
        lambda bundle: (bundle / "model.fp16.onnx").write_bytes(b"location" * 99),
        "model.fp16.onnx is not an ONNX",
    ),
    "graph with two inputs": (
        lambda bundle: _change_graph(
            bundle, lambda model: model.graph.input.append(onnx.helper.make_tensor_value_info("second", 1, [1]))
        ),
        "model.fp32.onnx has 2 inputs",
    ),
    "graph without an output": (
        lambda bundle: _change_graph(bundle, lambda model: model.graph.ClearField("output")),
        "model.fp32.onnx is not an ONNX file, or a damaged one (it has no input, or no output)",
    ),
    "graph without an input": (
        lambda bundle: _change_graph(bundle, lambda model: model.graph.initializer[0].__setattr__("name", "lr")),
        "model.fp32.onnx is not an ONNX file, or a damaged one (",
    ),
    "graph of an old opset": (
        lambda bundle: _change_graph(bundle, lambda model: setattr(model.opset_import[0], "version", 9)),
        "which its operator does not know",
    ),
    "weights of the graph beside it": (
        lambda bundle: ((bundle / "w").write_bytes(bytes(10**5)), _change_graph(bundle, _keep_outside("w"))),
        "model.fp32.onnx keeps weights in another file, which no hash covers",
    ),
    "weights of the graph elsewhere": (
        lambda bundle: _change_graph(bundle, _keep_outside("/etc/passwd")),
        "model.fp32.onnx keeps weights in another file: ",
    ),
    "weights of the graph above": (
        lambda bundle: _change_graph(bundle, _keep_outside("../x")),
        "'../x' leads out of its folder",
    ),
    "sparse weights of the graph above": (
        lambda bundle: _change_graph(bundle, _keep_sparse_outside),
        "model.fp32.onnx is not an ONNX file, or a damaged one (it has sparse tensors",
    ),
    "attribute of the graph above": (
        lambda bundle: _change_graph(bundle, _keep_attribute_outside, "model.fp16.onnx"),
        "model.fp16.onnx keeps weights in another file: ",
    ),
}


@pytest.mark.parametrize("kind", CONTENTS)
def test_files_that_contradict_the_manifest_or_are_damaged(bundle, capsys, kind):
    damage, message = CONTENTS[kind]
    damage(bundle)
    rehash(bundle)
    for _ in range(2):  # a second run says the same
        code, said = complain(capsys, "verify", bundle)
        assert (code, message in said) == (3, True), said
    assert not (bundle / "certificate.json").exists()


def test_the_users_own_mistakes_are_not_the_bundles(bundle, tmp_path, capsys):
    assert complain(capsys, "verify", tmp_path / "none")[0] == 1
    assert complain(capsys, "verify", bundle, "--backend", "onnxruntime:int8")[0] == 1
    (tmp_path / "bad.pth").write_bytes(b"weights" * 50)
    code, said = complain(capsys, "verify", bundle, "--backend", "onnxruntime:fp16", "--source", tmp_path / "bad.pth")
    assert (code, "bad.pth: no checkpoint" in said) == (1, True)
    (tmp_path / "bad.onnx").write_bytes(b"graph")
    assert complain(capsys, "verify", tmp_path / "bad.onnx")[0] == 1
