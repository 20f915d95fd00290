"""Triton repositories, read back with Triton's own schema (from NVIDIA's client package) and run by ONNX Runtime."""

from __future__ import annotations

import hashlib
import importlib.util
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from google.protobuf import text_format

from sr_deploy.bundle import Bundle, EngineRecord, FileRecord, Shape, open_bundle, parse_profile
from sr_deploy.errors import OutputError
from sr_deploy.export.triton import format_text, write_triton_models
from sr_deploy.export.write import change_file_io_dtype
from sr_deploy.files import sha256_of
from sr_deploy.gpus import Gpu


@pytest.fixture(scope="module")
def schema():
    """`model_config.proto` as NVIDIA compiled it; the client around it, which wants gRPC, is left alone."""
    package = importlib.util.find_spec("tritonclient")
    if package is None or not package.submodule_search_locations:
        pytest.skip("tritonclient, which carries Triton's schema, is not installed")
    path = Path(next(iter(package.submodule_search_locations)), "grpc", "model_config_pb2.py")
    spec = importlib.util.spec_from_file_location("model_config_pb2", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def read(schema):
    def parse(path: Path):
        return text_format.Parse((path / "config.pbtxt").read_text(), schema.ModelConfig())

    return parse


def add_engine(bundle: Bundle, backend: str, content: bytes, built_at: str, **changes) -> None:
    """An engine's record and a file in its place: what Triton is given is copied, never opened."""
    key = hashlib.sha256(f"{backend}-{built_at}".encode()).hexdigest()[:16]
    fields = {
        "key": key,
        "graph_sha256": bundle.manifest.graph("fp16").sha256,
        "precision": "fp16",
        "backend": backend,
        "backend_version": "11.4.0.106",
        "target": "NVIDIA H200",
        "profiles": (parse_profile("tile=1x8x8,1x16x16,1x32x32"), parse_profile("batch=1x8x8,4x16x24,8x32x32")),
        "flags": {},
        "engine": FileRecord(file=f"engines/{key}.engine", sha256="0" * 64),
        "layer_precisions": {},
        "inspected": "",
        "build_seconds": 1.0,
        "built_at": built_at,
    }
    record = EngineRecord.model_validate({**fields, **changes})
    path = bundle.add_engine(record, content)
    engine = FileRecord(file=record.engine.file, sha256=sha256_of(path))
    bundle.add_engine(record.model_copy(update={"engine": engine}), content)


def test_graphs_become_onnx_models(make_bundle, tmp_path, read, schema):
    bundle = make_bundle("compact-x4", tmp_path, fp16=True)
    models = write_triton_models(bundle, tmp_path / "models")
    assert [model.name for model in models] == ["compact-x4-fp32-onnx", "compact-x4-fp16-onnx"]
    for model, precision in zip(models, ("fp32", "fp16"), strict=True):
        config = read(model.path)
        assert (config.name, config.backend) == (model.name, "onnxruntime")
        assert config.max_batch_size == 1  # the bundle's profile ends there
        assert not config.HasField("dynamic_batching")
        for end, name in ((config.input[0], "lr"), (config.output[0], "sr")):
            assert (end.name, end.data_type, list(end.dims)) == (name, schema.TYPE_FP32, [3, -1, -1])
        assert [(group.count, group.kind) for group in config.instance_group] == [
            (1, schema.ModelInstanceGroup.KIND_AUTO)
        ]
        (warmup,) = config.model_warmup
        assert (warmup.name, warmup.batch_size) == ("tile", 1)
        assert list(warmup.inputs["lr"].dims) == [3, 16, 16]
        assert warmup.inputs["lr"].zero_data
        assert (model.path / "1" / "model.onnx").read_bytes() == bundle.graph(precision).read_bytes()


def test_the_served_graph_takes_what_the_configuration_says(make_bundle, tmp_path, read):
    bundle = make_bundle("compact-x4", tmp_path, fp16=True)
    for model in write_triton_models(bundle, tmp_path / "models"):
        config = read(model.path)
        session = onnxruntime.InferenceSession(model.path / "1" / "model.onnx", providers=["CPUExecutionProvider"])
        (warmup,) = config.model_warmup
        lr = np.zeros((warmup.batch_size, *warmup.inputs["lr"].dims), np.float32)
        (sr,) = session.run([config.output[0].name], {config.input[0].name: lr})
        assert sr.shape == (1, 3, 64, 64)


def test_engines_of_the_data_center_sdk_become_plans(make_bundle, tmp_path, read, schema):
    bundle = make_bundle("compact-x4", tmp_path, fp16=True)
    add_engine(bundle, "tensorrt", b"old", "2026-01-01")
    add_engine(bundle, "tensorrt", b"new", "2026-02-01")
    add_engine(bundle, "tensorrt", b"of another graph", "2026-03-01", graph_sha256="1" * 64)
    add_engine(bundle, "tensorrt", b"without weights", "2026-04-01", flags={"strip_weights": "on"})
    add_engine(bundle, "tensorrt-rtx", b"rtx", "2026-05-01")
    models = write_triton_models(open_bundle(bundle.path), tmp_path / "models")
    assert [model.backend for model in models] == ["onnxruntime", "onnxruntime", "tensorrt"]
    plan = models[2]
    assert (plan.path / "1" / "model.plan").read_bytes() == b"new"
    config = read(plan.path)
    assert (config.name, config.backend, config.max_batch_size) == ("compact-x4-fp16-tensorrt", "tensorrt", 8)
    (group,) = config.instance_group
    assert (group.count, group.kind, list(group.profile)) == (1, schema.ModelInstanceGroup.KIND_GPU, ["0", "1"])
    assert list(config.dynamic_batching.preferred_batch_size) == [4]
    assert config.dynamic_batching.max_queue_delay_microseconds == 2000
    assert [(one.batch_size, list(one.inputs["lr"].dims)) for one in config.model_warmup] == [
        (1, [3, 16, 16]),
        (4, [3, 16, 24]),
    ]


PHOTO_TILES = ("tile=1x32x32,1x256x256,1x512x512", "batch=2x256x256,4x256x256,4x256x256")


def test_batches_are_joined_only_of_shapes_that_have_them(make_bundle, tmp_path, read):
    """Two requests of 512x512 fit no profile; four of 256x256 do."""
    bundle = make_bundle("compact-x4", tmp_path, fp16=True)
    add_engine(bundle, "tensorrt", b"tiles", "2026-01-01", profiles=tuple(map(parse_profile, PHOTO_TILES)))
    _, _, every, batch = write_triton_models(open_bundle(bundle.path), tmp_path / "models")
    assert (every.name, batch.name) == ("compact-x4-fp16-tensorrt", "compact-x4-fp16-tensorrt-batch")
    assert (every.path / "1" / "model.plan").read_bytes() == (batch.path / "1" / "model.plan").read_bytes() == b"tiles"
    config = read(every.path)
    assert (config.max_batch_size, config.HasField("dynamic_batching")) == (1, False)
    assert list(config.input[0].dims) == [3, -1, -1]
    assert [(one.batch_size, list(one.inputs["lr"].dims)) for one in config.model_warmup] == [(1, [3, 256, 256])]
    config = read(batch.path)
    assert config.max_batch_size == 4
    assert list(config.dynamic_batching.preferred_batch_size) == [4]
    assert (list(config.input[0].dims), list(config.output[0].dims)) == ([3, 256, 256], [3, 1024, 1024])
    assert list(config.instance_group[0].profile) == ["0", "1"]  # one request alone goes by the first
    assert [one.batch_size for one in config.model_warmup] == [1, 4]
    assert config.parameters["execution_context_allocation_strategy"].string_value == "ON_PROFILE_CHANGE"


@pytest.mark.parametrize(
    ("profiles", "batches"),
    [
        (("a=1x8x8,1x16x16,1x32x32", "b=1x8x8,4x16x16,8x32x32"), {"": 8}),
        (("a=1x8x8,1x16x16,4x32x32", "b=5x8x8,6x16x16,8x32x32"), {"": 8}),
        (("a=1x8x8,1x16x16,2x32x32", "b=4x8x8,6x16x16,8x32x32"), {"": 2}),  # three fit none
        (("a=1x8x8,1x16x16,2x64x64", "b=1x8x8,2x16x16,8x32x32"), {"": 2, "-b": 8}),
        (("a=1x8x8,1x16x16,4x16x32", "b=1x8x8,1x16x16,4x32x16"), {"": 4}),
    ],
)
def test_every_batch_that_may_be_joined_fits_a_profile(make_bundle, tmp_path, read, profiles, batches):
    bundle = make_bundle("compact-x4", tmp_path, fp16=True)
    parsed = tuple(map(parse_profile, profiles))
    add_engine(bundle, "tensorrt", b"plan", "2026-01-01", profiles=parsed)
    plans = [
        one for one in write_triton_models(open_bundle(bundle.path), tmp_path / "models") if one.backend == "tensorrt"
    ]
    found = {one.name.removeprefix("compact-x4-fp16-tensorrt"): read(one.path) for one in plans}
    assert {end: config.max_batch_size for end, config in found.items()} == batches
    for config in found.values():
        used = [parsed[int(place)] for place in config.instance_group[0].profile]
        for corner in [shape for one in used for shape in (one.min, one.max) if shape.n <= config.max_batch_size]:
            for n in range(1, config.max_batch_size + 1):
                fits = any(one.contains(Shape(n, corner.h, corner.w)) for one in used)
                assert fits or (batches.keys() > {""} and corner == parsed[0].max and config.max_batch_size == 8)


def test_the_docs_say_how_version_compatible_plans_are_served():
    text = (Path(__file__).parents[3] / "docs" / "serving.md").read_text()
    assert "`--backend-config=tensorrt,version-compatible=true`" in text


def test_plans_of_another_gpu_are_left_out(make_bundle, tmp_path, monkeypatch):
    monkeypatch.setattr("sr_deploy.gpus._ask_once", lambda: (Gpu("NVIDIA L4", "sm89"),))
    bundle = make_bundle("compact-x4", tmp_path, fp16=True)
    add_engine(bundle, "tensorrt", b"mine", "2026-01-01", target="NVIDIA L4")
    add_engine(bundle, "tensorrt", b"theirs", "2026-02-01")
    plan = write_triton_models(open_bundle(bundle.path), tmp_path / "models")[-1]
    assert (plan.path / "1" / "model.plan").read_bytes() == b"mine"
    add_engine(bundle, "tensorrt", b"of all", "2026-03-01", flags={"hardware_compatible": "on"})
    plan = write_triton_models(open_bundle(bundle.path), tmp_path / "models")[-1]
    assert (plan.path / "1" / "model.plan").read_bytes() == b"of all"


def test_whole_numbers_have_their_channels_last(make_bundle, exported, tmp_path, read, schema):
    graph = tmp_path / "uint8.onnx"
    shutil.copyfile(exported("compact-x4").path, graph)
    change_file_io_dtype(graph, "uint8")
    bundle = make_bundle("compact-x4", tmp_path, graph=graph)
    (model,) = write_triton_models(bundle, tmp_path / "models")
    config = read(model.path)
    assert (config.input[0].data_type, list(config.input[0].dims)) == (schema.TYPE_UINT8, [-1, -1, 3])
    assert (config.output[0].data_type, list(config.output[0].dims)) == (schema.TYPE_UINT8, [-1, -1, 3])
    assert list(config.model_warmup[0].inputs["lr"].dims) == [16, 16, 3]


def test_other_models_stay_and_what_is_no_model_is_not_replaced(make_bundle, tmp_path, read):
    bundle, models = make_bundle("compact-x1", tmp_path), tmp_path / "models"
    (models / "other" / "1").mkdir(parents=True)
    (models / "other" / "1" / "model.onnx").write_bytes(b"theirs")
    for _ in range(2):  # the second time over the first
        (model,) = write_triton_models(bundle, models)
    assert read(model.path).name == "compact-x1-fp32-onnx"
    assert sorted(path.name for path in models.iterdir()) == ["compact-x1-fp32-onnx", "other"]
    (model.path / "config.pbtxt").unlink()
    with pytest.raises(OutputError, match="compact-x1-fp32-onnx is there and is no Triton model"):
        write_triton_models(bundle, models)
    assert (model.path / "1" / "model.onnx").is_file()


def test_text_survives_protobufs_own_reader(schema):
    name = 'quotes " and \\ and\nlines and ü'
    text = format_text({"name": name, "max_batch_size": 3, "model_warmup": [{"name": "a"}, {"name": "b"}]})
    config = text_format.Parse(text, schema.ModelConfig())
    assert (config.name, config.max_batch_size) == (name, 3)
    assert [one.name for one in config.model_warmup] == ["a", "b"]


def test_the_license_of_the_weights_goes_with_what_is_served(make_bundle, tmp_path, read):
    bundle = make_bundle("compact-x4", tmp_path, fp16=True)
    source = bundle.manifest.source.model_copy(update={"license": "CC-BY-NC-SA-4.0", "author": 'Ann "A"'})
    stated = replace(bundle, manifest=bundle.manifest.model_copy(update={"source": source}))
    for model in write_triton_models(stated, tmp_path / "models"):
        parameters = read(model.path).parameters
        assert {key: value.string_value for key, value in parameters.items()} == {
            "license": "CC-BY-NC-SA-4.0", "author": 'Ann "A"',
        }  # fmt: skip
