"""Engines that are not what their records say. The forger knows the hashes: what he changes is recorded as if it had
always been so. The builder is TensorRT-RTX's own, on the CPU."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from sr_deploy.arch.registry import build_network
from sr_deploy.arch.spec import ArchSpec
from sr_deploy.arch.weights import save_generator
from sr_deploy.backends import builders
from sr_deploy.bundle import Bundle, Check, EngineRecord, engine_key, open_bundle, parse_profile
from sr_deploy.bundle.trust import adopt_engine
from sr_deploy.cli import main
from sr_deploy.deploy import export_bundle
from sr_deploy.engine.build import build_engine, describe_builder
from sr_deploy.engine.bundle import build_engines
from sr_deploy.engine.request import EngineRequest
from sr_deploy.export.spec import load_spec
from sr_deploy.files import sha256_of
from sr_deploy.model import open_model
from sr_deploy.shipped import DEFAULT_MODEL
from sr_deploy.verification import engine_rebuild
from sr_deploy.verification.engines import check_engines

pytestmark = pytest.mark.skipif(builders.sdk_version("tensorrt-rtx") is None, reason="tensorrt_rtx is not installed")
NETWORKS = ("compact-x4", pytest.param("rrdbnet-x4", marks=pytest.mark.slow))
Change = Callable[[onnx.ModelProto], None]


@pytest.fixture(scope="module")
def built(make_bundle, tmp_path_factory):
    """Bundles with an FP32 and an FP16 engine for one GPU, by the network's name."""
    made: dict[str, Bundle] = {}

    def get(name: str) -> Bundle:
        if name not in made:
            made[name] = make_bundle(name, tmp_path_factory.mktemp("engines"), fp16=True)
            build_engines(made[name], "tensorrt-rtx", compute_capabilities=["sm89"])
        return made[name]

    return get


@pytest.fixture
def copy(built, tmp_path):
    """A copy of such a bundle, to be spoilt."""

    def get(name: str) -> Bundle:
        shutil.copytree(built(name).path, tmp_path / "bundle", ignore=shutil.ignore_patterns("certificate.*"))
        return open_bundle(tmp_path / "bundle")

    return get


@pytest.fixture
def elsewhere(built, monkeypatch, tmp_path):
    """Another user: nothing stands in the registry, so everything is built again and compared."""
    for name in ("compact-x4", "rrdbnet-x4"):
        built(name)
    monkeypatch.setenv("SR_DEPLOY_CACHE", str(tmp_path / "another"))


@pytest.fixture
def asked_once(monkeypatch):
    """A wrong engine is found without more builds: they only guard sound ones."""
    monkeypatch.setattr(engine_rebuild, "_MORE_BUILDS", 0)


def record_of(bundle: Bundle, precision: str) -> EngineRecord:
    return next(record for record in bundle.engines() if record.precision == precision)


def forge(bundle: Bundle, record: EngineRecord, content: bytes | None = None, **changes: object) -> EngineRecord:
    """Put other bytes into an engine's place and write its record anew, key, name and hash in agreement."""
    old = bundle.path / record.engine.file
    content = old.read_bytes() if content is None else content
    document = record.model_dump(mode="json") | changes
    parts = ("graph_sha256", "backend", "backend_version", "target", "flags")
    profiles = tuple(map(type(record.profiles[0]).model_validate, document["profiles"]))
    document["key"] = engine_key(profiles=profiles, **{name: document[name] for name in parts})
    path = bundle.path / "engines" / f"{document['key']}.engine"
    for stale in (old, old.with_suffix(".json")):
        stale.unlink()
    path.write_bytes(content)
    document["engine"] = {"file": f"engines/{path.name}", "sha256": sha256_of(path)}
    path.with_suffix(".json").write_text(json.dumps(document))
    return EngineRecord.model_validate(document)


def build_other(bundle: Bundle, record: EngineRecord, folder: Path, change: Change | None, **asked: object) -> bytes:
    """What the builder makes of the engine's graph with a change, or with other settings."""
    path = folder / "other.onnx"
    graph = bundle.manifest.graph(record.precision)
    model = onnx.load(bundle.path / graph.file)
    if change is not None:
        change(model)
    onnx.save(model, path)
    fields = {
        "graph": path,
        "graph_sha256": sha256_of(path),
        "precision": record.precision,
        "backend": record.backend,
        "profiles": record.profiles,
        "compute_capabilities": tuple(record.target.split("+")),
        "planned_fp32": graph.planned_fp32,
    }
    return build_engine(EngineRequest.model_validate(fields | asked)).engine


def checks_of(bundle: Bundle, **how: bool) -> dict[str, Check]:
    """The check of each engine, by precision."""
    checks = {check.file: check for check in check_engines(open_model(bundle.path), **how)}
    return {record.precision: checks[record.engine.file] for record in bundle.engines()}


def findings_of(bundle: Bundle, precision: str) -> str:
    check = checks_of(bundle)[precision]
    assert check.not_checked == ""
    return "; ".join(check.findings)


# --- sound ones ---


def test_an_engine_that_was_built_here_needs_no_second_build(copy, monkeypatch):
    monkeypatch.setattr(engine_rebuild, "build_engine", lambda request: pytest.fail("built again"))
    for precision, check in checks_of(copy("compact-x4")).items():
        assert (check.findings, check.not_checked) == ((), "")
        assert (
            f"built here with tensorrt-rtx {builders.sdk_version('tensorrt-rtx')} of model.{precision}.onnx"
            in check.what
        )


@pytest.mark.parametrize("name", NETWORKS)
def test_a_sound_engine_of_somebody_else_passes(copy, elsewhere, name):
    for precision, check in checks_of(copy(name)).items():
        assert (check.findings, check.not_checked) == ((), "")
        assert (
            f"built again with tensorrt-rtx {builders.sdk_version('tensorrt-rtx')} of model.{precision}.onnx"
            in check.what
        )


def test_asked_to_look_deeper_it_builds_its_own_again(copy):
    for check in checks_of(copy("compact-x4"), again=True).values():
        assert (check.findings, check.not_checked, check.depth) == ((), "", 1)
        assert "built again with" in check.what


# --- other graphs ---


def edit(model: onnx.ModelProto, name: str, change: Callable[[np.ndarray], np.ndarray]) -> None:
    tensor = next(one for one in model.graph.initializer if one.name == name)
    values = np.ascontiguousarray(change(onnx.numpy_helper.to_array(tensor).copy()))
    tensor.CopyFrom(onnx.numpy_helper.from_array(values, name))


def nodes(model: onnx.ModelProto, kind: str) -> list[onnx.NodeProto]:
    return [node for node in model.graph.node if node.op_type == kind]


def times(factor: float, index: tuple[int, ...] | int = 0) -> Callable[[np.ndarray], np.ndarray]:
    """Change one number."""

    def change(values: np.ndarray) -> np.ndarray:
        values[index] = (values[index] * np.asarray(factor)).astype(values.dtype)
        return values

    return change


def spoil(kind: str, which: int, position: int, change: Callable[[np.ndarray], np.ndarray]) -> Change:
    return lambda model: edit(model, nodes(model, kind)[which].input[position], change)


def halve_output(model: onnx.ModelProto) -> None:
    """The last convolution's weights and bias times 0.5: what comes out is half of it."""
    for name in nodes(model, "Conv")[-1].input[1:]:
        edit(model, name, lambda values: (values * np.asarray(0.5)).astype(values.dtype))


def shuffle_otherwise(model: onnx.ModelProto) -> None:
    node = nodes(model, "DepthToSpace")[0]
    (mode,) = [one for one in node.attribute if one.name == "mode"]
    mode.s = b"DCR" if mode.s == b"CRD" else b"CRD"


def resize_linear(model: onnx.ModelProto) -> None:
    next(one for one in nodes(model, "Resize")[0].attribute if one.name == "mode").s = b"linear"


def read_twice(model: onnx.ModelProto) -> None:
    node = nodes(model, "Add")[0]
    node.input[0] = node.input[1]


def leak_otherwise(model: onnx.ModelProto) -> None:
    nodes(model, "LeakyRelu")[0].attribute[0].f *= 1.01


GRAPH_FAULTS = {
    ("compact-x4", "first convolution"): (
        spoil("Conv", 0, 1, times(1.01, (1, 2, 0, 1))),
        "weights of Conv 'conv_0'",
    ),
    ("compact-x4", "bias"): (spoil("Conv", 1, 2, times(1.01, 3)), "the bias of Conv 'conv_1'"),
    ("compact-x4", "sign of a slope"): (spoil("PRelu", 1, 1, times(-1, (0, 3, 0, 0))), "the slopes of PRelu"),
    ("compact-x4", "DepthToSpace"): (shuffle_otherwise, "is not what tensorrt-rtx"),
    ("compact-x4", "output x 0.5"): (halve_output, "the weights of Conv"),
    ("rrdbnet-x4", "first convolution"): (
        spoil("Conv", 0, 1, times(1.01, (1, 2, 0, 1))),
        "weights of Conv 'conv_0'",
    ),
    ("rrdbnet-x4", "bias"): (spoil("Conv", 4, 2, times(1.01, 2)), "the bias of Conv 'conv_4'"),
    ("rrdbnet-x4", "slope"): (leak_otherwise, "its listing says .*alpha="),
    ("rrdbnet-x4", "wiring"): (read_twice, "is not what tensorrt-rtx"),
    ("rrdbnet-x4", "resize"): (resize_linear, "is not what tensorrt-rtx"),
    ("rrdbnet-x4", "output x 0.5"): (halve_output, "the weights of Conv"),
}


@pytest.mark.parametrize(("name", "fault"), GRAPH_FAULTS, ids=lambda text: text.replace(" ", "-"))
def test_engines_of_another_graph_are_found(copy, asked_once, tmp_path, name, fault):
    change, said = GRAPH_FAULTS[name, fault]
    bundle = copy(name)
    for record in bundle.engines():
        forge(bundle, record, build_other(bundle, record, tmp_path, change))
    for precision, check in checks_of(bundle).items():
        (found,) = check.findings
        version = builders.sdk_version("tensorrt-rtx")
        assert found.startswith(f"is not what tensorrt-rtx {version} builds of model.{precision}.onnx: ")
        assert re.search(said, found), found
        assert check.not_checked == ""


@pytest.mark.parametrize("fault", ["activations", "weights"])
def test_another_scale_of_int8_is_found(asked_once, tmp_path, fault):
    shutil.copytree(DEFAULT_MODEL, tmp_path / "bundle")
    bundle = open_bundle(tmp_path / "bundle")
    graph = bundle.manifest.graph("int8")
    request = EngineRequest(
        graph=bundle.path / graph.file,
        graph_sha256=graph.sha256,
        precision="int8",
        backend="tensorrt-rtx",
        profiles=(parse_profile("tile=1x16x16,1x32x32,1x64x64"),),
        compute_capabilities=("sm89",),
        planned_fp32=graph.planned_fp32,
    )
    sound = build_engine(request)
    bundle.add_engine(sound.record, sound.engine)
    assert checks_of(bundle)["int8"].findings == ()

    def change(model):
        convolution = nodes(model, "Conv")[2]
        makers = {name: node for node in model.graph.node for name in node.output}
        dequantizer = makers[convolution.input[0 if fault == "activations" else 1]]
        name = dequantizer.input[1]
        while name in makers:
            name = makers[name].input[0]
        edit(model, name, lambda values: (values * np.asarray(1.5)).astype(values.dtype))

    forge(bundle, sound.record, build_other(bundle, sound.record, tmp_path, change))
    assert "is not what tensorrt-rtx" in findings_of(bundle, "int8")


# --- other settings ---


@pytest.mark.parametrize("name", NETWORKS)
def test_an_engine_for_another_gpu_or_shape_is_found(copy, asked_once, tmp_path, name):
    bundle = copy(name)
    wide, half = record_of(bundle, "fp32"), record_of(bundle, "fp16")
    forge(bundle, wide, build_other(bundle, wide, tmp_path, None, compute_capabilities=("sm86",)))
    profile = parse_profile("tile=1x8x8,1x16x16,1x32x33")
    forge(bundle, half, build_other(bundle, half, tmp_path, None, profiles=(profile,)))
    for check in checks_of(bundle).values():
        assert "is not what tensorrt-rtx" in check.findings[0]


@pytest.mark.parametrize("name", NETWORKS)
def test_a_record_for_other_gpus_or_shapes_is_found(copy, asked_once, name):
    """The engine stays; the record says that it is for something else, key and name in agreement."""
    bundle = copy(name)
    forge(bundle, record_of(bundle, "fp32"), target="sm89+sm120")
    forge(bundle, record_of(bundle, "fp16"), profiles=[parse_profile("tile=1x8x8,1x16x16,1x64x64").model_dump()])
    for check in checks_of(bundle).values():
        assert "is not what tensorrt-rtx" in check.findings[0]


@pytest.mark.parametrize("name", NETWORKS)
def test_swapped_engines_are_named_as_swapped(copy, name):
    bundle = copy(name)
    wide, half = record_of(bundle, "fp32"), record_of(bundle, "fp16")
    contents = [(bundle.path / record.engine.file).read_bytes() for record in (wide, half)]
    forge(bundle, wide, contents[1])
    forge(bundle, half, contents[0])
    checks, end = checks_of(bundle), "is to be: the two are swapped, or one took the other's place"
    assert checks["fp32"].findings == (f"is the fp16 engine that {half.engine.file} {end}",)
    assert checks["fp16"].findings == (f"is the fp32 engine that {wide.engine.file} {end}",)


def test_a_record_that_declares_other_layers_is_found(copy):
    bundle = copy("compact-x4")
    record = record_of(bundle, "fp16")
    forge(bundle, record, declared={name: "fp16" for name in [*record.declared, "conv_99"]})
    assert findings_of(bundle, "fp16") == "its record states declared of 'conv_99' as 'fp16' where None is due"


def test_an_fp32_engine_labeled_fp16_is_found(copy):
    """The record is made to agree with itself: key, name and hash."""
    bundle = copy("compact-x4")
    wide, half = record_of(bundle, "fp32"), record_of(bundle, "fp16")
    forge(bundle, half, (bundle.path / wide.engine.file).read_bytes(), declared=wide.declared)
    said = findings_of(bundle, "fp16")
    assert "conv_0 computes in fp32, and the graph is to be fp16" in said
    assert f"is the fp32 engine that {wide.engine.file} is to be" in said


def test_a_record_with_settings_that_no_builder_has_is_found(copy):
    bundle = copy("compact-x4")
    record = record_of(bundle, "fp32")
    record = forge(bundle, record, flags=record.flags | {"optimization_level": "9"})
    assert "no builder has the setting optimization_level='9'" in findings_of(bundle, "fp32")
    forge(bundle, record, flags=record.flags | {"optimization_level": "default"}, target="sm999")
    assert "does not build for compute capability 'sm999'" in findings_of(bundle, "fp32")


def test_a_record_of_another_graph_is_found(copy):
    bundle = copy("compact-x4")
    forge(bundle, record_of(bundle, "fp32"), graph_sha256="0" * 64)
    assert "was built from a graph that is not here" in findings_of(bundle, "fp32")


# --- no engines ---


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("version", [None, "1.8.0.1"], ids=["here", "newer"])
def test_random_bytes_are_found_whatever_version_they_claim(copy, name, version):
    bundle = copy(name)
    record = record_of(bundle, "fp32")
    content = np.random.default_rng(0).bytes((bundle.path / record.engine.file).stat().st_size)
    forge(bundle, record, content, backend_version=version or record.backend_version)
    check = checks_of(bundle)["fp32"]
    assert check.findings[0] == "does not begin as engines of tensorrt-rtx do: it is damaged or something else"
    assert bool(check.not_checked) == (version is not None)


@pytest.mark.parametrize("name", NETWORKS)
def test_bytes_that_were_changed_anywhere_are_found(copy, asked_once, name):
    bundle = copy(name)
    record = record_of(bundle, "fp16")
    content = (bundle.path / record.engine.file).read_bytes()
    spoilt = bytearray(content)
    for place in (len(content) // 3, len(content) - 300):
        spoilt[place] ^= 0x10
    forge(bundle, record, bytes(spoilt))
    assert "is not what tensorrt-rtx" in findings_of(bundle, "fp16")


def test_a_truncated_engine_is_found_by_hash_and_by_its_header(copy, asked_once, capsys):
    bundle = copy("compact-x4")
    record = record_of(bundle, "fp32")
    path = bundle.path / record.engine.file
    content = path.read_bytes()
    path.write_bytes(content[:-100])
    assert main(["verify", str(bundle.path)]) == 3
    assert f"{path} was changed after it was recorded" in capsys.readouterr().err
    forge(bundle, record, content[:-100])
    assert "it is truncated or damaged" in findings_of(bundle, "fp32")


# --- what cannot be said here ---


def test_an_engine_of_another_version_is_not_checked_and_never_ok(copy, capsys):
    bundle = copy("compact-x4")
    record = record_of(bundle, "fp32")
    content = bytearray((bundle.path / record.engine.file).read_bytes())
    content[24:28] = bytes([1, 8, 0, 1])
    forge(bundle, record, bytes(content), backend_version="1.8.0.1")
    check = checks_of(bundle)["fp32"]
    assert check.findings == ()
    assert f"it was built by tensorrt-rtx 1.8.0.1, and {record.backend_version} is installed" in check.not_checked
    assert main(["verify", str(bundle.path), "--backend", "onnxruntime:fp32"]) != 3
    out = capsys.readouterr().out
    assert f"not checked: {check.file} (engine)" in out.replace("\n", "")
    assert not out.rstrip().endswith("\nverified")


def test_an_engine_of_a_builder_that_is_absent_is_not_checked(copy, elsewhere, monkeypatch):
    bundle = copy("compact-x4")
    monkeypatch.setattr(builders, "why_not_buildable", lambda backend: f"{backend} is not installed")
    for check in checks_of(bundle).values():
        assert check.findings == ()
        assert "to build it again and compare: tensorrt-rtx is not installed" in check.not_checked


def test_an_engine_of_the_data_center_sdk_is_not_checked_unless_it_was_built_here(copy):
    bundle = copy("compact-x4")
    record = record_of(bundle, "fp32")
    content = b"ftrt" + bytes(20) + bytes([10, 14, 1, 48]) + bytes(1000)
    forged = forge(bundle, record, content, backend="tensorrt", backend_version="10.14.1.48", target="NVIDIA L4")
    check = checks_of(bundle)["fp32"]
    assert check.findings == ()
    assert "no two builds are alike, and this engine was not built here" in check.not_checked
    adopt_engine(forged)  # who trusts somebody does not know what he built from
    assert "this engine was not built here" in checks_of(bundle)["fp32"].not_checked


def test_a_difference_from_another_machine_s_build_is_not_held_against_it(copy, asked_once, tmp_path):
    """What a builder does on other systems or beside a GPU is not known: it is neither a failure nor ok."""
    bundle = copy("compact-x4")
    record = record_of(bundle, "fp32")
    other = build_other(bundle, record, tmp_path, halve_output)
    forge(bundle, record, other, built_on="Windows AMD64 with NVIDIA GeForce RTX 4090")
    check = checks_of(bundle)["fp32"]
    assert check.findings == ()
    assert "which may be because it was built on 'Windows AMD64 with NVIDIA GeForce RTX 4090'" in check.not_checked
    assert record.built_on == describe_builder()


# --- the command ---


@pytest.mark.parametrize("name", NETWORKS)
def test_verify_ends_with_3_and_the_second_run_says_the_same(copy, tmp_path, capsys, name):
    bundle = copy(name)
    record = record_of(bundle, "fp16")
    forged = forge(bundle, record, build_other(bundle, record, tmp_path, spoil("Conv", 0, 2, times(1.01, 1))))
    said = []
    for _ in range(2):
        assert main(["verify", str(bundle.path), "--backend", "onnxruntime:fp32", "--json"]) == 3
        document = json.loads(capsys.readouterr().out)
        said.append([check["findings"] for check in document["checks"] if check["file"] == forged.engine.file])
        assert f"{forged.engine.file} (engine)" in document["failures"]
    assert said[0] == said[1]
    assert "in the bias of Conv 'conv_0'" in said[0][0][0]


@pytest.mark.slow
def test_a_planned_layer_that_the_builder_rounds_to_fp16_all_the_same_is_named(tmp_path):
    """TensorRT-RTX 1.7 does so here, although the network that it parsed declares the layer as FP32."""
    spec = ArchSpec(architecture="compact", scale=2, features=24, blocks=4)
    torch.manual_seed(0)
    network = build_network(spec)
    with torch.no_grad():
        for weights in network.parameters():
            weights.mul_(0.5)
        network.body[2].weight.mul_(1e5)
        network.body[2].bias.mul_(1e5)
        network.body[4].weight.mul_(1e-5)  # to sizes that FP16 loses: the layer is planned
    save_generator(tmp_path / "net.safetensors", network.state_dict(), spec)
    export_bundle(
        tmp_path / "net.safetensors", load_spec().with_options(fp16=True), tmp_path / "bundle", "tensorrt-rtx"
    )
    model = open_model(tmp_path / "bundle")
    assert model.bundle.manifest.graphs[1].planned_fp32 == ("conv_2",)
    findings = [finding for check in check_engines(model) for finding in check.findings]
    assert findings == [
        "holds the FP32 weights of conv_2 of model.fp16.onnx rounded to FP16: its builder left the plan for that layer"
    ]
