"""Names of the output files of a folder job."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from sr_deploy.errors import InputError
from sr_deploy.imaging.codec import list_images
from sr_deploy.imaging.formats import IMAGE_SUFFIXES, OUTPUT_SUFFIXES
from sr_deploy.names import fold_name, tells_capitals_apart


@dataclass(frozen=True)
class Item:
    """One picture of a folder."""

    source: Path
    name: str
    """Path within the folder of the sources."""
    target: Path

    @property
    def folder(self) -> Path:
        """Of all results."""
        return self.target.parents[self.name.count("/")]


def plan_folder(source: Path, target: Path, suffix: str | None) -> list[Item]:
    """Which picture becomes which file.

    Where two would become the same (`a.jpg` and `a.png` as PNG), the one that has this ending already keeps the name
    and the others get theirs in front of it: `a.jpg.png`.

    Raises:
        InputError: no such folder, no picture in it, both are the same folder, or a suffix that cannot be written.
    """
    if suffix is not None and suffix not in OUTPUT_SUFFIXES:
        raise InputError(f"unknown format {suffix.lstrip('.')!r}; known: {', '.join(OUTPUT_SUFFIXES)}")
    if target.suffix.lower() in OUTPUT_SUFFIXES and not target.is_dir():
        raise InputError(f"{source} is a folder, but {target} is the name of a picture; give a folder for the results")
    found = list_images(source, IMAGE_SUFFIXES)
    if target.exists() and target.samefile(source):
        raise InputError(f"{target} holds the pictures to read; give another folder for the results")
    if target.resolve().is_relative_to(source.resolve()):
        found = [path for path in found if not path.resolve().is_relative_to(target.resolve())]
    if not found:
        raise InputError(f"{source} holds no pictures; known endings: {', '.join(sorted(IMAGE_SUFFIXES))}")
    names = [path.relative_to(source) for path in found]
    wanted = [_with_suffix(name, suffix) for name in names]
    counts = Counter(map(fold_name, wanted))  # results may be copied to where `a.png` and `A.png` are one file
    items = []
    for path, name, result in zip(found, names, wanted, strict=True):
        apart = counts[fold_name(result)] > 1 and name != result
        final = name.with_name(name.name + result.suffix) if apart else result
        items.append(Item(path, name.as_posix(), target / final))
    return items


def list_output_keys(items: Sequence[Item], folder: Path) -> list[str]:
    """A key for the output path of each item; keys are equal where the file system would have one file.

    Args:
        items: as planned.
        folder: of the results; it is there.
    """
    targets = [item.target.resolve() for item in items]
    folded = [fold_name(target) for target in targets]
    plain = [str(target) for target in targets]
    if len(set(folded)) == len(set(plain)):
        return plain
    try:
        return plain if tells_capitals_apart(folder) else folded
    except OSError:
        return folded  # nothing can be written there: the write fails with the reason


def _with_suffix(name: Path, suffix: str | None) -> Path:
    if suffix is None:
        return name if name.suffix.lower() in OUTPUT_SUFFIXES else name.with_suffix(".png")
    return name.with_suffix(suffix)
