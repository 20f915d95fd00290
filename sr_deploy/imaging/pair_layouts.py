"""Folders that hold low-resolution pictures beside their originals, as published sets are laid out.

`HR/` with `LR_bicubic/X4/`, `DIV2K_train_HR/` with `DIV2K_train_LR_bicubic/X4/`, or `a_HR.png` beside `a_LR.png`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from sr_deploy.errors import InputError
from sr_deploy.imaging.pairs import HIGH_MARK, LOW_MARK, find_partners, strip_marks

_HR_FOLDER = re.compile(r"(.*[_-])?(?:HR|GT)", re.IGNORECASE)
_LR_FOLDER = re.compile(r"(.*[_-])?(?:LR|LQ)(?:[_-].*|[_-]?x?\d+)?", re.IGNORECASE)
_SCALE_FOLDER = re.compile(r"x?(\d+)", re.IGNORECASE)
_SCALE_IN_NAME = re.compile(r"[_-]?x(\d+)$|(?:LR|LQ)(\d+)$", re.IGNORECASE)


@dataclass(frozen=True)
class SplitFolder:
    """The pictures of a folder."""

    originals: tuple[Path, ...]
    partners: dict[Path, Path]
    """Low-resolution pictures of that scale, by original."""
    left_aside: int
    """Low-resolution pictures beside their originals, those in `partners` too: none is an original."""


def split_folder(folder: Path, paths: Sequence[Path], scale: int) -> SplitFolder:
    """Tell originals from the low-resolution pictures that a folder may hold beside them.

    Args:
        folder: what is looked at; folders above it do not count.
        paths: its pictures, at any depth.
        scale: whose pictures are partners; those of other scales are left aside alone.

    Raises:
        InputError: an original without exactly one partner, or several folders of that scale.
    """
    places = {path.parent for path in paths}
    inside = {one for place in places for one in (place, *place.parents) if one.is_relative_to(folder)} - {folder}
    low = {one: high for one in inside if (high := _find_hr(one, inside)) is not None}
    marked = {(path.parent, strip_marks(path)) for path in paths if HIGH_MARK.search(path.stem)}
    of_lr = {place for place in places if any(one in low for one in (place, *place.parents))}
    smalls = {
        path
        for path in paths
        if path.parent in of_lr or (LOW_MARK.search(path.stem) and (path.parent, strip_marks(path)) in marked)
    }
    originals = [path for path in paths if path not in smalls]
    partners: dict[Path, Path] = {}
    for hr in sorted(set(low.values())):
        found = [one for lr in sorted(low) if low[lr] == hr for one in _of_scale(lr, inside, scale)]
        if len(found) > 1:
            names = ", ".join(str(one.relative_to(folder)) for one in found)
            raise InputError(
                f"{folder} holds more than one folder of x{scale} beside {hr.name}: {names}; name one as "
                f"data.lr_folder, and {hr} as data.folder"
            )
        if found:
            partners |= find_partners([path for path in originals if hr in path.parents], hr, found[0], scale)
    for place in sorted({path.parent for path in smalls} - of_lr):
        here = {strip_marks(path) for path in smalls if path.parent == place}
        wanted = [path for path in originals if path.parent == place and strip_marks(path) in here]
        partners |= find_partners(wanted, place, place, scale, recursive=False)
    return SplitFolder(tuple(originals), partners, len(smalls))


def _find_hr(lr: Path, folders: set[Path]) -> Path | None:
    """The folder of originals beside a folder that is named as one of low resolution."""
    name = _LR_FOLDER.fullmatch(lr.name)
    if name is None:
        return None
    beside = [one for one in folders if one.parent == lr.parent and (match := _HR_FOLDER.fullmatch(one.name))
              and (match.group(1) or "").lower() == (name.group(1) or "").lower()]  # fmt: skip
    return beside[0] if len(beside) == 1 else None


def _of_scale(lr: Path, folders: set[Path], scale: int) -> list[Path]:
    """What of a folder of low resolution is of that scale: one folder in it for each scale, or all of it."""
    inner = {one: match for one in folders if one.parent == lr and (match := _SCALE_FOLDER.fullmatch(one.name))}
    if inner:
        return [one for one, match in inner.items() if int(match.group(1)) == scale]
    said = _SCALE_IN_NAME.search(lr.name)
    return [lr] if said is None or int(said.group(1) or said.group(2)) == scale else []
