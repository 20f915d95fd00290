"""The fastest of several choices on this machine: measured once, then remembered."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from importlib import metadata
from typing import Literal

from sr_deploy.backends import BackendChoice
from sr_deploy.backends.registry import get_backend, list_for_auto
from sr_deploy.bundle import utc_now
from sr_deploy.cache import cache_folder, keep, key_of, read_kept
from sr_deploy.config import Document
from sr_deploy.deps import installed_version
from sr_deploy.errors import BackendError
from sr_deploy.files import sha256_of
from sr_deploy.measure.machine import describe_machine
from sr_deploy.model import Model
from sr_deploy.runners.choose import why_not_runnable
from sr_deploy.runners.threads import default_threads

KIND = "choice"
"""Under which answers are kept."""

_LOG = logging.getLogger(__name__)
_LOCK = threading.Lock()


class Question(Document):
    """What the fastest choice depends on."""

    artifacts: tuple[str, ...]
    """Hashes of the model's files."""
    candidates: tuple[str, ...]
    """Choices among which to find it, as in `openvino:int8`."""
    versions: dict[str, str | None]
    """Of the backends' libraries and of sr-deploy."""
    cpu: str
    cpu_features: tuple[str, ...]
    """Its instruction sets that matter for convolutions."""
    cores: int
    """Cores that the process may use."""
    threads: int
    """Threads that each backend gets."""
    gpu: str | None = None
    """Name of the GPU that computes; None: the processor does."""


class Answer(Document):
    """What was measured."""

    schema_version: Literal[1] = 1
    """Raised when a reader of an older version could misread the file."""
    question: Question
    """What it depends on."""
    chosen: str
    """The fastest; the most precise of those that are as fast."""
    shape: str
    """Input that was computed, `NxHxW`."""
    milliseconds: dict[str, float]
    """Time of the quickest call; a choice that was dropped early had fewer calls."""
    failed: dict[str, str]
    """Choices that did not open or compute, and why."""
    measured_at: str
    """UTC, ISO 8601."""


def find_fastest(
    model: Model,
    candidates: Sequence[BackendChoice],
    *,
    device: str | None = None,
    threads: int | None = None,
    gpu: str | None = None,
    explain: Callable[[], Sequence[str]] = tuple,
) -> BackendChoice:
    """The fastest of `candidates` for tiles of a picture.

    What was measured before is remembered by model, machine, versions and threads. Else it is measured, which takes
    some seconds, and one line of the log says what came of it.

    Args:
        model: a graph, or a bundle.
        candidates: at least one; each runs here.
        device: as for `open_runner`.
        threads: as for `open_runner`.
        gpu: name of the GPU that computes; None: the processor does.
        explain: asked, when it is measured, what else to say in that line.

    Raises:
        BackendError: none of them computes this model.
    """
    if len(candidates) == 1:
        return candidates[0]
    answer, notes = ask_fastest(model, candidates, device=device, threads=threads, gpu=gpu)
    if notes is not None:
        _LOG.info("%s", "; ".join([_describe(answer), *notes, *explain()]))
    return next(choice for choice in candidates if str(choice) == answer.chosen)


def ask_fastest(
    model: Model,
    candidates: Sequence[BackendChoice],
    *,
    device: str | None = None,
    threads: int | None = None,
    gpu: str | None = None,
) -> tuple[Answer, list[str] | None]:
    """How fast each of `candidates` is: remembered, or measured and remembered.

    Args:
        model: a graph, or a bundle.
        candidates: at least one; each runs here.
        device: as for `open_runner`.
        threads: as for `open_runner`.
        gpu: as for `find_fastest`.

    Returns:
        The times, and where they were measured now what to say of keeping them; None: they were remembered.

    Raises:
        BackendError: none of them computes this model.
    """
    question = _ask(model, candidates, threads, gpu)
    key = key_of(question.model_dump())
    with _LOCK:  # others wait for the answer: measured side by side, all would be slow
        answer, trouble = read_kept(KIND, key, Answer)
        if answer is not None and answer.question == question and answer.chosen in question.candidates:
            return answer, None
        answer = _measure(model, candidates, question, device, threads)
        not_kept = keep(KIND, key, answer)
        kept = [] if not_kept else [f"remembered in {cache_folder()}"]
        return answer, [*kept, *filter(None, (trouble, not_kept))]


def _measure(
    model: Model, candidates: Sequence[BackendChoice], question: Question, device: str | None, threads: int | None
) -> Answer:
    from sr_deploy.runners.autotune import autotune

    result = autotune(model, candidates, device=device, threads=threads)
    return Answer(
        question=question,
        chosen=str(result.winner),
        shape=str(result.shape),
        milliseconds=result.milliseconds,
        failed=result.failed,
        measured_at=utc_now(),
    )


def _describe(answer: Answer) -> str:
    failures = [f"{choice} failed: {reason}" for choice, reason in answer.failed.items()]
    told = ", ".join([describe_times(answer.milliseconds), *failures])
    slower = describe_slow_int8(answer.milliseconds)
    said = f"--backend auto measured {told} on {answer.shape}: it takes {answer.chosen}"
    return f"{said}; {slower}" if slower else said


def measure_int8_pace(model: Model) -> str:
    """How fast INT8 is on this CPU beside FP32 and BF16, and whether that is worth it, in one line.

    Takes some seconds. BF16 is what the FP32 graph is computed in here, exported or not.

    Args:
        model: has an INT8 graph and an FP32 one.

    Returns:
        Empty where INT8 does not run here, or nothing that it could be compared with.
    """
    from sr_deploy.runners.autotune import autotune

    first, *others = (backend for backend in list_for_auto("cpu") if backend.artifact == "graph")
    wanted = [*first.auto["cpu"].reduced, BackendChoice(first.name)]
    wanted += [choice for backend in others for choice in backend.auto["cpu"].reduced]
    runnable = [choice for choice in wanted if why_not_runnable(model, choice) is None]
    precisions = {choice.precision for choice in runnable}
    if "int8" not in precisions or len(precisions) < 2:
        return ""
    try:
        result = autotune(model, runnable)
    except BackendError:
        return ""
    slower = describe_slow_int8(result.milliseconds)
    told = f"pace on this CPU, {result.shape}: {describe_times(result.milliseconds)}"
    return f"{told}; {slower}" if slower else told


def describe_times(milliseconds: Mapping[str, float]) -> str:
    """As in `openvino:int8 12.3 ms, openvino:fp32 1.2 s`."""
    return ", ".join(f"{choice} {_format_ms(ms)}" for choice, ms in milliseconds.items())


def describe_slow_int8(milliseconds: Mapping[str, float]) -> str:
    """That INT8 is slower than BF16 on this machine, with both times; empty where it is not, or one was not timed.

    Args:
        milliseconds: by choice, as in `openvino:int8`.
    """
    in_int8 = [(ms, choice) for choice, ms in milliseconds.items() if ":int8" in choice]
    in_bf16 = [(ms, choice) for choice, ms in milliseconds.items() if choice.endswith(":bf16")]
    if not in_int8 or not in_bf16 or min(in_int8) <= min(in_bf16):
        return ""
    (ms, choice), (other_ms, other) = min(in_int8), min(in_bf16)
    return f"INT8 is slower than BF16 here: {choice} {_format_ms(ms)}, {other} {_format_ms(other_ms)}"


def _format_ms(milliseconds: float) -> str:
    return f"{milliseconds:.3g} ms" if milliseconds < 1000 else f"{milliseconds / 1000:.3g} s"


def _ask(model: Model, candidates: Sequence[BackendChoice], threads: int | None, gpu: str | None) -> Question:
    machine = describe_machine()
    if model.bundle is not None:
        manifest = model.bundle.manifest
        hashes = [record.sha256 for record in (manifest.reference, *manifest.graphs)]
    else:
        hashes = [sha256_of(model.weights_path or model.path)]
    backends = sorted({choice.backend for choice in candidates})
    versions = {backend: installed_version(get_backend(backend).package) for backend in backends}
    return Question(
        artifacts=tuple(hashes),
        candidates=tuple(map(str, candidates)),
        versions={**versions, "sr-deploy": metadata.version("sr-deploy")},
        cpu=machine.cpu,
        cpu_features=machine.features,
        cores=machine.cores,
        threads=threads or default_threads(),
        gpu=gpu,
    )
