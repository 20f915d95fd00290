"""When a session validates, and what comes of it: the best so far, the end of its patience."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from concurrent.futures import CancelledError
from typing import TypeVar

from sr_deploy.train.best import is_better, is_out_of_patience
from sr_deploy.train.manifest import update_manifest
from sr_deploy.train.metrics import MetricsLog
from sr_deploy.train.recipe import Recipe
from sr_deploy.train.session import Session
from sr_deploy.train.validation import validate

T = TypeVar("T")


def find_due(recipe: Recipe, step: int) -> tuple[bool, bool]:
    """Whether to validate, and whether to write a preview, after `step` updates."""
    last = step == recipe.run.steps
    return last or step % recipe.run.validate_every == 0, last or step % recipe.run.preview_every == 0


def is_complete(session: Session) -> bool:
    """Whether all steps are made and validated."""
    validated = _is_validated(session) or not session.processes.is_main
    return session.state.step == session.recipe.run.steps and validated


def make_up_validation(session: Session, log: MetricsLog | None, stop: threading.Event | None) -> None:
    """Validate before the first step what was due after the last one and was stopped."""
    step = session.state.step
    if log is not None and step and find_due(session.recipe, step)[0] and not _is_validated(session):
        validate_session(session, log, stop, ending=True)
        update_manifest(session)


def _is_validated(session: Session) -> bool:
    """Whether the present step is validated, or one after it."""
    last = session.manifest.last_validation
    return last is not None and last.step >= session.state.step


def validate_session(session: Session, log: MetricsLog, stop: threading.Event | None, *, ending: bool) -> bool | None:
    """Validate, for the manifest to be written next; gives whether it is the best so far.

    No best is while steps are being skipped, as no checkpoint is written then, unless the run ends. None in place of an
    answer: nothing came of it, because `stop` was set meanwhile; who goes on validates first.
    """
    state = session.state
    held_out = session.held_out if stop is None else _until(stop, session.held_out)
    try:
        result = validate(state.average.network, held_out, session.recipe.scale, state.step)
    except CancelledError:
        return None
    log.log_validation(result)
    session.manifest = session.manifest.model_copy(update={"last_validation": result})
    improved = is_better(result, state.best_validation, session.recipe.run) and (ending or not state.bad_in_row)
    if improved:
        state.best_validation = result
    return improved


def _until(stop: threading.Event, items: Iterable[T]) -> Iterator[T]:
    """The items; another one after `stop` is set raises CancelledError."""
    for index, item in enumerate(items):
        if index and stop.is_set():
            raise CancelledError
        yield item


def is_early(session: Session) -> bool:
    """Whether the run's patience is over; every process must call it, the first one decides."""
    state = session.state
    over = is_out_of_patience(state.step, state.best_validation, session.recipe.run)
    return session.processes.any(session.processes.is_main and over)
