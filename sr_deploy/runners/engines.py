"""Which engine of a bundle may run here: one built from this graph, by this version, for this GPU. No torch here."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from sr_deploy.backends import BackendChoice
from sr_deploy.bundle import EngineRecord
from sr_deploy.bundle.engine_folder import EngineFolder, engines_of_graph
from sr_deploy.bundle.trust import BUILT_HERE, EngineTrust, why_not_trusted
from sr_deploy.errors import BackendError
from sr_deploy.files import sha256_of
from sr_deploy.gpus import Gpu
from sr_deploy.model import Model

_AMPERE = 80


@dataclass(frozen=True)
class EngineSearch:
    """What an engine has to fit."""

    choice: BackendChoice
    version: str
    """Installed version of the SDK: engines run on the version that built them alone."""
    graph_sha256: str
    """Hash of the graph that the bundle has in that precision."""
    gpu: Gpu
    """What it is to run on."""
    rebuild: str
    """Command that builds the missing engine."""
    trust: EngineTrust = BUILT_HERE
    """Which engines may be opened."""


def find_engine(records: Sequence[EngineRecord], search: EngineSearch) -> EngineRecord:
    """The newest engine that fits.

    Raises:
        BackendError: none does; the message says what was wrong with those there are, and what to run.
    """
    wanted = search.choice
    candidates = [one for one in records if one.backend == wanted.backend and one.precision == wanted.precision]
    if not candidates:
        raise BackendError(f"there is no {wanted} engine; on this machine run: {search.rebuild}")
    fitting = [record for record in candidates if why_not_usable(record, search) is None]
    if not fitting:
        reasons = "; ".join(f"{record.engine.file} {why_not_usable(record, search)}" for record in candidates)
        raise BackendError(f"no {wanted} engine fits: {reasons}; on this machine run: {search.rebuild}")
    return max(fitting, key=lambda record: record.built_at)


def why_not_usable(record: EngineRecord, search: EngineSearch) -> str | None:
    """What keeps an engine from being opened as `search` wants, or None: stale, or not to be trusted."""
    return why_stale(record, search) or why_not_trusted(record, search.trust)


def why_stale(record: EngineRecord, search: EngineSearch) -> str | None:
    """What keeps an engine from being run as `search` wants, or None."""
    if record.graph_sha256 != search.graph_sha256:
        return "was built from another graph"
    if record.backend_version != search.version and not _runs_on_version(record, search.version):
        return f"was built by {record.backend} {record.backend_version}, and {search.version} is installed"
    if _runs_on_ampere_and_newer(record, search.gpu):
        return None
    if search.gpu.name != record.target and search.gpu.compute_capability not in record.target.split("+"):
        return f"was built for {record.target}, and this GPU is {search.gpu.name} ({search.gpu.compute_capability})"
    return None


def _runs_on_version(record: EngineRecord, version: str) -> bool:
    """Whether the engine was built to run on later releases of its major version, and `version` is one."""
    built, installed = ([int(part) for part in re.findall(r"\d+", text)] for text in (record.backend_version, version))
    compatible = record.flags.get("version_compatible") == "on"
    return compatible and built[:1] == installed[:1] and built <= installed


def _runs_on_ampere_and_newer(record: EngineRecord, gpu: Gpu) -> bool:
    """Whether the engine was built for all GPUs from Ampere (compute capability 8.0) on, and this is one."""
    capability = gpu.compute_capability.removeprefix("sm")
    compatible = record.flags.get("hardware_compatible") == "on"
    return compatible and capability.isdecimal() and int(capability) >= _AMPERE


def find_engine_folder(model: Model, choice: BackendChoice) -> EngineFolder:
    """Where the engines of a bundle, or of an ONNX file, are kept.

    Raises:
        BackendError: the model is neither.
    """
    if model.bundle is not None:
        return model.bundle
    if model.kind == "graph":
        return engines_of_graph(model.path)
    raise BackendError(
        f"{choice} runs engines of a bundle or of an ONNX file, and {model.path} is neither; make a bundle with: "
        "sr-deploy export"
    )


def list_untrusted(model: Model) -> list[str]:
    """Engines of a model that the user has not said he trusts, one line each; empty where it has none."""
    if model.bundle is None and model.kind != "graph":
        return []
    records = (model.bundle or engines_of_graph(model.path)).engines()
    reasons = ((record.engine.file, why_not_trusted(record, model.trust)) for record in records)
    return [f"{file} {reason}" for file, reason in reasons if reason is not None]


def make_search(model: Model, choice: BackendChoice, version: str, gpu: Gpu) -> EngineSearch:
    """What an engine of `model` has to fit.

    Raises:
        BackendError: it has no graph of that precision, so no engine of it can be right.
    """
    source = model.bundle.path if model.bundle is not None else model.path
    rebuild = f"sr-deploy build {source} --backend {choice.backend}"
    if model.bundle is not None:
        graph = model.bundle.manifest.graph(choice.precision)
        held, sha256 = model.bundle.precisions, graph.sha256 if graph else None
    else:
        held = model.precisions
        sha256 = sha256_of(model.path) if choice.precision in held else None
    if sha256 is None:
        raise BackendError(
            f"{source} has no {choice.precision} graph to run with {choice.backend}, only {', '.join(held)}"
        )
    return EngineSearch(choice, version, sha256, gpu, rebuild, model.trust)
