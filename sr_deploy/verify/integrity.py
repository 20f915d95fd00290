"""What can be said of a bundle's files without running them: precision, engines. No torch here.

Hashes are checked whenever a bundle is opened; here is what a file says and holds, so that a wrong one is found too
where its hash was entered as if it were right.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from sr_deploy.bundle import Check, EngineRecord, GraphRecord, engine_key, utc_now
from sr_deploy.bundle.engine_folder import EngineFolder, engines_of_graph
from sr_deploy.bundle.records import ENGINES_FOLDER
from sr_deploy.engine.precision import find_unplanned
from sr_deploy.files import sha256_of
from sr_deploy.graph.load import load_whole_model
from sr_deploy.model import Model
from sr_deploy.verify.align import GraphView

_MAGIC = b"vtrt"
_LENGTH = slice(16, 24)
_KNOWN_PLANS = "1.7."
"""Versions of TensorRT-RTX whose plans were looked into: a header with the length, and convolutions' weights as they
are in the graph, output channel by output channel, input channels last."""
_WHOLE_VECTORS = 8


def check_engines(model: Model) -> list[Check]:
    """Whether each engine's record agrees with itself and with one of the graphs, and its file with both.

    Args:
        model: a bundle, or a lone graph with engines in the folder beside it.

    Raises:
        BundleError: an engine or its record is missing or was changed after it was recorded.
    """
    folder = find_engines(model)
    if folder is None:
        return []
    if model.bundle is not None:
        graphs = [(model.bundle.path / graph.file, graph) for graph in model.bundle.manifest.graphs]
    else:
        sha256 = sha256_of(model.path)
        graphs = [(model.path, GraphRecord(file=model.path.name, sha256=sha256, precision=model.precisions[0]))]
    return [_check_engine(folder, graphs, record) for record in folder.engines()]


def find_engines(model: Model) -> EngineFolder | None:
    """Where the engines of a model lie; None for what has none."""
    if model.kind == "graph":
        return engines_of_graph(model.path)
    return model.bundle


def _check_engine(folder: EngineFolder, graphs: Sequence[tuple[Path, GraphRecord]], record: EngineRecord) -> Check:
    path, graph = next((one for one in graphs if one[1].sha256 == record.graph_sha256), (None, None))
    findings = list(_list_contradictions(record))
    compared = "its weights were not looked for"
    if graph is None or path is None:
        findings.append("was built from a graph that is not here; run: sr-deploy build")
    else:
        if graph.precision != record.precision:
            findings.append(f"is recorded as {record.precision}, and its graph {graph.file} is {graph.precision}")
        findings += find_unplanned(record, graph)
        plan = (folder.path / record.engine.file).read_bytes()
        damage = _find_damage(record, plan)
        if damage is not None:
            findings.append(damage)
        elif _has_known_plan(record):
            looked_for, missing = _look_for_weights(path, plan)
            compared = f"the weights of {looked_for} convolutions of {graph.file} are in it"
            findings += [_describe_missing(name, graph.file, rounded) for name, rounded in missing]
    return Check(
        kind="engine",
        file=record.engine.file,
        sha256=record.engine.sha256,
        what=f"its record agrees with itself and with the graph, its layers are in {record.precision}; {compared}",
        findings=tuple(findings),
        checked_at=utc_now(),
    )


def _list_contradictions(record: EngineRecord) -> Iterator[str]:
    key = engine_key(
        graph_sha256=record.graph_sha256,
        backend=record.backend,
        backend_version=record.backend_version,
        target=record.target,
        profiles=record.profiles,
        flags=record.flags,
    )
    if key != record.key:
        yield f"its record has the key {record.key}, and its fields make {key}: the record was changed"
    if record.engine.file != f"{ENGINES_FOLDER}/{record.key}.engine":
        yield f"its record with the key {record.key} is of another file, {record.engine.file}"


def _find_damage(record: EngineRecord, plan: bytes) -> str | None:
    if record.backend != "tensorrt-rtx" or not record.backend_version.startswith(_KNOWN_PLANS):
        return None
    if not plan.startswith(_MAGIC):
        return "does not begin as an engine does: it is damaged or something else"
    length = int.from_bytes(plan[_LENGTH], "little")
    if length != len(plan):
        return f"says that it has {length} bytes, and the file has {len(plan)}: it is truncated or damaged"
    return None


def _has_known_plan(record: EngineRecord) -> bool:
    stripped = any("strip" in name and value not in ("", "0", "False", "off") for name, value in record.flags.items())
    return record.backend == "tensorrt-rtx" and record.backend_version.startswith(_KNOWN_PLANS) and not stripped


def _describe_missing(name: str, file: str, rounded: bool) -> str:
    if rounded:  # seen of TensorRT-RTX 1.7, although its parsed network declares the layer as FP32
        return f"holds the FP32 weights of {name} of {file} rounded to FP16: its builder left the plan for that layer"
    return f"does not hold the weights of {name} of {file}: it is of another graph"


def _look_for_weights(path: Path, plan: bytes) -> tuple[int, list[tuple[str, bool]]]:
    """How many convolutions' weights were looked for in a plan, bit for bit, and the names of those that are not there.

    Each name comes with whether its FP32 weights are there rounded to FP16. Convolutions whose input channels do not
    fill whole vectors are padded there, and are passed over.
    """
    view = GraphView(load_whole_model(path))
    looked_for = 0
    missing: list[tuple[str, bool]] = []
    place = 0
    for node in view.nodes:
        constant = view.constant(node.input[1]) if node.op_type == "Conv" else None
        if constant is None or constant.stored.ndim != 4 or constant.stored.shape[1] % _WHOLE_VECTORS:
            continue
        looked_for += 1
        stored = np.ascontiguousarray(constant.stored.transpose(0, 2, 3, 1))
        content = stored.tobytes()
        found = plan.find(content, place)
        found = plan.find(content) if found < 0 else found
        if found < 0:
            rounded = stored.dtype == np.float32 and stored.astype(np.float16).tobytes() in plan
            missing.append((node.name or node.output[0], rounded))
        else:
            place = found  # the next one usually lies behind it
    return looked_for, missing
