"""Every network, every kind of graph: parsed and built by TensorRT-RTX's own parser and builder, on the CPU.

All are built in one process, because its start takes longer than building one of these small networks.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import onnx
import pytest

from sr_deploy.arch.spec import ArchSpec
from sr_deploy.backends import builders
from sr_deploy.bundle import GraphRecord, parse_profile
from sr_deploy.engine.precision import find_unplanned_nodes, judge_layers
from sr_deploy.engine.request import EngineRequest
from sr_deploy.export.float_format import BF16
from sr_deploy.export.fp16 import convert_graph_to_format, convert_graph_to_fp16, convert_model_to_fp16
from sr_deploy.export.int8.calibration import quantize_layers
from sr_deploy.export.int8.insert import insert_quantization
from sr_deploy.export.int8.placement import place_quantization
from sr_deploy.export.int8.quantization_options import Int8Options
from sr_deploy.export.onnx_export import export_network_to_onnx
from sr_deploy.export.write import rewrite_graph_file, write_graph
from sr_deploy.files import sha256_of

pytestmark = [
    pytest.mark.skipif(builders.sdk_version("tensorrt-rtx") is None, reason="tensorrt_rtx is not installed"),
]

SMALL = {"features": 8, "blocks": 1}
EXPORTED = (  # by all unit tests: conftest has their specs
    *("srresnet-x4", "srresnet-x2-gray", "msrresnet-x4", "msrresnet-x2"),
    *("rrdbnet-x4", "rrdbnet-x2", "rrdbnet-x1-gray"),
    *("compact-x4", "compact-x2-gray", "compact-x1"),
)
SPECS = {
    "msrresnet-x3-gray": ArchSpec(architecture="msrresnet", scale=3, channels=1, **SMALL),
    "old-esrgan-x2": ArchSpec(architecture="rrdbnet", scale=2, growth=4, unshuffle=1, **SMALL),
    "old-esrgan-x4-unshuffled": ArchSpec(architecture="rrdbnet", scale=4, growth=4, unshuffle=2, **SMALL),
}
NETWORKS = (*EXPORTED, *SPECS)
PROFILE = (parse_profile("tile=1x16x16,1x32x32,2x64x64"),)
KINDS = ("fp32", "fp16", "fp16 planned", "int8")
RARE_KINDS = ("fp32 as exported", "bf16", "int8 per tensor", "int8 in fp32", "int8 planned")
CASES = [(name, kind) for name in NETWORKS for kind in KINDS]
CASES += [(name, kind) for name in ("srresnet-x4", "rrdbnet-x2", "compact-x2-gray") for kind in RARE_KINDS]

_BUILD_ALL = """
import json, sys
from pathlib import Path
from sr_deploy.backends.tensorrt.build_worker import BuildJob, build
for line in sys.stdin:
    key, job = json.loads(line)
    try:
        report = build(BuildJob.model_validate(job))
        answer = {"declared": report.declared, "bytes": Path(job["engine"]).stat().st_size}
    except Exception as error:
        answer = {"error": f"{type(error).__name__}: {error}"}
    print(json.dumps(["answer", key, answer]), flush=True)
"""


@dataclass(frozen=True)
class Graph:
    """One file, and what its bundle would record of it."""

    path: Path
    record: GraphRecord


def make_graph(plain: Path, rewritten: Path, kind: str, folder: Path) -> Graph:
    path = folder / f"{plain.stem}.{kind.replace(' ', '-')}.onnx"
    precision, _, variant = kind.partition(" ")
    planned: tuple[str, ...] = ()
    convolutions = [node.name for node in onnx.load(rewritten).graph.node if node.op_type == "Conv"]
    if precision == "fp32":
        path = plain if variant else rewritten
    elif precision == "bf16":
        convert_graph_to_format(rewritten, path, BF16)
    elif precision == "fp16":
        planned = tuple(convolutions[1:3]) if variant else ()
        convert_graph_to_fp16(rewritten, path, planned)
    else:
        planned = write_quantized(rewritten, path, variant)
    record = GraphRecord(file=path.name, sha256=sha256_of(path), precision=precision, planned_fp32=planned)
    return Graph(path, record)


def write_quantized(source: Path, path: Path, variant: str) -> tuple[str, ...]:
    """Every convolution that may be quantized, with ranges made up; returns those that stay FP32 on purpose."""
    model = onnx.load(source)
    placement = place_quantization(model)
    assert placement.candidates
    limits = {candidate.data: 2.0 for candidate in placement.candidates}
    layers = quantize_layers(model, placement, limits, Int8Options(per_channel=variant != "per tensor"))
    insert_quantization(model, layers)
    planned: tuple[str, ...] = ()
    if variant == "in fp32":
        planned = tuple(placement.kept)
    elif variant == "planned":  # a float convolution, and a quantized one, which stays INT8 between FP32 feature maps
        planned = (next(iter(placement.kept)), placement.candidates[0].name)
        convert_model_to_fp16(model, str(source), planned)
    else:
        convert_model_to_fp16(model, str(source))
    write_graph(model, path)
    return planned


@pytest.fixture(scope="module")
def built(exported, make_network, tmp_path_factory):
    """Every graph, and what the builder answered, by network and kind."""
    folder = tmp_path_factory.mktemp("every-graph")
    graphs, lines = {}, []
    for name in NETWORKS:
        plain, rewritten = folder / f"{name}.onnx", folder / f"{name}.rewritten.onnx"
        if name in EXPORTED:
            shutil.copyfile(exported(name).path, plain)
        else:
            export_network_to_onnx(make_network(SPECS[name]), SPECS[name], plain, "5" * 64)
        shutil.copyfile(plain, rewritten)
        rewrite_graph_file(rewritten)
        for kind in [kind for case, kind in CASES if case == name]:
            graph = graphs[f"{name}: {kind}"] = make_graph(plain, rewritten, kind, folder)
            request = EngineRequest(
                graph=graph.path,
                graph_sha256=graph.record.sha256,
                precision=graph.record.precision,
                backend="tensorrt-rtx",
                profiles=PROFILE,
                compute_capabilities=("sm89",),
                planned_fp32=graph.record.planned_fp32,
            )
            job = {"engine": f"{graph.path}.engine", "report": f"{graph.path}.json"}
            lines.append(json.dumps([f"{name}: {kind}", {"request": request.model_dump(mode="json"), **job}]))
    done = subprocess.run(
        [sys.executable, "-c", _BUILD_ALL], input="\n".join(lines), capture_output=True, text=True, check=False
    )
    answers = {}
    for line in done.stdout.splitlines():
        if line.startswith('["answer"'):
            _, key, answer = json.loads(line)
            answers[key] = answer
    assert done.returncode == 0, done.stderr[-2000:]
    return graphs, answers


def find_quantized(path: Path) -> set[str]:
    """Convolutions whose weight comes out of a DequantizeLinear."""
    nodes = onnx.load(path).graph.node
    unpacked = {node.output[0] for node in nodes if node.op_type == "DequantizeLinear"}
    return {node.name for node in nodes if node.op_type == "Conv" and node.input[1] in unpacked}


@pytest.mark.parametrize(("name", "kind"), CASES)
def test_it_is_parsed_and_built_as_what_it_says(built, name, kind):
    graphs, answers = built
    graph, answer = graphs[f"{name}: {kind}"], answers[f"{name}: {kind}"]
    assert "error" not in answer, answer
    declared, record = answer["declared"], graph.record
    convolutions = [node.name for node in onnx.load(graph.path).graph.node if node.op_type == "Conv"]
    assert sorted(declared) == sorted(convolutions)
    assert judge_layers(declared, record.precision, record.planned_fp32) == []
    assert find_unplanned_nodes(graph.path, record) == []  # the file alone says the same
    assert answer["bytes"] > 10_000
    kinds = set(declared.values())
    if kind == "fp16 planned":
        assert {name for name, seen in declared.items() if seen == "fp32"} == set(record.planned_fp32)
        assert kinds == {"fp16", "fp32"}
        unplanned = judge_layers(declared, "fp16", ())
        assert len(unplanned) == 2  # without the plan they are an error
    elif kind == "int8 planned":
        assert declared[record.planned_fp32[0]] == "fp32"
        assert declared[record.planned_fp32[1]] == "int8"
        quantized = find_quantized(graph.path)
        kinds_due = {name: "int8" if name in quantized else "fp16" for name in convolutions}
        assert declared == kinds_due | {record.planned_fp32[0]: "fp32"}
    elif kind.startswith("int8"):
        assert kinds == {"int8", "fp32" if kind == "int8 in fp32" else "fp16"}
    else:
        assert kinds == {record.precision}
