"""What of a model there is to verify, and what of that this machine cannot run. No torch here."""

from __future__ import annotations

from collections.abc import Sequence

from sr_deploy.backends import BackendChoice, Precision
from sr_deploy.backends.registry import get_backend, get_reference, list_backends
from sr_deploy.bundle import NotRun
from sr_deploy.model import Model
from sr_deploy.verification.engines import find_engines
from sr_deploy.verification.fp16 import true_fp16, why_not_candidate

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
