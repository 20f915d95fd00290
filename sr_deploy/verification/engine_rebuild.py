"""Engines built again, by the builder and of the graph that their records name, and compared. No torch here."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from sr_deploy.backends import builders
from sr_deploy.backends.description import Difference
from sr_deploy.backends.registry import get_builder
from sr_deploy.bundle import EngineOptions, EngineRecord, GraphRecord
from sr_deploy.engine.build import BuiltEngine, build_engine, describe_builder
from sr_deploy.engine.request import EngineRequest, check_options
from sr_deploy.errors import BackendError, InputError, MissingDependencyError
from sr_deploy.legible import show_value
from sr_deploy.verification.engine_layers import name_layers
from sr_deploy.verification.engine_record import list_misstatements

_LOG = logging.getLogger(__name__)
Graph = tuple[Path, GraphRecord]
"""An ONNX file and its record."""

_MORE_BUILDS = 2
"""How often a builder is asked again before an engine that it did not give is taken for a wrong one."""


@dataclass(frozen=True)
class Compared:
    """What came of looking at an engine's content."""

    how: str
    """What was compared with what."""
    findings: tuple[str, ...] = ()
    """What is wrong, one line each."""
    not_checked: str = ""
    """Why it could not be said whether the content is right; empty: it was."""


@dataclass
class Rebuilds:
    """New builds of the engines of one folder, each made when it is first asked for."""

    records: Sequence[EngineRecord]
    """Of all engines there."""
    graphs: Sequence[Graph]
    """That they may be of."""
    _built: dict[str, BuiltEngine] = field(default_factory=dict)

    def find_graph(self, record: EngineRecord) -> Graph | None:
        """What an engine was built from; None if it is not here."""
        return next((one for one in self.graphs if one[1].sha256 == record.graph_sha256), None)

    def compare(self, record: EngineRecord, engine: bytes, graph: Graph) -> Compared:
        """Hold an engine against what its builder makes of its graph with its settings.

        Args:
            record: of the engine.
            engine: its bytes.
            graph: what it is of.
        """
        builder = f"{record.backend} {record.backend_version}"
        how = f"built again with {builder} of {graph[1].file}, and equal but for what varies from build to build"
        try:
            reason = why_not_built_again(record)
            if reason is None:
                due = self._build(record)
                misstated = tuple(list_misstatements(record, due.record))
                difference = _find_difference(record, engine, due.engine)
                if difference is None:
                    return Compared(how, misstated)
                wrong, reason = self._explain(record, engine, graph, due.engine, difference)
                return Compared(how, misstated + wrong, reason)
        except InputError as error:
            return Compared(how, (f"is recorded with what no builder does: {error}",))
        except (BackendError, MissingDependencyError) as error:
            reason = f"it could not be built again to compare: {error}"
        return Compared("its content was compared with nothing", not_checked=reason)

    def _explain(
        self, record: EngineRecord, engine: bytes, graph: Graph, due: bytes, difference: Difference
    ) -> tuple[tuple[str, ...], str]:
        """What is wrong with an engine that is not what is due, or why that cannot be said."""
        whose = next((one for one in self.records if one.key != record.key and self._is_of(one, engine)), None)
        if whose is not None:
            place = f"the {whose.precision} engine that {whose.engine.file} is to be"
            return (f"is {place}: the two are swapped, or one took the other's place",), ""
        for _ in range(_MORE_BUILDS):
            more = build_engine(_make_request(record, *graph)).engine
            if _find_difference(record, engine, more) is None:
                return (), ""
            apart = _find_difference(record, more, due)
            if apart is not None:
                return (), f"{difference.what}, but builds here differ from each other too: {apart.what}"
        if record.built_on not in ("", describe_builder()):
            builders = f"{show_value(record.built_on)}, and this is {describe_builder()!r}"
            return (), f"{difference.what}, which may be because it was built on {builders}"
        layers = name_layers(graph[0], due, difference.places)
        where = f", in {layers}" if layers else ""
        builder = f"{record.backend} {record.backend_version}"
        return (f"is not what {builder} builds of {graph[1].file}: {difference.what}{where}",), ""

    def _is_of(self, record: EngineRecord, engine: bytes) -> bool:
        """Whether an engine is the one that this record is of."""
        try:
            same = why_not_built_again(record) is None and self.find_graph(record) is not None
            return same and _find_difference(record, engine, self._build(record).engine) is None
        except (InputError, BackendError, MissingDependencyError):
            return False

    def _build(self, record: EngineRecord) -> BuiltEngine:
        graph = self.find_graph(record)
        assert graph is not None
        if record.key not in self._built:
            _LOG.info("build %s again, to compare", record.engine.file)
            self._built[record.key] = build_engine(_make_request(record, *graph))
        return self._built[record.key]


def why_not_built_again(record: EngineRecord) -> str | None:
    """Why this machine cannot give the same engine once more, and how to fix it; None if it can.

    Raises:
        InputError: the record has a setting that no builder has.
        BackendError: a setting takes what this machine lacks.
    """
    name, version = record.backend, record.backend_version
    if get_builder(name).find_difference is None:
        return (
            f"{name} times kernels while it builds, so no two builds are alike, and this engine was not built here; "
            "build it again with: sr-deploy build"
        )
    reason = builders.why_not_buildable(name)
    if reason is not None:
        return f"it takes {name} {version} to build it again and compare: {reason}"
    installed = builders.sdk_version(name)
    if installed != version:
        return (
            f"it was built by {name} {version}, and {installed} is installed; install that version to compare, or "
            "build it again with: sr-deploy build"
        )
    check_options(name, EngineOptions.from_flags(record.flags))
    return None


def _find_difference(record: EngineRecord, engine: bytes, due: bytes) -> Difference | None:
    find = get_builder(record.backend).find_difference
    assert find is not None  # `why_not_built_again` was asked before
    return find(engine, due)


def _make_request(record: EngineRecord, path: Path, graph: GraphRecord) -> EngineRequest:
    return EngineRequest(
        graph=path,
        graph_sha256=graph.sha256,
        precision=graph.precision,
        backend=record.backend,
        profiles=record.profiles,
        compute_capabilities=tuple(record.target.split("+")),
        options=EngineOptions.from_flags(record.flags),
        planned_fp32=graph.planned_fp32,
    )
