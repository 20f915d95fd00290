"""Which picture of a folder becomes which file of another one."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from sr_deploy.errors import InputError
from sr_deploy.imaging.codec import UPSCALE_SUFFIXES, list_images
from sr_deploy.imaging.formats import output_suffixes


@dataclass(frozen=True)
class Item:
    """One picture of a folder."""

    source: Path
    """To read."""
    name: str
    """Path within the folder of the sources."""
    target: Path
    """To write."""


def plan_folder(source: Path, target: Path, suffix: str | None) -> list[Item]:
    """Which picture becomes which file.

    Where two would become the same (`a.jpg` and `a.png` as PNG), the one that has this ending already keeps the name
    and the others get theirs in front of it: `a.jpg.png`.

    Raises:
        InputError: no such folder, no picture in it, both are the same folder, or a suffix that cannot be written.
    """
    if suffix is not None and suffix not in output_suffixes():
        raise InputError(f"unknown format {suffix.lstrip('.')!r}; known: {', '.join(output_suffixes())}")
    if target.suffix.lower() in output_suffixes() and not target.is_dir():
        raise InputError(f"{source} is a folder, but {target} is the name of a picture; give a folder for the results")
    found = list_images(source, UPSCALE_SUFFIXES)
    if target.exists() and target.samefile(source):
        raise InputError(f"{target} holds the pictures to read; give another folder for the results")
    if target.resolve().is_relative_to(source.resolve()):
        found = [path for path in found if not path.resolve().is_relative_to(target.resolve())]
    if not found:
        raise InputError(f"{source} holds no pictures; known endings: {', '.join(sorted(UPSCALE_SUFFIXES))}")
    names = [path.relative_to(source) for path in found]
    wanted = [_with_suffix(name, suffix) for name in names]
    counts: dict[Path, int] = {}
    for name in wanted:
        counts[name] = counts.get(name, 0) + 1
    items = []
    for path, name, result in zip(found, names, wanted, strict=True):
        apart = counts[result] > 1 and name != result
        final = name.with_name(name.name + result.suffix) if apart else result
        items.append(Item(path, name.as_posix(), target / final))
    return items


def _with_suffix(name: Path, suffix: str | None) -> Path:
    if suffix is None:
        return name if name.suffix.lower() in output_suffixes() else name.with_suffix(".png")
    return name.with_suffix(suffix)
