"""Prepare the photographs that the published systems were trained on, from the archives that you have downloaded.

    python train/prepare_data.py df2k --archives ~/Downloads --out photographs
    sr-deploy train esrgan --data photographs/images

Any folder of images will do for training; this only takes originals out of these archives, and checks that all came:

    div2k     DIV2K_train_HR.zip        800 photographs   https://data.vision.ee.ethz.ch/cvl/DIV2K/
    flickr2k  Flickr2K.tar             2650 photographs   https://cv.snu.ac.kr/research/EDSR/Flickr2K.tar
    ost       animal.zip, building.zip, grass.zip, mountain.zip, plant.zip, sky.zip, water.zip
                                      10324 photographs   OutdoorSceneTrain_v2 of https://github.com/xinntao/SFTGAN
    df2k      div2k and flickr2k; df2k-ost: all three, as ESRGAN and Real-ESRGAN

DIV2K is for academic research only; the pages above state the terms of each. The same command goes on after a stop:
existing files are kept. Sub-images (--sub-images) are only worth their space where decoding whole photographs is too
slow and memory is too short to keep them decoded (data.cache_gib).
"""

from __future__ import annotations

import argparse
import os
import sys
import tarfile
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO

from sub_images import REPORT_EVERY, Report, count_images, cut_sub_images

from sr_deploy.errors import InputError, SrDeployError
from sr_deploy.files import replacing_file, sha256_of


@dataclass(frozen=True)
class Archive:
    """A file as it is published, and what is taken out of it."""

    name: str
    """Of the file."""
    page: str
    """Where it is published."""
    folder: str
    """Under this, images are put."""
    inner: str
    """Name of the folder in the archive whose images are taken, at whatever depth it lies."""
    count: int
    """How many images there are."""
    sha256: str | None = None
    """Of the file, where somebody has published it."""
    size: int | None = None
    """Of the file in bytes, likewise."""


_DIV2K_PAGE = "https://data.vision.ee.ethz.ch/cvl/DIV2K/"
_OST_PAGE = "https://github.com/xinntao/SFTGAN#ost-dataset (OutdoorSceneTrain_v2)"
# What these archives hold was read from reports of those who use them; they were not at hand when this was written.
_OST_COUNTS = {
    "animal": 2187, "building": 2285, "grass": 1140, "mountain": 1092, "plant": 1036, "sky": 1727, "water": 857,
}  # fmt: skip

_DIV2K = (
    # Size and sum: TensorFlow Datasets, url_checksums/div2k.txt. For the others nobody is known to have published one.
    Archive(
        "DIV2K_train_HR.zip", _DIV2K_PAGE, "DIV2K", "DIV2K_train_HR", 800,
        sha256="9d0b9c463f6e35b6c62cc6a930ee2224f670b34c1df841a57670f9acf0f6c335", size=3530603713,
    ),
)  # fmt: skip
_FLICKR2K = (
    Archive("Flickr2K.tar", "https://cv.snu.ac.kr/research/EDSR/Flickr2K.tar", "Flickr2K", "Flickr2K_HR", 2650),
)
_OST = tuple(Archive(f"{kind}.zip", _OST_PAGE, f"OST/{kind}", kind, count) for kind, count in _OST_COUNTS.items())

DATA_SETS = {
    "div2k": _DIV2K,
    "flickr2k": _FLICKR2K,
    "ost": _OST,
    "df2k": (*_DIV2K, *_FLICKR2K),
    "df2k-ost": (*_DIV2K, *_FLICKR2K, *_OST),
}


def require_archives(needed: Sequence[Archive], archives: Path, images: Path) -> None:
    """See before hours of unpacking that nothing is missing at their end.

    Raises:
        InputError: archives whose images are not there yet are not in the folder of downloads.
    """
    missing = [
        archive
        for archive in needed
        if count_images(images / archive.folder) != archive.count and not (archives / archive.name).is_file()
    ]
    if missing:
        pages = {archive.page: [one.name for one in missing if one.page == archive.page] for archive in missing}
        parts = [
            f"{', '.join(names)} (download {'it' if len(names) == 1 else 'them'} from {page})"
            for page, names in pages.items()
        ]
        raise InputError(
            f"{archives.absolute()} does not hold {'; '.join(parts)}; or give the folder of the downloads with "
            "--archives"
        )


def unpack(archive: Archive, archives: Path, images: Path, report: Report, *, check_sum: bool = True) -> None:
    """Take the images of one archive out of it; those that are there already are kept.

    Args:
        archive: which; it is there, or its images are.
        archives: the folder of downloads.
        images: the folder that gets `archive.folder`.
        report: told what happens.
        check_sum: compare the file with its published SHA-256, if there is one.

    Raises:
        InputError: the archive is not what was published, damaged, or short of images.
        OutputError: an image cannot be written.
    """
    target = images / archive.folder
    if count_images(target) == archive.count:
        report(f"{target}: all {archive.count} images are there")
        return
    path = archives / archive.name
    if check_sum:
        _check_file(archive, path, report)
    report(f"{path} -> {target}")
    try:
        for number, (name, size, stream) in enumerate(_read_members(archive, path), 1):
            _write_once(target / name, size, stream)
            if number % REPORT_EVERY == 0:
                report(f"  {number} of {archive.count}")
    except (zipfile.BadZipFile, tarfile.TarError, EOFError) as error:
        raise InputError(f"{path} is damaged ({error}); download it again") from error
    found = count_images(target)
    if found != archive.count:
        raise InputError(
            f"{target} holds {found} images after unpacking {path}, not {archive.count}; look for files that do not "
            "belong there, or download the archive again"
        )
    report(f"{target}: {found} images")


def _check_file(archive: Archive, path: Path, report: Report) -> None:
    """Compare size and SHA-256 with those published; the size first, as it costs nothing."""
    if archive.size is not None and path.stat().st_size != archive.size:
        raise InputError(
            f"{path} has {path.stat().st_size} bytes, {archive.size} were published; download it again from "
            f"{archive.page}, or give --no-checksum if you know that it is good"
        )
    if archive.sha256 is None:
        report(f"{path}: no published checksum is known; the images are counted")
        return
    found = sha256_of(path)
    if found != archive.sha256:
        raise InputError(
            f"{path} has SHA-256 {found}, {archive.sha256} was published; download it again from {archive.page}, or "
            "give --no-checksum if you know that it is good"
        )


def _read_members(archive: Archive, path: Path) -> Iterator[tuple[str, int, IO[bytes]]]:
    """Name (without folders), size and content of each image that is wanted, in the order of the archive."""
    if path.suffix == ".zip":
        with zipfile.ZipFile(path) as opened:
            for entry in opened.infolist():
                if not entry.is_dir() and (name := _wanted_name(archive, entry.filename)) is not None:
                    with opened.open(entry) as stream:
                        yield name, entry.file_size, stream
        return
    with tarfile.open(path) as opened_tar:
        for member in opened_tar:
            # Only regular files are read, and only by their last name: links and odd paths lead nowhere.
            if not member.isreg() or (name := _wanted_name(archive, member.name)) is None:
                continue
            content = opened_tar.extractfile(member)
            assert content is not None
            with content:
                yield name, member.size, content


def _wanted_name(archive: Archive, path: str) -> str | None:
    """Last name of an image in the archive's folder of originals; None for everything else.

    Raises:
        InputError: the path leads out of the archive, as nobody's photographs do.
    """
    parts = PurePosixPath(path.replace("\\", "/")).parts
    if ".." in parts or (parts and (parts[0] == "/" or ":" in parts[0])):
        raise InputError(
            f"{archive.name} holds {path!r}, which leads out of the archive; it was tampered with: delete it"
        )
    if len(parts) < 2 or parts[-2] != archive.inner or not parts[-1].lower().endswith(".png"):
        return None
    return None if parts[-1].startswith(".") else parts[-1]


def _write_once(path: Path, size: int, stream: IO[bytes]) -> None:
    """Write a file unless it is there with all its bytes.

    Raises:
        InputError: the archive ends before the file does.
        OutputError: it cannot be written; nothing half-written is left.
    """
    if path.is_file() and path.stat().st_size == size:
        return
    content = stream.read()
    if len(content) != size:
        raise InputError(f"{path.name} is cut short in the archive: {len(content)} of {size} bytes; download it again")
    with replacing_file(path) as temporary:
        temporary.write_bytes(content)


def parse_arguments(arguments: list[str]) -> argparse.Namespace:
    """What was asked for; exits with code 2 on misuse."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data_set", choices=sorted(DATA_SETS), help="which archives")
    parser.add_argument("--archives", type=Path, default=Path(), help="folder of the downloads [this one]")
    parser.add_argument("--out", type=Path, default=Path("photographs"), help="gets images/NAME/ [photographs]")
    parser.add_argument("--no-checksum", action="store_true", help="do not compare archives with published checksums")
    parser.add_argument("--sub-images", action="store_true", help="cut squares too, into sub-images-SIZE-STEP/NAME/")
    parser.add_argument("--size", type=int, default=480, help="side of a square in pixels [480]")
    parser.add_argument("--step", type=int, default=240, help="pixels from one square to the next [240]")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="threads that cut [one for each core]")
    chosen = parser.parse_args(arguments)
    if min(chosen.size, chosen.step, chosen.workers) < 1:
        parser.error("--size, --step and --workers are at least 1")
    return chosen


def run(arguments: list[str], data_sets: dict[str, tuple[Archive, ...]] = DATA_SETS, report: Report = print) -> int:
    """Prepare what was asked for; the exit code."""
    chosen = parse_arguments(arguments)
    images = chosen.out / "images"
    try:
        require_archives(data_sets[chosen.data_set], chosen.archives, images)
        for archive in data_sets[chosen.data_set]:
            unpack(archive, chosen.archives, images, report, check_sum=not chosen.no_checksum)
        train_on = images
        if chosen.sub_images:
            train_on = chosen.out / f"sub-images-{chosen.size}-{chosen.step}"
            report(f"cutting {images} -> {train_on}, {chosen.workers} at a time")
            for folder in dict.fromkeys(archive.folder for archive in data_sets[chosen.data_set]):
                count = cut_sub_images(
                    images / folder, train_on / folder,
                    size=chosen.size, step=chosen.step, workers=chosen.workers, report=report,
                )  # fmt: skip
                report(f"{train_on / folder}: {count} sub-images")
    except SrDeployError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("stopped; the same command goes on", file=sys.stderr)
        return 130
    report(f"train on it with: sr-deploy train RECIPE --data {train_on}")
    return 0


if __name__ == "__main__":
    sys.exit(run(sys.argv[1:]))
