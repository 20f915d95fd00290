import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from onnx import TensorProto, helper

from sr_deploy.arch.registry import build_network
from sr_deploy.arch.spec import ArchSpec
from sr_deploy.bundle import EngineRecord, FileRecord
from sr_deploy.bundle.records import GraphRecord
from sr_deploy.errors import BackendError, BundleError, CheckpointError, DamagedBundleError, GraphError, InputError
from sr_deploy.files import sha256_of
from sr_deploy.model import open_model

COMPACT = ArchSpec(architecture="compact", scale=4, features=8, blocks=2)
UNSHUFFLED = ArchSpec(architecture="rrdbnet", scale=2, features=6, blocks=1, growth=4)


def add_engine(bundle, graph_sha256=None, content=b"engine"):
    (bundle.path / "engines").mkdir(exist_ok=True)
    engine = bundle.path / "engines" / "0123456789abcdef.engine"
    engine.write_bytes(content)
    record = EngineRecord(
        key="0123456789abcdef",
        graph_sha256=graph_sha256 or bundle.manifest.graphs[0].sha256,
        precision="fp32",
        backend="tensorrt-rtx",
        backend_version="1.7",
        target="sm86",
        profiles=bundle.manifest.profiles,
        flags={},
        engine=FileRecord(file="engines/0123456789abcdef.engine", sha256=sha256_of(engine)),
        layer_precisions={"FLOAT": 3},
        inspected="not inspected: no GPU",
        build_seconds=1.0,
        built_at="2026-01-01T00:00:00",
    )
    engine.with_suffix(".json").write_text(record.model_dump_json())
    return engine


def test_checkpoint(tmp_path, write_network):
    path = write_network(tmp_path / "x.safetensors", UNSHUFFLED)
    torch.manual_seed(0)
    network = build_network(UNSHUFFLED)
    model = open_model(path)
    assert (model.kind, model.scale, model.channels, model.input_multiple) == ("checkpoint", 2, 3, 2)
    assert (model.arch, model.layout, model.weights_path) == (UNSHUFFLED, "sr-deploy", path)
    assert model.has_weights
    assert model.precisions == ()
    lr = torch.rand(1, 3, 6, 4)
    loaded = model.load_network()
    assert torch.equal(loaded(lr), network.eval()(lr))
    assert not loaded.training
    assert not any(parameter.requires_grad for parameter in loaded.parameters())
    with pytest.raises(BackendError, match=rf"{path} .* has no ONNX graph; .*sr-deploy export {path}"):
        model.graph_path("fp32")


def test_path_may_be_text(tmp_path, write_network):
    write_network(tmp_path / "x.safetensors", COMPACT)
    assert open_model(str(tmp_path / "x.safetensors")).arch == COMPACT


def test_run_folder_stands_for_the_averaged_weights_of_its_last_step(tmp_path, write_network):
    run = tmp_path / "runs" / "demo"
    for step, seed in ((900, 1), (1000, 2), (20000, 3)):
        for offset, name in ((0, "generator"), (10, "generator_ema")):
            path = run / "checkpoints" / f"step-{step:06}" / f"{name}.safetensors"
            write_network(path, COMPACT, seed=seed + offset)
    (run / "checkpoints" / "step-030000").mkdir()
    (run / "run.json").write_text("{}")
    model = open_model(run)
    assert model.path == run
    assert model.weights_path == run / "checkpoints" / "step-020000" / "generator_ema.safetensors"
    torch.manual_seed(13)
    assert torch.equal(model.load_network().body[0].weight, build_network(COMPACT).body[0].weight)
    step = run / "checkpoints" / "step-000900"
    assert open_model(step).weights_path == step / "generator_ema.safetensors"
    (step / "generator_ema.safetensors").unlink()
    assert open_model(step).weights_path == step / "generator.safetensors"


def test_onnx_file_of_ours(exported):
    made = exported("rrdbnet-x2")
    model = open_model(made.path)
    assert (model.kind, model.scale, model.channels, model.input_multiple) == ("graph", 2, 3, 2)
    assert model.arch == made.spec
    assert model.graph_info.opset >= 18
    assert model.precisions == ("fp32",)
    assert model.graph_path("fp32") == made.path
    assert not model.has_weights
    with pytest.raises(BackendError, match="is a graph in fp32, not in fp16"):
        model.graph_path("fp16")
    with pytest.raises(CheckpointError, match="is an ONNX graph and has no PyTorch weights"):
        model.load_network()


def write_graph(path, metadata):
    graph = helper.make_graph(
        [helper.make_node("Resize", ["x", "", "s"], ["y"])],
        "graph",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ("n", 1, "h", "w"))],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [helper.make_tensor("s", TensorProto.FLOAT, [4], np.array([1, 1, 2, 2], np.float32))],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    helper.set_model_props(model, metadata)
    path.write_bytes(model.SerializeToString())
    return path


def test_onnx_file_of_somebody(tmp_path):
    model = open_model(write_graph(tmp_path / "x.onnx", {}))
    assert (model.kind, model.scale, model.channels, model.arch, model.layout) == ("graph", 2, 1, None, None)


def test_metadata_that_contradict_the_nodes(tmp_path):
    path = write_graph(tmp_path / "x.onnx", {"sr_deploy.arch": COMPACT.model_dump_json()})
    with pytest.raises(GraphError, match=r"describe compact x4, .* make x2 with 1 channels"):
        open_model(path)
    with pytest.raises(GraphError, match="metadata describe no network known here"):
        open_model(write_graph(tmp_path / "x.onnx", {"sr_deploy.arch": "{}"}))


def test_bundle(tmp_path, make_bundle, exported):
    bundle = make_bundle("compact-x4", tmp_path, fp16=True)
    for path in (bundle.path, bundle.path / "bundle.json"):
        model = open_model(path)
        assert (model.kind, model.scale, model.channels, model.arch) == ("bundle", 4, 3, exported("compact-x4").spec)
        assert model.layout == "compact"
        assert set(model.precisions) == {"fp32", "fp16"}
        assert model.graph_path("fp16") == bundle.path / "model.fp16.onnx"
        assert model.weights_path == bundle.path / "generator.safetensors"
    lr = torch.rand(1, 3, 5, 5)
    assert torch.equal(model.load_network()(lr), exported("compact-x4").network(lr))
    with pytest.raises(BundleError, match=r"no int8 graph, only fp32, fp16; .*sr-deploy export --int8"):
        model.graph_path("int8")


def test_bundle_whose_weights_are_of_another_network(tmp_path, make_bundle, write_network):
    bundle = make_bundle("compact-x4", tmp_path)
    write_network(bundle.path / "generator.safetensors", COMPACT.model_copy(update={"blocks": 1}))
    with pytest.raises(BundleError, match="was changed after it was recorded"):
        open_model(bundle.path)
    document = json.loads((bundle.path / "bundle.json").read_text())
    document["reference"]["sha256"] = sha256_of(bundle.path / "generator.safetensors")
    (bundle.path / "bundle.json").write_text(json.dumps(document))
    with pytest.raises(CheckpointError, match=r"holds compact x4, 1 blocks, .* is of compact x4, 2 blocks"):
        open_model(bundle.path).load_network()


def test_engine_in_its_bundle(tmp_path, make_bundle):
    bundle = make_bundle("rrdbnet-x2", tmp_path)
    model = open_model(add_engine(bundle))
    assert (model.kind, model.scale, model.input_multiple) == ("engine", 2, 2)
    assert model.engine.target == "sm86"
    assert model.bundle.path == bundle.path
    assert (model.precisions, model.has_weights) == ((), False)
    with pytest.raises(CheckpointError, match="is an engine and has no PyTorch weights"):
        model.load_network()
    with pytest.raises(BackendError, match="is an engine and has no ONNX graph"):
        model.graph_path("fp32")


def test_engine_that_cannot_be_trusted(tmp_path, make_bundle):
    bundle = make_bundle("compact-x4", tmp_path)
    other = GraphRecord(file="x.onnx", sha256="1" * 64, precision="fp32")
    with pytest.raises(BundleError, match=r"from a graph that is not in its bundle; .* sr-deploy build"):
        open_model(add_engine(bundle, graph_sha256=other.sha256))
    engine = add_engine(bundle)
    engine.write_bytes(b"another")
    with pytest.raises(BundleError, match="was changed after it was recorded"):
        open_model(engine)
    engine.with_suffix(".json").write_text("{")
    with pytest.raises(BundleError, match=r"0123456789abcdef\.json is damaged"):
        open_model(engine)
    engine.with_suffix(".json").unlink()
    with pytest.raises(BundleError, match=r"stands alone: .* 0123456789abcdef\.json beside it"):
        open_model(engine)


def test_an_engine_behind_a_link_or_in_another_place_is_not_opened(tmp_path, make_bundle):
    bundle = make_bundle("compact-x4", tmp_path)
    engine = add_engine(bundle)
    shutil.copytree(bundle.path / "engines", bundle.path / "other")
    with pytest.raises(DamagedBundleError, match=r"other/\w+\.engine is not a place of an engine; give .*engines/"):
        open_model(bundle.path / "other" / engine.name)
    engine.rename(tmp_path / "outside.engine")
    engine.symlink_to(tmp_path / "outside.engine")
    with pytest.raises(DamagedBundleError, match=r"\.engine is a link that leads out of"):
        open_model(engine)


def test_engine_and_record_outside_a_bundle(tmp_path):
    (tmp_path / "x.engine").write_bytes(b"engine")
    (tmp_path / "x.json").write_text("{}")
    with pytest.raises(BundleError, match="stands alone"):
        open_model(tmp_path / "x.engine")


def test_nothing_there_and_folders_of_something_else(tmp_path):
    with pytest.raises(InputError, match=r"none\.pth does not exist; give a checkpoint"):
        open_model(tmp_path / "none.pth")
    with pytest.raises(InputError, match=r"is a folder with no bundle\.json"):
        open_model(tmp_path)
    (tmp_path / "checkpoints" / "step-000010").mkdir(parents=True)
    with pytest.raises(InputError, match="no finished checkpoint"):
        open_model(tmp_path)


def test_graphs_and_bundles_are_opened_without_torch(tmp_path, make_bundle):
    bundle = make_bundle("compact-x4", tmp_path)
    code = (
        "import sys\n"
        "from sr_deploy.model import open_model\n"
        f"print(open_model({str(bundle.path)!r}).scale, open_model({str(bundle.path / 'model.fp32.onnx')!r}).scale)\n"
        "assert 'torch' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.stdout.strip(), done.returncode) == ("4 4", 0), done.stderr
