"""Whether a bundle's engines are what their records say. None of them is opened. No torch here.

A record and a hash are easily written, so an engine that was not built here is built again, by the same builder of the
same graph with the same settings, and compared byte for byte but for what varies (`EngineBuilder.find_difference`).
"""

from __future__ import annotations

from sr_deploy.bundle import Check, EngineRecord, GraphRecord, utc_now
from sr_deploy.bundle.engine_folder import EngineFolder, engines_of_graph
from sr_deploy.bundle.trust import was_built_here
from sr_deploy.engine.precision import find_unplanned
from sr_deploy.files import sha256_of
from sr_deploy.model import Model
from sr_deploy.untrusted import open_regular
from sr_deploy.verification.engine_layers import list_rounded
from sr_deploy.verification.engine_rebuild import Compared, Graph, Rebuilds
from sr_deploy.verification.engine_record import list_contradictions, list_damage


def check_engines(model: Model, *, again: bool = False) -> list[Check]:
    """Whether each engine's record agrees with itself and with one of the graphs, and its file with both.

    An engine that stands in this user's registry with this very record was built here of this very graph. Another one
    is built again and compared; where that is not possible it is not checked, and the check says why.

    Args:
        model: a bundle, or a lone graph with engines in the folder beside it.
        again: build those that were built here again, too.

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
    rebuilds = Rebuilds(folder.engines(), graphs)
    return [_check_engine(folder, record, rebuilds, again=again) for record in rebuilds.records]


def find_engines(model: Model) -> EngineFolder | None:
    """Where the engines of a model lie; None for what has none."""
    if model.kind == "graph":
        return engines_of_graph(model.path)
    return model.bundle


def _check_engine(folder: EngineFolder, record: EngineRecord, rebuilds: Rebuilds, *, again: bool) -> Check:
    graph = rebuilds.find_graph(record)
    findings = list(list_contradictions(record))
    compared = Compared("its content was compared with nothing")
    if graph is None:
        findings.append("was built from a graph that is not here; run: sr-deploy build")
    else:
        with open_regular(folder.path / record.engine.file) as stream:
            engine = stream.read()
        own = was_built_here(record)
        findings += _list_mismatches(record, graph)
        findings += [] if own else list_damage(record, engine)
        compared = _describe_own(record, graph) if own and not again else rebuilds.compare(record, engine, graph)
        findings += _list_rounded(graph, engine)
    told = f"its record agrees with itself and with the graph, its layers are in {record.precision}"
    return Check(
        kind="engine",
        file=record.engine.file,
        sha256=record.engine.sha256,
        what=f"{told}; {compared.how}",
        depth=int(again),
        findings=(*findings, *compared.findings),
        not_checked=compared.not_checked,
        checked_at=utc_now(),
    )


def _describe_own(record: EngineRecord, graph: Graph) -> Compared:
    builder = f"{record.backend} {record.backend_version}"
    return Compared(f"built here with {builder} of {graph[1].file}, as this user's registry says")


def _list_mismatches(record: EngineRecord, graph: Graph) -> list[str]:
    due = graph[1]
    findings = find_unplanned(record, due)
    if due.precision != record.precision:
        findings.insert(0, f"is recorded as {record.precision}, and its graph {due.file} is {due.precision}")
    return findings


def _list_rounded(graph: Graph, engine: bytes) -> list[str]:
    path, record = graph
    return [
        f"holds the FP32 weights of {name} of {record.file} rounded to FP16: its builder left the plan for that layer"
        for name in list_rounded(path, record.planned_fp32, engine)
    ]
