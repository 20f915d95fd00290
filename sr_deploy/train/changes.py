"""What a run that goes on finds changed: recipe, pictures. What changes the mathematics gets into the run's history."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Collection, Sequence
from pathlib import Path

from sr_deploy.errors import TrainingError
from sr_deploy.run_folder import RECIPE_NAME, find_last_checkpoint
from sr_deploy.train.headers import FileHeader
from sr_deploy.train.recipe import Difference, Recipe, find_differences, read_run_recipe
from sr_deploy.train.run import Change, RunManifest

_LOG = logging.getLogger(__name__)
_NAMED = 5
_PICTURES = "pictures"
"""Stands for a key where the history tells how many there were and are."""


def find_changes(recipe: Recipe, run: Path, allowed: Collection[str]) -> list[Difference]:
    """What differs in the recipe that a run is to go on with, from the one that it has.

    Args:
        recipe: to go on with.
        run: the run's folder.
        allowed: keys that may change the mathematics, or the sections that they are in.

    Raises:
        TrainingError: something else differs, or what no run can change; the message names it.
    """
    differences = find_differences(read_run_recipe(run / RECIPE_NAME), recipe)
    if fixed := [one for one in differences if one.is_fixed]:
        raise TrainingError(
            f"cannot resume {run} with {_join(fixed)}: a run keeps its network and number formats; start a new run, "
            "from the weights of this one with --from"
        )
    if others := [one for one in differences if not one.is_place and not _is_allowed(one.key, allowed)]:
        raise TrainingError(
            f"cannot resume {run} with another recipe: {_join(others)}; leave the recipe as it was, or ask for each "
            f"change, as with --set {others[0].key}=VALUE: it is then kept in the run's history"
        )
    return differences


def record_changes(manifest: RunManifest, run: Path, differences: Sequence[Difference]) -> RunManifest:
    """The manifest with those differences in its history that change the mathematics, from the last checkpoint on."""
    step = _last_step(run)
    changes = [Change(step=step, key=one.key, old=one.old, new=one.new) for one in differences if not one.is_place]
    for one in changes:
        _LOG.info("from step %d on, %s is %r instead of %r", step, one.key, one.new, one.old)
    return manifest.model_copy(update={"history": (*manifest.history, *changes)})


def record_pictures(
    manifest: RunManifest,
    run: Path,
    before: Sequence[FileHeader] | None,
    now: Sequence[FileHeader],
    fingerprint: str,
    *,
    any_pictures: bool,
) -> RunManifest:
    """The manifest of a run whose pictures may have changed; a line names those that were added or lost.

    Args:
        manifest: as it was.
        run: the run's folder.
        before: what was kept of the pictures; None: nothing.
        now: those that will be drawn.
        fingerprint: of these.
        any_pictures: whether none of them has to be known, as where another folder was asked for.

    Raises:
        TrainingError: all pictures are others.
    """
    if fingerprint == manifest.data_sha256:
        return manifest
    added, lost = _subtract(now, before or ()), _subtract(before or (), now)
    if before and len(lost) == len(before) and not any_pictures:
        raise TrainingError(
            f"cannot resume {run}: none of the {len(before)} pictures that it was trained on is there any more, as "
            f"{before[0].path}; bring them back, or ask for other ones with --data DIR"
        )
    parts = [f"{len(found)} {verb} ({_name(found)})" for verb, found in (("lost", lost), ("added", added)) if found]
    what = " and ".join(parts) if before and parts else "their names, sizes or order differ"
    _LOG.warning("pictures are not those of before: %s; from now on %d are drawn from", what, len(now))
    change = Change(step=_last_step(run), key=_PICTURES, old=None if before is None else len(before), new=len(now))
    return manifest.model_copy(update={"data_sha256": fingerprint, "history": (*manifest.history, change)})


def _subtract(headers: Sequence[FileHeader], others: Sequence[FileHeader]) -> list[FileHeader]:
    """Files that the others do not have, wherever they lie."""
    left = Counter(one.identity for one in others)
    missing = []
    for one in headers:
        if left[one.identity]:
            left[one.identity] -= 1
        else:
            missing.append(one)
    return missing


def _name(headers: Sequence[FileHeader]) -> str:
    more = f" and {len(headers) - _NAMED} more" if len(headers) > _NAMED else ""
    return ", ".join(one.path for one in headers[:_NAMED]) + more


def _is_allowed(key: str, allowed: Collection[str]) -> bool:
    return any(key == one or key.startswith(f"{one}.") for one in allowed)


def _last_step(run: Path) -> int:
    last = find_last_checkpoint(run)
    return last[0] if last is not None else 0


def _join(differences: Sequence[Difference]) -> str:
    return "; ".join(map(str, differences))
