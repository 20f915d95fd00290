import json
import os
import subprocess
import sys
import threading

import pytest

from sr_deploy.errors import BundleError, InputError, UnsafePathError
from sr_deploy.files import require_file, sha256_of
from sr_deploy.untrusted import (
    MAX_JSON_BYTES,
    MAX_TOML_BYTES,
    check_component,
    check_relative,
    find_inside,
    is_regular,
    make_component,
    make_text,
    open_for_appending,
    open_regular,
    parse_json,
    parse_toml,
    read_json,
)


@pytest.mark.parametrize("name", ["x", "engines/0123456789abcdef.engine", "a b/ü.png", ".hidden", "...", "a/..b"])
def test_names_inside_are_taken(tmp_path, name):
    assert check_relative(name) == name
    assert find_inside(tmp_path, name) == tmp_path / name


@pytest.mark.parametrize(
    "name",
    [
        "",
        ".",
        "..",
        "../x",
        "a/../../x",
        "a/..",
        "/etc/passwd",
        "//etc/passwd",
        "./x",
        "a//b",
        "a/",
        "a/./b",
        "x\0.onnx",
        "x" * 5000,
    ],
)
def test_names_that_lead_out_or_are_written_in_more_than_one_way_are_refused(tmp_path, name):
    with pytest.raises(ValueError, match=r"out of its folder|not a plain name|characters, not"):
        check_relative(name)
    with pytest.raises(BundleError) as raised:
        find_inside(tmp_path, name, BundleError)
    assert len(str(raised.value).splitlines()) == 1


@pytest.mark.parametrize(
    "name", ["", ".", "..", ".partial-x", "a/b", "/", "a\\b", "a\nb", "\x1b[2J", "a\0b", "\ud800", "x" * 256]
)
def test_what_is_no_folders_name_is_refused(name):
    with pytest.raises(ValueError, match="not a name of a folder"):
        check_component(name)


def test_a_backslash_is_a_letter_where_it_parts_no_folders(tmp_path, monkeypatch):
    assert find_inside(tmp_path, "a\\..\\x") == tmp_path / "a\\..\\x"
    monkeypatch.setattr("sr_deploy.untrusted.os.sep", "\\")
    for name in ("a\\..\\x", "C:\\x"):
        with pytest.raises(ValueError, match="is not a plain name"):
            check_relative(name)


@pytest.mark.parametrize("name", ["C:x", "CON", "engines/NUL.engine", "a/x:stream"])
def test_what_windows_does_not_take_for_a_file_is_refused_there(name, monkeypatch):
    assert check_relative(name) == name
    monkeypatch.setattr("sr_deploy.names._ON_WINDOWS", True)
    with pytest.raises(ValueError, match="Windows takes"):
        check_relative(name)


@pytest.mark.skipif(os.name != "posix", reason="names here are no bytes")
@pytest.mark.parametrize(
    "name", ["demo", "a/b", "..", "", "n\nl\x1b[2J", "\udce9", "\u202ex", "ü" * 200, "x" * 300, "."]
)
def test_every_name_has_a_nearest_that_can_be_stored(name):
    near = check_component(make_component(name))
    assert (near == name) == (name == "demo")
    assert parse_json(json.dumps(make_text(name))) == make_text(name)


@pytest.mark.parametrize("name", ["demo", "small-x2", "ein Netz", "网络", "a..b"])
def test_folders_names_are_taken(name):
    assert check_component(name) == name


def test_links_that_lead_out_are_refused_wherever_they_stand(tmp_path):
    folder, outside = tmp_path / "bundle", tmp_path / "outside"
    folder.mkdir()
    outside.mkdir()
    (outside / "x").write_text("x")
    (folder / "file").symlink_to(outside / "x")
    (folder / "relative").symlink_to("../outside/x")
    (folder / "nothing").symlink_to(outside / "not there yet")
    (folder / "sub").symlink_to(outside)
    (folder / "twice").symlink_to("sub")
    (folder / "itself").symlink_to(folder.parent / "bundle-2")
    for name in ("file", "relative", "nothing", "sub", "sub/x", "sub/y/z", "twice/x", "itself"):
        with pytest.raises(UnsafePathError, match="is a link that leads out of"):
            find_inside(folder, name)


def test_links_that_stay_inside_are_followed(tmp_path):
    real = tmp_path / "real"
    (real / "a").mkdir(parents=True)
    (real / "a" / "x").write_text("x")
    (real / "b").symlink_to("a")
    (real / "round").symlink_to("round")
    named = tmp_path / "named"
    named.symlink_to(real)  # the folder itself may be a link: the user named it
    assert find_inside(named, "b/x").read_text() == "x"
    assert find_inside(named, "round") == named / "round"
    assert not is_regular(named / "round")


def test_devices_pipes_and_folders_are_never_opened(tmp_path):
    pipe, link, round_link = tmp_path / "pipe", tmp_path / "link", tmp_path / "round"
    os.mkfifo(pipe)
    link.symlink_to("/dev/zero")
    round_link.symlink_to(round_link)
    for path in (pipe, link, tmp_path, round_link, tmp_path / "none"):
        assert not is_regular(path)
        with pytest.raises(OSError, match=r"not a plain file|Too many levels|No such file"):
            open_regular(path)
    for path in (pipe, link):
        with pytest.raises(OSError, match="not a plain file"):
            sha256_of(path)
        with pytest.raises(InputError, match=r"is a device, .* but a checkpoint must be a file"):
            require_file(path, "a checkpoint")
        with pytest.raises(InputError, match=r"is damaged: .* is not a plain file"):
            read_json(path)
    (tmp_path / "file").write_bytes(b"abc")
    with open_regular(tmp_path / "file") as stream:
        assert stream.read() == b"abc"


def test_appending_follows_no_link_and_waits_for_no_reader(tmp_path):
    victim = tmp_path / "victim"
    victim.write_text("victim\n")
    (tmp_path / "link").symlink_to(victim)
    (tmp_path / "dangling").symlink_to(tmp_path / "made")
    os.mkfifo(tmp_path / "pipe")
    refused = []

    def try_all():
        for name in ("link", "dangling", "pipe"):
            with pytest.raises(OSError, match=r"Too many levels|No such device"):
                open_for_appending(tmp_path / name)
            refused.append(name)

    thread = threading.Thread(target=try_all, daemon=True)  # a pipe that is waited for would hold the test up for ever
    thread.start()
    thread.join(20)
    assert refused == ["link", "dangling", "pipe"]
    assert victim.read_text() == "victim\n"
    assert not (tmp_path / "made").exists()
    for line in ("one\n", "two\n"):
        with open_for_appending(tmp_path / "log") as stream:
            stream.write(line)
    assert (tmp_path / "log").read_text() == "one\ntwo\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "Expecting property name"),
        ("", "Expecting value"),
        ('{"a": 1, "b": 2, "a": 3}', "the key 'a' occurs twice in one object"),
        ('[{"b": {"c": 1, "c": 1}}]', "the key 'c' occurs twice"),
        ("NaN", "NaN is not JSON"),
        ('{"a": -Infinity}', "-Infinity is not JSON"),
        ('{"a": 1e400}', "the number 1e400 is too large"),
        ("[" * 33 + "]" * 33, "nested deeper than 32 levels"),
        ("[" * 200_000, "nested deeper than 32 levels"),
        ('{"a":' * 100_000, "nested deeper than 32 levels"),
        ("1" * 5000, "Exceeds the limit"),
        ('["\\u001b[2J"]', r"the text '\\x1b\[2J' holds control characters"),
        ('{"\\u0000": 1}', r"the text '\\x00' holds control"),
        ('["\\ud800"]', r"the text '\\ud800' holds control"),
        ('["\\u202egnp"]', r"the text '\\u202egnp' holds control"),
        (json.dumps(["x" * 70_000]), "a text of it has 70000 characters"),
        (json.dumps([0] * 100_001), "a list of it has 100001 items"),
    ],
)
def test_json_that_is_not_taken(tmp_path, text, message):
    with pytest.raises(ValueError, match=message) as raised:
        parse_json(text)
    assert len(str(raised.value).splitlines()) == 1
    assert len(str(raised.value)) < 300
    path = tmp_path / "x.json"
    path.write_text(text)
    with pytest.raises(BundleError, match=r"x\.json is damaged: ") as raised:
        read_json(path, BundleError)
    assert len(str(raised.value).splitlines()) == 1


def test_json_that_is_no_text_or_too_large(tmp_path):
    path = tmp_path / "x.json"
    path.write_bytes(b'["\xff"]')
    with pytest.raises(InputError, match=r"x\.json is damaged: 'utf-8' codec can't decode"):
        read_json(path)
    with path.open("wb") as stream:
        stream.truncate(MAX_JSON_BYTES + 1)  # sparse: nothing is written
    with pytest.raises(InputError, match=r"x\.json is damaged: it has more than 32 MiB"):
        read_json(path)


def test_json_that_is_taken():
    document = {"a": [1, -2.5e300, None, True, "ü\tx\n", {"b": []}], "c": "[" * 40}
    assert parse_json(json.dumps(document)) == document
    assert parse_json(json.dumps(document).encode()) == document
    assert parse_json('["\\udcff\\u0007"]', any_text=True) == ["\udcff\x07"]  # as a file's name can have it


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("a = " + "9" * 5000, "5000 digits"),
        ("a = " + "[" * 100_000 + "]" * 100_000, "nested deeper than 32"),
        ("a = " + "[" * 40 + "]" * 40, "nested deeper than 32"),
        ("a = " + "{a=" * 50_000, "nested deeper than 32"),
        ("a." * 60_000 + "a = 1", "more than 32 parts"),
        ("'a'." * 40_000 + "a = 1", "more than 32 parts"),
        ("[" + "a . " * 50_000 + "a]", "more than 32 parts"),
        ("#" * (MAX_TOML_BYTES + 1), "more than 256 KiB"),
        ("a = '" + "x" * 100_000 + "'", "100000 characters"),
        ("a = [" + "1," * 110_000 + "]", "110000 items"),
        ("a = = 1", "Invalid value"),
    ],
    ids=lambda text: text[:20],
)
def test_toml_is_bounded(text, reason):
    with pytest.raises(ValueError, match=reason) as caught:
        parse_toml(text)
    assert len(str(caught.value)) < 500


LONG_TOML = """
import resource
resource.setrlimit(resource.RLIMIT_CPU, (10, 10))
from sr_deploy.untrusted import MAX_TOML_BYTES, parse_toml
many = MAX_TOML_BYTES
for text in ("a" * many, '"' * many, "a-" * (many // 2), "a = '" + "x" * (many - 6), "[[a.b.c]]\\n" * 25_000,
             "a." * 30 + "a\\n", "[" + ".".join("a" * 30) + "]\\n" + "".join(f"k{n}=1\\n" for n in range(25_000))):
    try:
        parse_toml(text)
    except ValueError:
        pass
print("read")
"""


@pytest.mark.skipif(sys.platform == "win32", reason="limits of time are Unix's")
def test_toml_that_is_long_ends_soon():
    """Each took a time that grows with the square of its length, in tomllib or in the check before it."""
    ended = subprocess.run([sys.executable, "-c", LONG_TOML], capture_output=True, text=True, check=False)
    assert ended.stdout == "read\n", ended.stderr[-500:]


def test_toml_that_people_write_is_read():
    assert parse_toml("a.b = 1\n[c.d]\ne = ['x.y.z', 1.5]\n# 1.2.3.4\n") == {
        "a": {"b": 1},
        "c": {"d": {"e": ["x.y.z", 1.5]}},
    }
