"""Pictures that are validated on though they are trained on too: their scores say nothing of other pictures."""

from __future__ import annotations

import logging
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from sr_deploy.files import sha256_of
from sr_deploy.train.training_images import TrainingImages
from sr_deploy.untrusted import read_head

_LOG = logging.getLogger(__name__)
_NAMED = 3
_HEAD_BYTES = 1 << 14


def warn_of_overlap(trained: TrainingImages, validated: Sequence[Path]) -> None:
    """Say which pictures to validate on have the content of one to train on, whatever its name, in one line.

    Args:
        trained: with their headers read; those that cannot be used are left out.
        validated: files of the others.
    """
    used = [one for index, one in enumerate(trained.headers) if trained.find_size(index) is not None]
    found = _find_common({one.path: one.size for one in used}, validated)
    if found:
        more = f" and {len(found) - _NAMED} more" if len(found) > _NAMED else ""
        _LOG.warning(
            "of %d pictures to validate on %d are trained on too (%s%s): their scores say nothing of other pictures; "
            "validate on others with --set data.validation_folder=DIR",
            len(validated), len(found), ", ".join(map(str, found[:_NAMED])), more,
        )  # fmt: skip


def _find_common(sizes: Mapping[str, int], paths: Sequence[Path]) -> list[Path]:
    """Those of `paths` whose content another file has too; `sizes`: bytes of these, by path.

    Of a hundred thousand files few have the size of one of `paths`, fewer its first bytes (uncompressed pictures are
    all of one size), and only these are read whole. What cannot be read has no content.
    """
    ours = _measure(map(str, paths), lambda path: path.stat().st_size)
    theirs: Mapping[str, Hashable] = sizes
    for measure in (lambda path: hash(read_head(path, _HEAD_BYTES)[1]), sha256_of):
        common = set(ours.values()) & set(theirs.values())
        ours = _measure((path for path, value in ours.items() if value in common), measure)
        theirs = _measure((path for path, value in theirs.items() if value in common), measure)
    common = set(ours.values()) & set(theirs.values())
    return [Path(path) for path, value in ours.items() if value in common]


def _measure(paths: Iterable[str], measure: Callable[[Path], Hashable]) -> dict[str, Hashable]:
    found = {}
    for path in paths:
        with suppress(OSError):
            found[path] = measure(Path(path))
    return found
