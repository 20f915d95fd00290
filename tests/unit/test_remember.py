"""A file is read once for as long as nobody writes to it."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from sr_deploy.remember import remember_per_file


class Reader:
    """Reads, and counts how often."""

    def __init__(self) -> None:
        self.times = 0

    def __call__(self, path: Path) -> bytes:
        self.times += 1
        return path.read_bytes()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "file"
    path.write_bytes(b"first")
    return path


@pytest.fixture
def later(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    def let_pass(seconds: float) -> None:
        now = time.time_ns
        monkeypatch.setattr(time, "time_ns", lambda: now() + int(seconds * 1e9))

    return let_pass


def test_a_file_at_rest_is_read_once(file: Path, later: Callable[[float], None]) -> None:
    reader = Reader()
    read = remember_per_file(reader)
    later(10)
    assert [read(file) for _ in range(3)] == [b"first"] * 3
    assert reader.times == 1


def test_a_file_just_written_is_read_each_time(file: Path) -> None:
    reader = Reader()
    read = remember_per_file(reader)
    assert [read(file) for _ in range(3)] == [b"first"] * 3
    assert reader.times == 3


def test_another_content_is_seen_whatever_its_size_and_time(file: Path, later: Callable[[float], None]) -> None:
    read = remember_per_file(Reader())
    later(10)
    times = file.stat()
    assert read(file) == b"first"
    time.sleep(0.02)  # the clock of change times may tick that slowly
    file.write_bytes(b"other")
    os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert read(file) == b"other"


def test_a_file_in_its_place_is_another_one(file: Path, later: Callable[[float], None]) -> None:
    read = remember_per_file(Reader())
    later(10)
    assert read(file) == b"first"
    (file.parent / "new").write_bytes(b"third")
    os.replace(file.parent / "new", file)
    assert read(file) == b"third"


def test_errors_are_raised_each_time(file: Path) -> None:
    read = remember_per_file(Reader())
    file.unlink()
    for _ in range(2):
        with pytest.raises(FileNotFoundError):
            read(file)
    file.write_bytes(b"first")
    assert read(file) == b"first"
