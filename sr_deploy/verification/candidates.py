"""What of a model there is to verify, what of that this machine cannot run, and a runner for what it can.

True FP16 arithmetic of a graph is PyTorch's where that says something about the graph, else the graph's own: PyTorch in
FP16 runs the whole network in FP16. Of a graph with layers planned in FP32 that says nothing, and a graph without
PyTorch weights has none. Such a graph is run itself, each 16-bit result rounded.
"""

from __future__ import annotations

from collections.abc import Sequence

from sr_deploy.backends import BackendChoice, Precision
from sr_deploy.backends.description import RunOptions
from sr_deploy.backends.registry import get_backend, get_reference, list_backends
from sr_deploy.bundle import NotRun
from sr_deploy.errors import BackendError, DamagedBundleError, OutOfMemoryError
from sr_deploy.graph.rounded import ROUNDED
from sr_deploy.model import Model
from sr_deploy.runners import open_runner, why_not_runnable
from sr_deploy.runners.protocol import Runner, RunnerSpec
from sr_deploy.verification.engines import find_engines

_OF_16_BITS: tuple[Precision, ...] = ("fp16", "bf16")


def list_candidates(model: Model) -> list[BackendChoice]:
    """What there is to verify, runnable or not: weights in 16 bit, or each graph on what says something about it."""
    if not model.precisions:
        name = get_reference("weights").name
        return [BackendChoice(name, precision) for precision in _OF_16_BITS] if model.has_weights else []
    found = [choice for precision in model.precisions for choice in _list_of_graph(model, precision)]
    folder = find_engines(model)
    engines = folder.engines() if folder is not None else ()
    found += [BackendChoice(record.backend, record.precision) for record in engines]
    return list(dict.fromkeys(found))


def _list_of_graph(model: Model, precision: Precision) -> list[BackendChoice]:
    """The reference backend of graphs comes first."""
    found, mixed = [], []
    for backend in sorted(list_backends(), key=lambda one: one is not get_reference("graph")):
        if backend.artifact == "engine":
            continue
        for asked in backend.find_verified(model.precisions, precision):
            choice = BackendChoice(backend.name, asked)
            of_weights = backend.artifact == "weights"
            if backend.exists(asked) and (not of_weights or model.has_weights or choice == true_fp16()):
                found.append(choice)
        offered = [one for one in backend.mixed if one.precision == precision and model.bundle is not None]
        mixed += [one for one in offered if why_not_candidate(model, one) is None]
    return found + mixed


def list_not_run(model: Model, choices: Sequence[BackendChoice] | None = None) -> list[NotRun]:
    """What of a model this machine cannot verify, and why: backends that are absent, engines without their GPU.

    Args:
        model: what to look at.
        choices: look at these only.
    """
    missing = []
    for choice in list_candidates(model):
        if (choices is not None and choice not in choices) or get_backend(choice.backend).artifact == "engine":
            continue
        reason = why_not_candidate(model, choice)
        if reason is not None:
            missing.append(NotRun(what=str(choice), reason=reason))
    folder = find_engines(model)
    for record in folder.engines() if folder is not None else ():
        choice = BackendChoice(record.backend, record.precision)
        reason = why_not_candidate(model, choice)
        if reason is not None and (choices is None or choice in choices):
            what = f"{choice} {record.engine.file} ({record.target})"
            missing.append(NotRun(what=what, file=record.engine.file, reason=reason))
    return missing


def true_fp16() -> BackendChoice:
    """What accompanies every FP16 graph; `open_candidate` decides who computes it."""
    return BackendChoice(get_reference("weights").name, "fp16")


def runs_rounded(model: Model, choice: BackendChoice) -> bool:
    """Whether `choice` asks for true FP16 arithmetic that PyTorch cannot give of this model."""
    if choice != true_fp16() or "fp16" not in model.precisions:
        return False
    record = model.bundle.manifest.graph("fp16") if model.bundle is not None else None
    return not model.has_weights or (record is not None and bool(record.planned_fp32))


def why_not_candidate(model: Model, choice: BackendChoice) -> str | None:
    """Why this machine cannot verify with `choice`; None if it can."""
    return None if runs_rounded(model, choice) else why_not_runnable(model, choice)


def open_candidate(model: Model, choice: BackendChoice) -> Runner:
    """Open what verifies with `choice`; a graph of a bundle that a backend refuses, though it runs here, is at fault.

    Raises:
        BackendError: the choice does not run here.
        DamagedBundleError: it does, and a file of the bundle does not load.
    """
    reason = why_not_candidate(model, choice)
    if reason is not None:
        raise BackendError(reason)
    try:
        if not runs_rounded(model, choice):
            return open_runner(model, choice)
        reference = get_reference("graph")
        return reference.open(model, BackendChoice(reference.name, "fp16"), RunOptions(arithmetic="rounded"))
    except OutOfMemoryError:
        raise
    except BackendError as error:
        if model.bundle is None:
            raise
        raise DamagedBundleError(str(error)) from error


def name_backend(choice: BackendChoice, spec: RunnerSpec) -> str:
    """How a certificate calls who computed: the choice, or what stood in for it, as in `onnxruntime:fp16 rounded`."""
    return f"{spec} rounded" if choice == true_fp16() and ROUNDED in spec.rewrites else str(choice)
