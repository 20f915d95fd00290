"""Small pictures that ask for much memory or time, or for a crash: each ends in one line, or is read within limits."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from sr_deploy.errors import ImageError
from sr_deploy.imaging import pillow
from sr_deploy.imaging.codec import read_image
from sr_deploy.imaging.decoded_image import decode_image
from sr_deploy.imaging.exif import is_tangled
from sr_deploy.imaging.exif_blocks import find_in_heif, find_in_jpeg, find_in_png, find_in_webp
from tests.fuzz.picture_cases import (
    CASES,
    TAKEN,
    avif,
    encode,
    jpeg,
    plain_exif,
    png,
    scattered_avif,
    tangled_exif,
    webp,
)

READER = """
import os, resource, sys
from pathlib import Path
from sr_deploy.errors import ImageError
from sr_deploy.imaging import pillow
from sr_deploy.imaging.codec import read_training_image
from sr_deploy.imaging.decoded_image import decode_image
from sr_deploy.imaging.row_reader import RowReader
import pyvips

def read_rows(path):
    with RowReader(path) as reader:
        return list(reader.strips())

for path in sorted(Path(sys.argv[1]).iterdir()):
    for read in (decode_image, read_training_image, read_rows, pillow.read_rgb):
        child = os.fork()
        if child == 0:
            now = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
            resource.setrlimit(resource.RLIMIT_AS, (now + 2**30, now + 2**30))
            resource.setrlimit(resource.RLIMIT_CPU, (10, 10))
            try:
                read(path)
                print("taken", flush=True)
            except ImageError as error:
                print(error, flush=True)
            os._exit(0)
        if os.waitpid(child, 0)[1]:
            print("ended the process", flush=True)
"""
READERS = ("pictures", "training pictures", "rows", "Pillow")


@pytest.fixture(scope="module")
def lines(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], str]:
    """What each reader says of each case, in a child with 10 s and 1 GiB for each."""
    folder = tmp_path_factory.mktemp("cases")
    made = [make for make, _ in CASES.values()] + list(TAKEN.values())
    for number, make in enumerate(made):
        (folder / f"{number:03}").write_bytes(make())
    command = [sys.executable, "-W", "ignore", "-c", READER, folder]
    environment = {**os.environ, "VIPS_CONCURRENCY": "1"}
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=900, check=False)
    assert ended.returncode == 0, ended.stderr[-2000:]
    said = ended.stdout.splitlines()
    names = [(name, reader) for name in [*CASES, *TAKEN] for reader in READERS]
    assert len(said) == len(names), said
    return dict(zip(names, said, strict=True))


linux = pytest.mark.skipif(sys.platform != "linux", reason="limits of memory are Linux's")


@linux
@pytest.mark.parametrize("name", CASES)
def test_hostile_pictures_end_in_one_short_line(lines, name):
    for reader in READERS[:2]:
        assert CASES[name][1] in lines[name, reader], lines[name, reader]
    for reader in READERS[2:]:
        assert lines[name, reader] != "ended the process"
    assert max(len(lines[name, reader]) for reader in READERS) < 1200


@linux
@pytest.mark.parametrize("name", TAKEN)
def test_strange_pictures_are_read_within_the_limits(lines, name):
    assert [lines[name, reader] for reader in READERS[:2]] == ["taken", "taken"]
    assert "ended the process" not in [lines[name, reader] for reader in READERS[2:]]


@pytest.mark.parametrize("make", [jpeg, png, webp, avif])
def test_plain_exif_is_found_and_kept(tmp_path, make):
    """More than the 64 kB of a JPEG's segment, too, where the format has no such bound."""
    block = plain_exif(0 if make is jpeg else 80_000)
    (tmp_path / "x").write_bytes(make(block))
    find = {jpeg: find_in_jpeg, png: find_in_png, webp: find_in_webp, avif: find_in_heif}[make]
    (found,) = find((tmp_path / "x").read_bytes())
    assert found.removeprefix(b"Exif\0\0")[: len(block)] == block
    kept = decode_image(tmp_path / "x").exif
    assert kept is not None
    assert len(kept) >= len(block)


def test_directories_that_lead_to_one_another_are_told_from_those_of_cameras():
    assert not is_tangled(plain_exif())
    assert not is_tangled(b"Exif\0\0" + plain_exif())
    assert is_tangled(tangled_exif(2))
    assert is_tangled(b"Exif\0\0" + tangled_exif(2))
    for content in (b"", b"II*\0", b"II*\0\xff\xff\xff\xff", b"MM\0*\0\0\0\x08\xff\xff", b"no EXIF at all"):
        assert not is_tangled(content)


def test_exif_in_pieces_is_joined():
    block = tangled_exif(3)
    (found,) = find_in_heif(scattered_avif(block, 5))
    assert found == block


def test_every_reader_has_the_limit_of_megapixels(tmp_path):
    """Not only upscale: a folder to train on or to evaluate may hold a bomb, too."""
    (tmp_path / "x.jpg").write_bytes(encode("JPEG").replace(b"\0\x10\0\x10\3", b"\xff\xdc\xff\xdc\3"))
    for read in (read_image, decode_image):
        with pytest.raises(ImageError, match=r"is 65500x65500, 4290\.2 megapixels; at most 200 are taken"):
            read(tmp_path / "x.jpg")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="the system has no named pipes")
@pytest.mark.parametrize("read", [read_image, decode_image, pillow.read_rgb])
def test_devices_pipes_and_sparse_files_are_not_read(tmp_path, read):
    os.mkfifo(tmp_path / "pipe.png")
    for path in (tmp_path / "pipe.png", Path("/dev/zero")):
        with pytest.raises(ImageError, match="is a device, a pipe or a socket"):
            read(path)
    with (tmp_path / "x.png").open("wb") as stream:
        stream.write(encode("PNG"))
        stream.truncate(1 << 40)
    with pytest.raises(ImageError, match=r"has 1099511627776 bytes, .* picture of 200 megapixels"):
        read(tmp_path / "x.png")
