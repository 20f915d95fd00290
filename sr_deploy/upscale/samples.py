"""What pictures a runner takes."""

from __future__ import annotations

import numpy as np

from sr_deploy.errors import ShapeError
from sr_deploy.runners.protocol import RunnerSpec


def require_samples(spec: RunnerSpec, shape: tuple[int, ...], dtype: np.dtype[np.generic]) -> None:
    """Refuse samples that are no picture for a runner.

    Raises:
        ShapeError: another number of axes or channels, another type, no pixel, or 16 bit for ends of 8.
    """
    if dtype not in (np.uint8, np.uint16) or len(shape) != 3 or shape[2] not in (1, spec.channels):
        channels = "3 (or 1: gray)" if spec.channels == 3 else str(spec.channels)
        told = " x ".join(map(str, shape)) or "no axes"
        raise ShapeError(f"{spec} takes 8- and 16-bit pictures H x W x {channels}, not {told} of {dtype}")
    if min(shape) < 1:
        raise ShapeError(f"a picture needs at least one pixel, not {shape[1]}x{shape[0]}")
    if dtype == np.uint16 and spec.dtype == "uint8":
        raise ShapeError(
            f"{spec} has ends of 8 bit ({spec.artifact}) and would lose what a 16-bit picture has more; convert "
            "the picture, or export without --ends uint8"
        )
