import os
from pathlib import Path

import pytest

from sr_deploy import names
from sr_deploy.errors import OutputError
from sr_deploy.files import make_folder, write_text
from sr_deploy.names import (
    fold_name,
    keep_suffix,
    lend_path,
    lengthen_on_windows,
    tells_capitals_apart,
    why_not_on_windows,
    why_not_writable,
)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("CON", "device"),
        ("con.png", "device"),
        ("nul.tar.gz", "device"),
        ("Aux .txt", "device"),
        ("COM1.png", "device"),
        ("lpt\u00b9", "device"),
        ("conout$", "device"),
        ("photo.", "cuts dots and spaces"),
        ("photo ", "cuts dots and spaces"),
        ("a:b.png", "takes no ':'"),
        ("what?.png", "takes no '?'"),
        ("a\nb", r"takes no '\\n'"),
    ],
)
def test_names_that_windows_does_not_take(name, reason, monkeypatch, tmp_path):
    assert reason.replace("\\\\", "\\") in why_not_on_windows(name)
    assert why_not_writable(Path("folder", name)) is None
    monkeypatch.setattr(names, "_ON_WINDOWS", True)
    assert why_not_writable(Path("folder", name)) is not None
    with pytest.raises(OutputError, match="take another name"):
        write_text(tmp_path / name / "x", "text")
    with pytest.raises(OutputError, match="take another name"):
        make_folder(tmp_path / name)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("name", ["console.png", "com0", "COM10", "nullable", ".hidden", "..", "a.b", "größe", "x  y"])
def test_names_that_only_look_so(name):
    assert why_not_on_windows(name) is None


def test_long_paths_take_windows_own_form():
    long = "C:\\" + "\\".join(["folder" * 10] * 5) + "\\a.png"
    assert lengthen_on_windows(long) == "\\\\?\\" + long
    assert lengthen_on_windows(long.replace("\\", "/")) == "\\\\?\\" + long
    assert lengthen_on_windows("\\\\?\\" + long) == "\\\\?\\" + long
    share = "\\\\server\\share\\" + "x" * 250
    assert lengthen_on_windows(share) == "\\\\?\\UNC\\server\\share\\" + "x" * 250
    assert lengthen_on_windows("C:\\a.png") == "C:\\a.png"


def test_temporary_names_are_short_whatever_the_name():
    assert keep_suffix(Path("a.safetensors")) == ".safetensors"
    assert keep_suffix(Path("a." + "x" * 250)) == ""


def test_a_name_as_long_as_can_be_is_written(tmp_path):
    for name in ("n" * 255, "a." + "x" * 253):
        write_text(tmp_path / name, "text")
        assert (tmp_path / name).read_text() == "text"


def test_capitals_and_spellings():
    assert fold_name(Path("out/Straße.PNG")) == fold_name(Path("out/STRASSE.png"))
    assert fold_name(Path("e\u0301.png")) == fold_name(Path("\u00e9.png"))
    assert fold_name(Path("a.png")) != fold_name(Path("b.png"))


def test_whether_capitals_are_told_apart_is_tried(tmp_path, monkeypatch):
    (tmp_path / "A").touch()
    assert tells_capitals_apart(tmp_path) == (not (tmp_path / "a").exists())
    assert os.listdir(tmp_path) == ["A"]
    real = Path.exists

    def exists(path, **options):
        return real(path, **options) or real(path.with_name(path.name.lower()), **options)

    monkeypatch.setattr(Path, "exists", exists)
    assert not tells_capitals_apart(tmp_path)


@pytest.mark.skipif(os.name != "posix", reason="names here are no bytes")
@pytest.mark.parametrize("place", [b"plain.onnx", b"caf\xe9.onnx", b"ordner\xff/a.onnx", b"ordner\xff/b\xfe.onnx"])
def test_any_name_is_lent_as_utf8(place, tmp_path):
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/" + place))
    path.parent.mkdir(exist_ok=True)
    path.write_text("content")
    with lend_path(path) as lent:
        str(lent).encode()
        assert lent.suffix == ".onnx"
        assert lent.samefile(path)
        assert (lent == path) == (place == b"plain.onnx")
        kept = lent
    assert kept.exists() == (kept == path)
    assert path.read_text() == "content"
