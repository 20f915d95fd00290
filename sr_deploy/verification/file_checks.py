"""Everything that can be said of a deployment's files without running them, one check after the other."""

from __future__ import annotations

import logging
from pathlib import Path

from sr_deploy.backends import QUANTIZED
from sr_deploy.bundle import Bundle, Certificate, Check, GraphRecord, utc_now
from sr_deploy.bundle.store import MANIFEST_NAME, blaming_bundle
from sr_deploy.engine.profiles import check_profiles
from sr_deploy.errors import BundleError, GraphError
from sr_deploy.files import sha256_of
from sr_deploy.model import Model
from sr_deploy.verification.audit import Terms, audit_graph
from sr_deploy.verification.calibration import check_calibration
from sr_deploy.verification.engines import check_engines
from sr_deploy.verification.fp32 import audit_fp32_graph
from sr_deploy.verification.graph_precision import check_graph_precision
from sr_deploy.verification.origin import load_reference, make_again, read_search
from sr_deploy.verification.source import check_source
from sr_deploy.verification.standing import read_standing

_LOG = logging.getLogger(__name__)


def check_files(
    model: Model, *, deep: bool, source: Path | str | None, signed: Check | None
) -> tuple[Certificate, list[Check]]:
    """Look into all files of a model: a bundle's certificate and graphs, its source, and engines.

    Args:
        model: what is verified.
        deep: ask PyTorch's exporter too, and build engines again that were built here.
        source: the checkpoint or run that the bundle says it was made of; None: none is given.
        signed: what was said of the bundle's signature, to stand among the checks.

    Returns:
        What a bundle's certificate says that can be added to, and the checks, that of the certificate first; of what is
        no bundle an empty certificate.

    Raises:
        BundleError: a file of the bundle is missing, or is not what its recorded hash says.
        CheckpointError: the weights cannot be read.
        InputError: the source is not there, or holds no weights.
    """
    bundle = model.bundle if model.kind == "bundle" else None
    standing, checks = Certificate(), list[Check]()
    if bundle is not None:
        standing, stands = read_standing(bundle)
        checks.append(stands)
        with blaming_bundle(bundle):
            check_profiles(bundle.manifest.profiles, bundle.manifest.arch)
            checks += _check_graphs(model, bundle, deep=deep)
        checks += [] if source is None else [check_source(model, source)]
        checks += [] if signed is None else [signed]
    with blaming_bundle(bundle):
        checks += check_engines(model, again=deep)
    return standing, checks


def _check_graphs(model: Model, bundle: Bundle, *, deep: bool) -> list[Check]:
    """Hold each graph against what it was made of, and its precision against the manifest.

    Args:
        model: the bundle, opened.
        bundle: likewise.
        deep: ask PyTorch's exporter too.

    Raises:
        CheckpointError: the weights cannot be read.
    """
    _LOG.info("weights, nodes and precision of the graphs")
    checks = [audit_fp32_graph(model, bundle, deep=deep) if "fp32" in bundle.precisions else _miss_fp32(bundle)]
    for graph in bundle.manifest.graphs:
        checks.append(check_graph_precision(model, bundle, graph))
        if graph.precision != "fp32":
            checks.append(_audit_made_graph(model, bundle, graph))
        if graph.precision in QUANTIZED:
            _LOG.info("ranges and losses of %s on photographs", graph.file)
            checks += check_calibration(model, bundle, graph)
    return checks


def _audit_made_graph(model: Model, bundle: Bundle, graph: GraphRecord) -> Check:
    """A graph that was made of the FP32 one; of the network exported again, where the bundle has none."""
    path = bundle.path / graph.file
    try:
        terms = Terms(graph.precision, graph.planned_fp32, read_search(bundle, graph.precision))
        if "fp32" in bundle.precisions:
            reference, due = load_reference(bundle, graph.precision), bundle.graph("fp32").name
        else:
            reference, due = make_again(model, bundle), "the network itself"
        return audit_graph(path, reference, due, terms)
    except (BundleError, GraphError) as error:
        what = "every node, type and constant against the FP32 graph"
        return _make_check(graph.file, graph.sha256, what, (str(error),))


def _miss_fp32(bundle: Bundle) -> Check:
    """Every graph is made of the FP32 one, and so a manifest without it is not an export's."""
    path = bundle.path / MANIFEST_NAME
    return _make_check(
        path.name,
        sha256_of(path),
        "the manifest names the FP32 graph that the others were made of",
        ("it records no FP32 graph, which every bundle has; export it again",),
    )


def _make_check(file: str, sha256: str, what: str, findings: tuple[str, ...]) -> Check:
    return Check(kind="weights", file=file, sha256=sha256, what=what, findings=findings, checked_at=utc_now())
