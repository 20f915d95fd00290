"""The script that unpacks published data sets, on small archives that are laid out alike."""

import dataclasses
import io
import tarfile
import zipfile

import numpy as np
import pytest

from sr_deploy.errors import ImageError, InputError
from sr_deploy.files import sha256_of
from sr_deploy.imaging.codec import read_image, write_image


@pytest.fixture(scope="module")
def script(load_script):
    return load_script("train/prepare_data.py")


@pytest.fixture(scope="module")
def squares(load_script):
    return load_script("train/sub_images.py")


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """PNG bytes of three pictures, no two alike."""
    folder = tmp_path_factory.mktemp("drawn")
    random = np.random.default_rng(3)
    for number, (height, width) in enumerate(((20, 30), (24, 24), (50, 41)), 1):
        write_image(folder / f"{number:04d}.png", random.integers(0, 256, (height, width, 3), np.uint8))
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


@pytest.fixture
def downloads(tmp_path, pictures):
    """DIV2K as a zip, Flickr2K as a tar with low resolution beside the originals."""
    folder = tmp_path / "downloads"
    folder.mkdir()
    with zipfile.ZipFile(folder / "DIV2K_train_HR.zip", "w") as archive:
        archive.writestr("DIV2K_train_HR/", "")
        for name, content in pictures.items():
            archive.writestr(f"DIV2K_train_HR/{name}", content)
        archive.writestr("DIV2K_train_HR/readme.txt", "not an image")
        archive.writestr("__MACOSX/DIV2K_train_HR/._0001.png", "not an image either")
    with tarfile.open(folder / "Flickr2K.tar", "w") as archive:
        for inner in ("Flickr2K_LR_bicubic/X2", "Flickr2K_HR"):
            for name, content in pictures.items():
                add_to_tar(archive, f"Flickr2K/{inner}/00{name}", content)
        link = tarfile.TarInfo("Flickr2K/Flickr2K_HR/000009.png")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
    return folder


@pytest.fixture
def small(script, downloads):
    """The data sets with the counts and sums of the small archives."""
    (div2k,), (flickr2k,) = script.DATA_SETS["div2k"], script.DATA_SETS["flickr2k"]
    path = downloads / div2k.name
    div2k = dataclasses.replace(div2k, count=3, size=path.stat().st_size, sha256=sha256_of(path))
    flickr2k = dataclasses.replace(flickr2k, count=3)
    return {"div2k": (div2k,), "df2k": (div2k, flickr2k)}


def add_to_tar(archive, name, content):
    member = tarfile.TarInfo(name)
    member.size = len(content)
    archive.addfile(member, io.BytesIO(content))


def test_published_archives(script):
    counts = {name: sum(archive.count for archive in parts) for name, parts in script.DATA_SETS.items()}
    assert counts == {"div2k": 800, "flickr2k": 2650, "ost": 10324, "df2k": 3450, "df2k-ost": 13774}
    for archive in script.DATA_SETS["df2k-ost"]:
        assert archive.name in script.__doc__
    assert [part.name for part in script.DATA_SETS["df2k-ost"] if part.sha256] == ["DIV2K_train_HR.zip"]


def test_originals_and_nothing_else_are_taken(script, small, downloads, pictures, *, tmp_path, capsys):
    out = tmp_path / "photographs"
    assert script.run(["df2k", "--archives", str(downloads), "--out", str(out)], small) == 0
    files = {path.relative_to(out).as_posix(): path.read_bytes() for path in out.rglob("*") if path.is_file()}
    expected = {f"images/DIV2K/{name}": content for name, content in pictures.items()}
    expected |= {f"images/Flickr2K/00{name}": content for name, content in pictures.items()}
    assert files == expected
    printed = capsys.readouterr().out
    assert "Flickr2K.tar: no published checksum is known" in printed
    assert f"sr-deploy train RECIPE --data {out / 'images'}" in printed


def test_goes_on_where_it_stopped_and_then_needs_no_archive(script, small, downloads, pictures, *, tmp_path, capsys):
    out = tmp_path / "photographs"
    command = ["div2k", "--archives", str(downloads), "--out", str(out)]
    assert script.run(command, small) == 0
    kept, cut, gone = (out / "images" / "DIV2K" / name for name in pictures)
    when = kept.stat().st_mtime_ns
    cut.write_bytes(cut.read_bytes()[:20])
    gone.unlink()
    assert script.run(command, small) == 0
    assert (cut.read_bytes(), gone.read_bytes()) == (pictures[cut.name], pictures[gone.name])
    assert kept.stat().st_mtime_ns == when
    (downloads / "DIV2K_train_HR.zip").unlink()
    capsys.readouterr()
    assert script.run(command, small) == 0
    assert "all 3 images are there" in capsys.readouterr().out


def test_wrong_archives_are_named(script, small, downloads, tmp_path, capsys):
    out, path = tmp_path / "photographs", downloads / "DIV2K_train_HR.zip"
    command = ["div2k", "--archives", str(downloads), "--out", str(out)]
    good = path.read_bytes()

    path.write_bytes(good[:-1] + b"?")
    assert script.run(command, small) == 1
    assert "has SHA-256" in capsys.readouterr().err
    path.write_bytes(good[:100])
    assert script.run(command, small) == 1
    assert f"has 100 bytes, {len(good)} were published" in capsys.readouterr().err
    assert script.run([*command, "--no-checksum"], small) == 1
    assert "is damaged" in capsys.readouterr().err
    path.unlink()
    assert script.run(command, small) == 1
    assert "download it from https://data.vision.ee.ethz.ch/cvl/DIV2K/" in capsys.readouterr().err
    assert not out.exists()


def test_missing_archives_are_all_named_before_anything_is_unpacked(script, downloads, tmp_path, capsys):
    for name in ("grass.zip", "sky.zip"):
        (downloads / name).write_bytes(b"")
    (downloads / "DIV2K_train_HR.zip").unlink()
    out = tmp_path / "photographs"
    assert script.run(["df2k-ost", "--archives", str(downloads), "--out", str(out)]) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == (
        f"error: {downloads} does not hold DIV2K_train_HR.zip (download it from "
        "https://data.vision.ee.ethz.ch/cvl/DIV2K/); animal.zip, building.zip, mountain.zip, plant.zip, water.zip "
        "(download them from https://github.com/xinntao/SFTGAN#ost-dataset (OutdoorSceneTrain_v2)); or give the folder "
        "of the downloads with --archives\n"
    )
    assert not out.exists()


def test_missing_images_are_counted(script, small, downloads, tmp_path):
    (_, flickr2k) = small["df2k"]
    more = dataclasses.replace(flickr2k, count=5)
    with pytest.raises(InputError, match=r"holds 3 images after unpacking .*, not 5"):
        script.unpack(more, downloads, tmp_path / "out", print)


@pytest.mark.parametrize("name", ["../DIV2K_train_HR/1.png", "/DIV2K_train_HR/1.png", "C:\\DIV2K_train_HR\\1.png"])
def test_paths_that_lead_out_are_refused(script, small, downloads, tmp_path, *, pictures, name):
    (div2k,) = small["div2k"]
    with zipfile.ZipFile(downloads / div2k.name, "w") as archive:
        archive.writestr(name, pictures["0001.png"])
    with pytest.raises(InputError, match="leads out of the archive"):
        script.unpack(div2k, downloads, tmp_path / "out", print, check_sum=False)
    assert sorted(path.name for path in tmp_path.rglob("*.png")) == []


def test_damaged_images_in_a_zip_are_refused(script, small, downloads, pictures, tmp_path):
    (div2k,) = small["div2k"]
    path = downloads / div2k.name
    content = bytearray(path.read_bytes())
    content[content.index(pictures["0002.png"]) + 40] ^= 255
    path.write_bytes(content)
    with pytest.raises(InputError, match="Bad CRC-32"):
        script.unpack(div2k, downloads, tmp_path / "out", print, check_sum=False)


@pytest.mark.parametrize(
    ("side", "starts"), [(48, [0]), (30, [0]), (72, [0, 24]), (80, [0, 24, 32]), (96, [0, 24, 48]), (49, [0, 1])]
)
def test_squares_reach_the_border(squares, side, starts):
    assert squares.find_starts(side, 48, 24) == starts


def test_sub_images(script, small, downloads, tmp_path):
    out = tmp_path / "photographs"
    command = ["div2k", "--archives", str(downloads), "--out", str(out), "--sub-images", "--size", "24", "--step", "12"]
    assert script.run([*command, "--workers", "2"], small) == 0
    squares = out / "sub-images-24-12" / "DIV2K"
    counts = {folder.name: len(list(folder.iterdir())) for folder in squares.iterdir()}
    # 20 x 30: one row of 20 high, starts 0 and 6; 24 x 24 whole; 50 x 41: 4 rows (0, 12, 24, 26), 3 columns (0, 12, 17)
    assert counts == {"0001": 2, "0002": 1, "0003": 12}
    whole = read_image(out / "images" / "DIV2K" / "0003.png")
    assert np.array_equal(read_image(squares / "0003" / "0003_012.png"), whole[26:50, 17:41])
    assert np.array_equal(read_image(squares / "0001" / "0001_002.png").shape, (20, 24, 3))

    # A folder that is there was written whole, and is kept; one that is missing comes again.
    (squares / "0002" / "0002_001.png").unlink()
    (squares / "0001" / "0001_001.png").unlink()
    (squares / "0001" / "0001_002.png").unlink()
    (squares / "0001").rmdir()
    assert script.run(command, small) == 0
    counts = {folder.name: len(list(folder.iterdir())) for folder in squares.iterdir()}
    assert counts == {"0001": 2, "0002": 0, "0003": 12}


def test_damaged_photograph_leaves_no_half_folder(script, tmp_path, pictures):
    images = tmp_path / "images"
    images.mkdir()
    (images / "good.png").write_bytes(pictures["0001.png"])
    (images / "zut.png").write_bytes(pictures["0003.png"][:300])
    with pytest.raises(ImageError, match=r"zut\.png"):
        script.cut_sub_images(images, tmp_path / "out", size=16, step=16, workers=1, report=print)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["good"]


def test_misuse(script, capsys):
    with pytest.raises(SystemExit) as stop:
        script.parse_arguments(["div2k", "--step", "0"])
    assert stop.value.code == 2
    assert "at least 1" in capsys.readouterr().err
