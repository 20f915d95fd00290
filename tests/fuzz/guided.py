"""`python -m tests.fuzz.guided exif -max_total_time=60`: one reader under atheris, which looks for inputs by coverage.

For the readers that are plain Python, where atheris (`pip install atheris`) sees the branches. What comes after the
reader's name goes to libFuzzer; a crash leaves the input as a file and the traceback on the terminal.
"""

from __future__ import annotations

import contextlib
import io
import random
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import atheris

from tests.fuzz import image_cases, onnx_cases, weight_cases

with atheris.instrument_imports(include=["sr_deploy"]):
    from sr_deploy.arch.archives import list_members
    from sr_deploy.arch.pickles import PickleReader
    from sr_deploy.arch.safetensors_files import read_safetensors
    from sr_deploy.arch.torch_files import read_torch_file
    from sr_deploy.errors import SrDeployError
    from sr_deploy.graph.wire import check_wire
    from sr_deploy.imaging.exif import is_tangled, read_dpi, set_upright
    from sr_deploy.untrusted import parse_json


def _read_exif(content: bytes) -> None:
    if not is_tangled(content):
        read_dpi(set_upright(content))


def _read_json(content: bytes) -> None:
    with contextlib.suppress(ValueError):  # which is how it refuses
        parse_json(content)


READERS: dict[str, Callable[[bytes], object]] = {
    "pickle": lambda content: PickleReader(content).read(),
    "zip": lambda content: list_members(io.BytesIO(content)),
    "torch": lambda content: read_torch_file(io.BytesIO(content)),
    "safetensors": lambda content: read_safetensors(io.BytesIO(content)),
    "exif": _read_exif,
    "json": _read_json,
    "onnx": check_wire,
}


_MAKERS: dict[str, Callable[[int], bytes]] = {
    "exif": lambda seed: image_cases.make_exif(random.Random(seed)),
    "onnx": lambda seed: onnx_cases.make_case(seed)[1],
    "json": lambda seed: b'{"schema_version": 1, "file": "a/b", "shares": [0.5, 1e3, null]}',
}
_LARGEST = 20_000


def write_seeds(reader: str, folder: Path) -> None:
    """Inputs to start from: without them, coverage never gets past the first bytes of an archive."""
    make = _MAKERS.get(reader, lambda seed: weight_cases.make_case(seed)[2])
    for seed in range(100):
        content = make(seed)
        if len(content) <= _LARGEST:
            (folder / str(seed)).write_bytes(content)


def main() -> None:
    """Fuzz one reader until libFuzzer ends."""
    if len(sys.argv) < 2 or sys.argv[1] not in READERS:
        sys.exit(f"usage: python -m tests.fuzz.guided {'|'.join(READERS)} [libFuzzer options]")
    read = READERS[sys.argv[1]]

    def try_once(content: bytes) -> None:
        with contextlib.suppress(SrDeployError):
            read(content)

    with tempfile.TemporaryDirectory(prefix="sr-deploy-fuzz-") as folder:
        write_seeds(sys.argv[1], Path(folder))
        del sys.argv[1]
        atheris.Setup([*sys.argv, folder], try_once)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
