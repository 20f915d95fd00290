"""What refuses a file by how it is built, before samples are decoded."""

from __future__ import annotations

from pathlib import Path

from sr_deploy.errors import ImageError

_USUAL_SCANS = 100
_MAX_SCANNED = 20_000_000_000
"""Pixels times scans."""


def refuse_animation(path: Path, head: bytes) -> None:
    """Refuse an animated PNG, by its chunks before the samples.

    Raises:
        ImageError: there is a chunk that controls an animation.
    """
    if b"acTL" in head[: head.find(b"IDAT")]:
        raise ImageError(f"{path} is animated (APNG); give a file with one picture")


def refuse_scans(path: Path, width: int, height: int, content: bytes) -> None:
    """Refuse a progressive JPEG that passes over its pixels hundreds of times, for some bytes each time.

    Raises:
        ImageError: too many scans for its size.
    """
    scans = content.count(b"\xff\xda")
    if scans > _USUAL_SCANS and scans * width * height > _MAX_SCANNED:
        raise ImageError(
            f"{path} is a progressive JPEG of {width}x{height} with {scans} scans, where encoders write about ten; "
            "save it anew"
        )
