"""Which failures follow from which: the cause stands first, what it brings about stands under it. No torch here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from sr_deploy.bundle import EngineRecord, GraphRecord
from sr_deploy.bundle.verdict import Failure

# What a file holds explains how it runs, and what is said of it; the order is that of explaining.
_ORDER = ("source", "precision", "weights", "engine", "calibration", "certificate", "run", "drop")


def group_failures(
    failures: Sequence[Failure], graphs: Sequence[GraphRecord], engines: Sequence[EngineRecord] = ()
) -> list[tuple[Failure, tuple[Failure, ...]]]:
    """Causes, each with what follows from it.

    A graph with wrong numbers runs wrongly, and so does what was made of it: the other graphs are held against the FP32
    one, and engines are built from graphs.

    Args:
        failures: in any order.
        graphs: of the bundle, FP32 first.
        engines: of the bundle.
    """
    made_from = {graph.file: graphs[0].file for graph in graphs[1:] if graphs[0].precision == "fp32"}
    # By precision, not by hash: an engine of the graph that stood there before is of no graph that is there.
    by_precision = {graph.precision: graph.file for graph in graphs}
    made_from |= {one.engine.file: by_precision[one.precision] for one in engines if one.precision in by_precision}

    def rank(failure: Failure) -> tuple[int, int]:
        return len(_list_origins(failure.file, made_from)), _ORDER.index(failure.kind)

    causes: list[tuple[Failure, list[Failure]]] = []
    for failure in sorted(failures, key=rank):
        for cause, consequences in causes:
            if _explains(cause, failure, made_from):
                consequences.append(failure)
                break
        else:
            causes.append((failure, []))
    ordered = sorted(causes, key=lambda one: _ORDER.index(one[0].kind))
    return [(cause, tuple(consequences)) for cause, consequences in ordered]


def _explains(cause: Failure, other: Failure, made_from: Mapping[str, str]) -> bool:
    if cause.kind in ("certificate", "source", "drop") or other.kind in ("certificate", "source"):
        return False
    return cause.file == other.file or cause.file in _list_origins(other.file, made_from)


def _list_origins(file: str, made_from: Mapping[str, str]) -> list[str]:
    """What a file was made from, nearest first."""
    origins = []
    while file in made_from:
        file = made_from[file]
        origins.append(file)
    return origins
