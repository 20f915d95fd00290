"""What the keys and shapes of a state dict say, for the modules that know published files by them. No torch here."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence

from sr_deploy.errors import CheckpointError

Shapes = Mapping[str, tuple[int, ...]]
"""Shape of each tensor of a state dict, by key."""
_MAX_DOUBLINGS = 8


def find_shape(shapes: Shapes, key: str, rank: int) -> tuple[int, ...]:
    """Shape of a tensor that a layout cannot be read without.

    Raises:
        CheckpointError: it is missing, or has another number of axes.
    """
    if key not in shapes:
        raise CheckpointError(f"tensor {key!r} is missing")
    if len(shapes[key]) != rank:
        raise CheckpointError(f"tensor {key!r} has shape {shapes[key]}; {rank} axes were expected")
    return shapes[key]


def count_numbered(shapes: Shapes, prefix: str) -> int:
    """One more than the greatest number that follows `prefix` in a key; 0 if none does.

    Raises:
        CheckpointError: a number is greater than the count of tensors, so that others before it must be missing.
    """
    words = {key[len(prefix) :].split(".", 1)[0] for key in shapes if key.startswith(prefix)}
    numbers = [word for word in words if word.isascii() and word.isdecimal()]
    digits = len(str(len(shapes)))
    wrong = next((word for word in numbers if len(word) > digits or int(word) > len(shapes)), None)
    if wrong is not None:
        raise CheckpointError(f"a tensor is numbered {prefix}{wrong[:20]}, and there are only {len(shapes)} tensors")
    return max((int(number) + 1 for number in numbers), default=0)


def count_doublings(shapes: Shapes, prefix: str) -> int:
    """`count_numbered`, and no more than one above what any network has: the scale that comes of it is refused."""
    return min(count_numbered(shapes, prefix), _MAX_DOUBLINGS + 1)


def find_shuffle_scale(shapes: Shapes, key: str, channels: int, what: str) -> int:
    """The factor of a pixel shuffle behind a convolution that gives an image.

    Args:
        shapes: of a state dict.
        key: of the convolution's weight.
        channels: of the image.
        what: how many channels it must give, for the message, as in `scale^2 times the 3 channels that ... reads`.

    Raises:
        CheckpointError: it is missing, or gives no square number of channels for each of the image's.
    """
    outputs = find_shape(shapes, key, 4)[0]
    scale = math.isqrt(outputs // channels) if channels else 0
    if outputs != channels * scale**2:
        raise CheckpointError(f"tensor {key!r} gives {outputs} channels; {what}")
    return scale


def rename_by(*rules: tuple[str, str]) -> Callable[[Shapes], dict[str, str]]:
    """The renaming of a layout by patterns, of which the first one that is found in a key counts.

    Args:
        rules: a regular expression, and what takes the place of what it matches.
    """

    def rename(shapes: Shapes) -> dict[str, str]:
        return {key: _apply_rules(key, rules) for key in shapes}

    return rename


def _apply_rules(key: str, rules: Sequence[tuple[str, str]]) -> str:
    for pattern, replacement in rules:
        renamed, count = re.subn(pattern, replacement, key)
        if count:
            return renamed
    return key


def keep_names(shapes: Shapes) -> dict[str, str]:
    """The renaming of a layout whose keys are ours."""
    return {key: key for key in shapes}
