"""True FP16 arithmetic of a graph: PyTorch's where it says something about the graph, else the graph's own.

PyTorch in FP16 runs the whole network in FP16. Of a graph with layers planned in FP32 that says nothing, and a graph
without PyTorch weights has none. Such a graph is run itself, each 16-bit result rounded.
"""

from __future__ import annotations

from sr_deploy.backends import BackendChoice
from sr_deploy.backends.description import RunOptions
from sr_deploy.backends.registry import get_reference
from sr_deploy.graph.rounded import ROUNDED
from sr_deploy.model import Model
from sr_deploy.runners import open_runner, why_not_runnable
from sr_deploy.runners.protocol import Runner, RunnerSpec


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
    """Open what verifies with `choice`.

    Raises:
        BackendError: the choice does not run here.
    """
    if not runs_rounded(model, choice):
        return open_runner(model, choice)
    reference = get_reference("graph")
    return reference.open(model, BackendChoice(reference.name, "fp16"), RunOptions(arithmetic="rounded"))


def name_backend(choice: BackendChoice, spec: RunnerSpec) -> str:
    """How a certificate calls who computed: the choice, or what stood in for it, as in `onnxruntime:fp16 rounded`."""
    return f"{spec} rounded" if choice == true_fp16() and ROUNDED in spec.rewrites else str(choice)
