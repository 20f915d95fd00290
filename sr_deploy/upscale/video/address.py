"""What FFmpeg is told to open: one file, whatever its name."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from sr_deploy.names import lend_path


@contextlib.contextmanager
def lend_address(path: Path) -> Iterator[str]:
    """An address under which FFmpeg finds exactly that file; what it opens must be open when the block ends.

    FFmpeg reads the beginning of a name up to a colon as a protocol (`Movie: Part 1.mkv`, `file:plain.mkv`), and takes
    UTF-8 only.

    Raises:
        OSError: the name needs a temporary link, and none can be made.
    """
    with lend_path(path) as lent:
        yield f"file:{lent.absolute()}"
