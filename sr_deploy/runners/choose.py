"""Which runners a model has on this machine, and the one that is asked for. Nothing heavy is imported to answer."""

from __future__ import annotations

from pathlib import Path

from sr_deploy.backends import BackendChoice, Precision
from sr_deploy.backends.builders import sdk_version
from sr_deploy.backends.description import RunOptions
from sr_deploy.backends.registry import get_backend, list_choices, parse_backend
from sr_deploy.bundle import EngineRecord
from sr_deploy.deps import is_installed
from sr_deploy.errors import BackendError
from sr_deploy.gpus import visible_gpus
from sr_deploy.model import Model, open_model
from sr_deploy.runners.engines import find_engine, find_engine_folder, make_search
from sr_deploy.runners.protocol import Runner


def open_runner(
    model: Model | Path | str,
    choice: BackendChoice | str,
    *,
    device: str | None = None,
    threads: int | None = None,
    rewrite: bool = True,
) -> Runner:
    """Load a model into a backend.

    Args:
        model: what to run, or its path.
        choice: as in `openvino:bf16`; without a precision it is fp32.
        device: `cpu` or `cuda:0`; None: the GPU where the backend has one, else the CPU. What was asked for is what
            runs, or an error.
        threads: of the CPU; None: one a core (torch is left as it is: the number holds for the whole process).
        rewrite: let ONNX Runtime and OpenVINO on a CPU have an FP32 graph in the form that they run fastest, the same
            within rounding (docs/graph.md); `runner.spec.rewrites` says what was done. False: as it is in the file.

    Returns:
        The runner; `runner.spec.device` says where it runs. Use it as a context manager.

    Raises:
        BackendError: this backend, precision or device does not run here; the message says why.
        OutOfMemoryError: a graph that takes one size only needs more memory for it than there is.
        InputError: there is no such model.
    """
    if not isinstance(model, Model):
        model = open_model(Path(model))
    if isinstance(choice, str):
        choice = parse_backend(choice)
    reason = why_not_runnable(model, choice)
    if reason is not None:
        raise BackendError(reason)
    options = RunOptions(device=device, threads=threads, rewrite=rewrite)
    return get_backend(choice.backend).open(model, choice, options)


def runnable_choices(model: Model) -> list[BackendChoice]:
    """What this machine can run of this model, in the order of the backends and of `PRECISIONS`."""
    return [choice for choice in list_choices() if why_not_runnable(model, choice) is None]


def why_not_runnable(model: Model, choice: BackendChoice) -> str | None:
    """Why this machine cannot run `model` so, in one line with the way out; None if it can."""
    backend = get_backend(choice.backend)
    if backend.artifact == "engine" and not visible_gpus():
        return f"{choice} needs an NVIDIA GPU, and this machine shows none; use a machine that has one"
    package = backend.package
    if not is_installed(package.module):
        return f"{choice} needs {package.module}, which is not installed; run: {package.install}"
    if not backend.exists(choice.precision):
        return backend.why_absent(choice)
    return _why_no_artifact(model, choice) or backend.why_not_here(choice)


def find_graph_precision(model: Model, choice: BackendChoice) -> Precision:
    """Precision of the ONNX graph that a choice runs."""
    return get_backend(choice.backend).find_stored(model.precisions, choice.precision)


def _why_no_artifact(model: Model, choice: BackendChoice) -> str | None:
    artifact = get_backend(choice.backend).artifact
    if artifact == "engine":
        return _why_not_engine(model, choice)
    if artifact == "graph":
        return _why_no_graph(model, choice, find_graph_precision(model, choice))
    if not model.has_weights:
        return f"{choice} needs PyTorch weights, and {model.path} has none: give the checkpoint or a bundle"
    return None


def _why_no_graph(model: Model, choice: BackendChoice, precision: str) -> str | None:
    if precision in model.precisions:
        return None
    if not model.precisions:
        return f"{choice} needs an ONNX graph, and {model.path} has none; make a bundle with: sr-deploy export"
    return f"{choice} needs a graph in {precision}, and {model.path} has {', '.join(model.precisions)} only"


def _why_not_engine(model: Model, choice: BackendChoice) -> str | None:
    try:
        records: tuple[EngineRecord, ...] = find_engine_folder(model, choice).engines()
    except BackendError as error:
        return str(error)
    version = sdk_version(choice.backend) or ""
    reasons = []
    for gpu in visible_gpus():
        try:
            find_engine(records, make_search(model, choice, version, gpu))
        except BackendError as error:
            reasons.append(str(error))
        else:
            return None
    return reasons[0]
