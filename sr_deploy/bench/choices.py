"""Candidates: a backend in a precision, and the ways in which the same network may be run besides."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sr_deploy.backends import BackendChoice
from sr_deploy.backends.description import DEFAULT_LAYOUT, Variant
from sr_deploy.backends.registry import (
    get_backend,
    get_reference,
    list_backends,
    list_choices,
    list_mixed,
    parse_backend,
)
from sr_deploy.bench.report import LeftOut
from sr_deploy.errors import BackendError, InputError
from sr_deploy.gpus import visible_gpus
from sr_deploy.model import Model
from sr_deploy.runners import why_not_runnable
from sr_deploy.runners.choose import find_graph_precision

FIXED = "fixed"
"""Variant of a graph or an engine for the timed shape alone."""


@dataclass(frozen=True)
class CandidateChoice:
    """Who takes part, written `openvino:fp32` or `openvino:fp32+fixed`."""

    backend: BackendChoice
    """Who computes, in which precision."""
    variant: str | None = None
    """None: as `sr-deploy upscale` runs it."""

    def __str__(self) -> str:
        return f"{self.backend}+{self.variant}" if self.variant else str(self.backend)


def parse_candidate(text: str) -> CandidateChoice:
    """Read `NAME[:PRECISION][+VARIANT]`.

    Raises:
        InputError: unknown backend, precision or variant; the message lists those known.
    """
    own_plus = next((str(one) for one in list_mixed() if text == str(one) or text.startswith(f"{one}+")), "")
    name, plus, wanted = text[len(own_plus) :].partition("+")
    backend = parse_backend(own_plus + name)
    if not plus:
        return CandidateChoice(backend)
    known = dict.fromkeys(variant.name for one in list_backends() for variant in one.variants)
    if wanted not in known:
        raise InputError(f"unknown variant {wanted!r} in {text!r}; known: {', '.join(known)}")
    return CandidateChoice(backend, wanted)


def choose_candidates(
    model: Model, choices: Sequence[CandidateChoice] | None
) -> tuple[list[CandidateChoice], list[LeftOut]]:
    """Who runs, the baseline first, and who does not and why.

    Raises:
        BackendError: the baseline does not run here.
    """
    baseline = find_baseline(model)
    reason = why_not_timed(model, baseline)
    if reason is not None:
        raise BackendError(f"the baseline does not run: {reason}")
    wanted = _all_candidates() if choices is None else list(dict.fromkeys(choices))
    if choices is None:
        wanted = [choice for choice in wanted if _is_telling(model, choice)]
    running, left_out = [baseline], []
    for choice in wanted:
        reason = why_not_timed(model, choice) or (_why_left_out(choice) if choices is None else None)
        if reason is not None:
            left_out.append(LeftOut(candidate=str(choice), reason=reason))
        elif choice != baseline:
            running.append(choice)
    return running, left_out


def find_baseline(model: Model) -> CandidateChoice:
    """PyTorch in fp32 in its default memory layout, or the reference backend of graphs with the graph there is."""
    if model.has_weights or not model.precisions:
        return CandidateChoice(BackendChoice(get_reference("weights").name), DEFAULT_LAYOUT)
    return CandidateChoice(BackendChoice(get_reference("graph").name, model.precisions[0]))


def why_not_timed(model: Model, choice: CandidateChoice) -> str | None:
    """Why this machine cannot run it, in one line with the way out; None if it can."""
    if choice.variant is not None:
        variant = _find_variant(choice)
        if variant is None:
            owners = [one.name for one in list_backends() if any(own.name == choice.variant for own in one.variants)]
            return f"{choice} does not exist: +{choice.variant} is of {' and '.join(owners)}; leave it out"
        reason = variant.why_not(choice.backend)
        if reason is not None:
            return f"{choice} {reason}"
        if variant.makes_artifact and visible_gpus():
            return None
    return why_not_runnable(model, choice.backend)


def _find_variant(choice: CandidateChoice) -> Variant | None:
    """What its plus means; None: nothing, or nothing in this precision."""
    able = (one for one in get_backend(choice.backend.backend).variants if choice.backend.precision in one.precisions)
    return next((one for one in able if one.name == choice.variant), None)


def _all_candidates() -> list[CandidateChoice]:
    plain = list_choices()
    varied = [
        CandidateChoice(choice, variant.name)
        for backend in list_backends()
        for variant in backend.variants
        if variant.is_listed()
        for choice in plain
        if choice.backend == backend.name
    ]
    default = CandidateChoice(BackendChoice(get_reference("weights").name), DEFAULT_LAYOUT)
    return [default, *map(CandidateChoice, plain), *varied]


def _why_left_out(choice: CandidateChoice) -> str | None:
    variant = _find_variant(choice)
    own = None if variant is None else variant.why_left_out
    reason = own or get_backend(choice.backend.backend).why_untimed(choice.backend)
    return None if reason is None else f"{reason}; to time it all the same: --backend {choice}"


def _is_telling(model: Model, choice: CandidateChoice) -> bool:
    """Whether a reader misses it: not a precision that the model has no graph of, nor one that exists nowhere."""
    backend, precision = get_backend(choice.backend.backend), choice.backend.precision
    if not backend.exists(precision):
        return False
    if backend.artifact == "weights":
        return choice.variant is None or precision not in backend.slow or bool(visible_gpus())
    stored = find_graph_precision(model, choice.backend)
    return stored != precision or stored in model.precisions
