"""Which engine of a bundle may run here: one built from this graph, by this version, for this GPU. No torch here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sr_deploy.backends import BackendChoice
from sr_deploy.bundle import Bundle, EngineRecord
from sr_deploy.errors import BackendError
from sr_deploy.model import Model
from sr_deploy.trt import Gpu


@dataclass(frozen=True)
class EngineSearch:
    """What an engine has to fit."""

    choice: BackendChoice
    """Backend and precision."""
    version: str
    """Installed version of the SDK: engines run on the version that built them alone."""
    graph_sha256: str
    """Hash of the graph that the bundle has in that precision."""
    gpu: Gpu
    """What it is to run on."""
    rebuild: str
    """Command that builds the missing engine."""


def find_engine(records: Sequence[EngineRecord], search: EngineSearch) -> EngineRecord:
    """The newest engine that fits.

    Raises:
        BackendError: none does; the message says what was wrong with those there are, and what to run.
    """
    wanted = search.choice
    candidates = [one for one in records if one.backend == wanted.backend and one.precision == wanted.precision]
    if not candidates:
        raise BackendError(f"there is no {wanted} engine; on this machine run: {search.rebuild}")
    fitting = [record for record in candidates if why_stale(record, search) is None]
    if not fitting:
        reasons = "; ".join(f"{record.engine.file} {why_stale(record, search)}" for record in candidates)
        raise BackendError(f"no {wanted} engine fits: {reasons}; on this machine run: {search.rebuild}")
    return max(fitting, key=lambda record: record.built_at)


def why_stale(record: EngineRecord, search: EngineSearch) -> str | None:
    """What keeps an engine from being run as `search` wants, or None."""
    if record.graph_sha256 != search.graph_sha256:
        return "was built from another graph"
    if record.backend_version != search.version:
        return f"was built by {record.backend} {record.backend_version}, and {search.version} is installed"
    if search.gpu.name != record.target and search.gpu.compute_capability not in record.target.split("+"):
        return f"was built for {record.target}, and this GPU is {search.gpu.name} ({search.gpu.compute_capability})"
    return None


def require_bundle(model: Model, choice: BackendChoice) -> Bundle:
    """The bundle whose engines run.

    Raises:
        BackendError: the model is no bundle.
    """
    if model.bundle is None:
        raise BackendError(
            f"{choice} runs engines of a bundle, and {model.path} is no bundle; make one with: sr-deploy export"
        )
    return model.bundle


def make_search(bundle: Bundle, choice: BackendChoice, version: str, gpu: Gpu) -> EngineSearch:
    """What an engine of `bundle` has to fit.

    Raises:
        BackendError: the bundle has no graph of that precision, so no engine of it can be right.
    """
    graph = bundle.manifest.graph(choice.precision)
    if graph is None:
        held = ", ".join(bundle.precisions)
        raise BackendError(f"{bundle.path} has no {choice.precision} graph to run with {choice.backend}, only {held}")
    rebuild = f"sr-deploy build {bundle.path} --backend {choice.backend}"
    return EngineSearch(choice, version, graph.sha256, gpu, rebuild)
