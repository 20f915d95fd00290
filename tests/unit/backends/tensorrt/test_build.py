from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import onnx
import pytest

from sr_deploy.backends import builders
from sr_deploy.bundle import EngineOptions, parse_profile
from sr_deploy.engine.build import build_engine
from sr_deploy.engine.request import EngineRequest
from sr_deploy.errors import BackendError, InputError
from sr_deploy.export.fp16 import convert_graph_to_fp16
from sr_deploy.export.fp16_plan import plan_graph
from sr_deploy.files import sha256_of
from sr_deploy.gpus import visible_gpus

needs_rtx = pytest.mark.skipif(builders.sdk_version("tensorrt-rtx") is None, reason="tensorrt_rtx is not installed")
PROFILES = (parse_profile("tile=1x16x16,1x64x64,2x128x128"),)


def request_for(graph: Path, **changes: object) -> EngineRequest:
    fields = {
        "graph": graph,
        "graph_sha256": sha256_of(graph),
        "precision": "fp32",
        "backend": "tensorrt-rtx",
        "profiles": PROFILES,
        "compute_capabilities": ("sm86", "sm89"),
    }
    return EngineRequest.model_validate({**fields, **changes})


@needs_rtx
def test_rtx_builds_every_network_in_fp32_and_fp16(each_exported, tmp_path):
    graph = onnx.load(each_exported.path).graph
    convolutions = sum(node.op_type == "Conv" for node in graph.node)
    fp32 = build_engine(request_for(each_exported.path))
    assert fp32.record.convolution_precisions == {"FLOAT": convolutions}
    assert set(fp32.record.layer_precisions) - {"INT32", "INT64"} == {"FLOAT"}  # integers: sizes
    half = tmp_path / "half.onnx"
    kept = plan_graph(each_exported.path, each_exported.spec.channels, each_exported.spec.scale).names
    convert_graph_to_fp16(each_exported.path, half, kept)
    fp16 = build_engine(request_for(half, precision="fp16", planned_fp32=kept))
    float_convolutions = sum(node.op_type == "Conv" for node in graph.node if node.name in kept)
    due = {"HALF": convolutions - float_convolutions, "FLOAT": float_convolutions}
    assert fp16.record.convolution_precisions == {kind: count for kind, count in due.items() if count}
    if not kept:
        assert fp16.record.layer_precisions["FLOAT"] <= 2  # the cast at the end
    weights = sum(tensor.ByteSize() for tensor in graph.initializer)
    assert len(fp32.engine) > weights


@needs_rtx
def test_record_says_what_the_engine_is(exported):
    import hashlib

    request = request_for(exported("compact-x4").path)
    built = build_engine(request)
    record = built.record
    assert record.key == request.key()
    assert record.engine.file == f"engines/{record.key}.engine"
    assert record.engine.sha256 == hashlib.sha256(built.engine).hexdigest()
    assert (record.backend, record.backend_version) == ("tensorrt-rtx", builders.sdk_version("tensorrt-rtx"))
    assert (record.target, record.profiles, record.precision) == ("sm86+sm89", PROFILES, "fp32")
    off = ("tf32", "version_compatible", "hardware_compatible", "strip_weights", "refittable")
    assert record.flags == {
        "strongly_typed": "on",
        "optimization_level": "default",
        "workspace_gib": "default",
        **dict.fromkeys(off, "off"),
    }
    assert record.declared == {f"conv_{index}": "fp32" for index in range(4)}
    assert record.multiply_add_shares == pytest.approx({"fp32": 1.0})
    assert record.unplanned_layers == ()
    assert 0 < record.build_seconds < 60
    if not visible_gpus():
        assert record.inspected.startswith("not inspected: an engine opens on a GPU only")


@needs_rtx
def test_several_profiles_and_one_capability(exported):
    profiles = (*PROFILES, parse_profile("video=1x72x128,1x72x128,1x72x128"))
    one = build_engine(request_for(exported("compact-x4").path, profiles=profiles, compute_capabilities=("sm75",)))
    assert one.record.target == "sm75"
    assert one.record.profiles == profiles


@needs_rtx
def test_build_does_not_depend_on_the_current_folder(exported, tmp_path, monkeypatch):
    graph = exported("compact-x1").path
    # What lies in the current folder must not be imported in place of a library.
    for name in ("onnx.py", "polygraphy.py", "pydantic.py", "tensorrt_rtx.py"):
        (tmp_path / name).write_text("raise RuntimeError('imported from the current folder')")
    monkeypatch.chdir(tmp_path)
    relative = Path(os.path.relpath(graph))
    assert build_engine(request_for(relative)).record.convolution_precisions == {"FLOAT": 3}


@needs_rtx
def test_garbage_is_a_backend_error(tmp_path):
    path = tmp_path / "garbage.onnx"
    path.write_bytes(b"\x00not a graph" * 100)
    with pytest.raises(BackendError, match=r"from garbage\.onnx: .*cannot be read as a graph"):
        build_engine(request_for(path))


@needs_rtx
def test_fp32_graph_is_not_taken_for_fp16(exported):
    with pytest.raises(BackendError, match=r"conv_0 .* in fp32, .* to be fp16; .*conv_2 .* in fp32.*, and 1 more$"):
        build_engine(request_for(exported("compact-x4").path, precision="fp16"))


@needs_rtx
def test_missing_graph_is_named(exported, tmp_path):
    good = request_for(exported("compact-x4").path)
    with pytest.raises(InputError, match=r"gone\.onnx does not exist"):
        build_engine(good.model_copy(update={"graph": tmp_path / "gone.onnx"}))


@pytest.mark.skipif(builders.why_not_buildable("tensorrt") is None, reason="this machine builds with tensorrt")
def test_backend_that_cannot_build_here_says_why(exported):
    with pytest.raises(BackendError, match=r"cannot build a tensorrt .*(not installed|no NVIDIA GPU)"):
        build_engine(request_for(exported("compact-x4").path, backend="tensorrt", compute_capabilities=()))


@needs_rtx
def test_key_changes_with_each_ingredient(exported, monkeypatch):
    first = request_for(exported("compact-x4").path)
    changed = [
        {"graph_sha256": "0" * 64},
        {"compute_capabilities": ("sm86",)},
        {"profiles": (parse_profile("tile=1x16x16,1x64x64,2x128x129"),)},
        {"profiles": (parse_profile("other=1x16x16,1x64x64,2x128x128"),)},
        *(
            {"options": EngineOptions.model_validate({name: value})}
            for name, value in (
                ("tf32", True),
                ("optimization_level", 0),
                ("optimization_level", 5),
                ("workspace_gib", 1),
                ("workspace_gib", 1.0000001),
                ("version_compatible", True),
                ("hardware_compatible", True),
                ("strip_weights", True),
                ("refittable", True),
            )
        ),
    ]
    tried = {name for change in changed if "options" in change for name in change["options"].model_fields_set}
    assert tried == set(EngineOptions.model_fields)  # a new setting needs a line here
    keys = [first.key(), *(first.model_copy(update=change).key() for change in changed)]
    monkeypatch.setattr(builders, "sdk_version", lambda backend: "99.0")
    keys.append(first.key())
    assert len(set(keys)) == len(changed) + 2
    monkeypatch.undo()
    assert first.model_copy(update={"graph": Path("elsewhere.onnx")}).key() == keys[0]  # the content counts


@needs_rtx
def test_worker_needs_no_torch():
    code = "import sys, sr_deploy.backends.tensorrt.build_worker; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
