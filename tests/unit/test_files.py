import os
import sys
import threading

import pytest

from sr_deploy import files
from sr_deploy.errors import InputError, OutputError
from sr_deploy.files import (
    clear_partial_folder,
    make_folder,
    owner_key,
    partial_owner,
    remove_partial_files,
    replacing_file,
    replacing_folder,
    require_file,
    sha256_of,
    write_text,
)


def test_hash_is_that_of_the_bytes(tmp_path):
    path = tmp_path / "abc"
    path.write_bytes(b"abc")
    # FIPS 180-2, appendix B.1
    assert sha256_of(path) == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_file_is_seen_whole_or_not_at_all(tmp_path):
    path = tmp_path / "deep" / "x.json"
    write_text(path, "old")
    with replacing_file(path) as temporary:
        temporary.write_text("ne")
        assert path.read_text() == "old"
        assert temporary.suffix == ".json"
        temporary.write_text("new")
    assert path.read_text() == "new"
    assert os.listdir(path.parent) == ["x.json"]


def test_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "x.json"
    write_text(path, "old")
    with pytest.raises(RuntimeError, match="half way"), replacing_file(path) as temporary:
        temporary.write_text("half")
        raise RuntimeError("half way")
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["x.json"]


def test_folder_replaces_a_folder_with_content(tmp_path):
    path = tmp_path / "bundle"
    path.mkdir()
    (path / "stale.onnx").write_text("stale")
    with replacing_folder(path) as folder:
        (folder / "engines").mkdir()
        (folder / "engines" / "a").write_text("fresh")
    assert [str(p.relative_to(path)) for p in sorted(path.rglob("*"))] == ["engines", "engines/a"]
    assert os.listdir(tmp_path) == ["bundle"]


@pytest.mark.parametrize("in_one_step", [True, False])
def test_a_folder_is_never_missing_while_it_is_replaced(tmp_path, monkeypatch, in_one_step):
    path = tmp_path / "bundle"
    path.mkdir()
    (path / "number").write_text("0")
    if not in_one_step:
        monkeypatch.setattr(files, "exchange_folders", lambda first, second: False)
    stop, seen = threading.Event(), []

    def look():
        while not stop.is_set():
            seen.append((path / "number").exists())

    watcher = threading.Thread(target=look)
    watcher.start()
    for number in range(1, 200):
        with replacing_folder(path) as folder:
            (folder / "number").write_text(str(number))
    stop.set()
    watcher.join()
    assert (path / "number").read_text() == "199"
    assert os.listdir(tmp_path) == ["bundle"]
    if in_one_step and sys.platform == "linux":
        assert all(seen)


def test_a_link_to_a_folder_is_replaced_and_what_it_led_to_stays(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "kept").write_text("kept")
    (tmp_path / "bundle").symlink_to("elsewhere")
    with replacing_folder(tmp_path / "bundle") as folder:
        (folder / "new").write_text("new")
    assert os.listdir(tmp_path / "bundle") == ["new"]
    assert os.listdir(tmp_path / "elsewhere") == ["kept"]
    assert sorted(os.listdir(tmp_path)) == ["bundle", "elsewhere"]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        (".partial-demo-01abcdef", "demo"),
        (".partial-demo-01abcdef.old", "demo"),
        (".partial-a-b-c-12345678", "a-b-c"),
        (".partial-x", None),
        (".partial-demo-ABCDEF01", None),
        (".partial-demo-0123456789", None),
        ("partial-demo-01abcdef", None),
    ],
)
def test_a_half_written_folder_says_whose_it_is(tmp_path, name, expected):
    (tmp_path / name).mkdir()
    assert partial_owner(tmp_path / name) == expected


@pytest.mark.parametrize("length", [1, 200, 201, 255])
def test_a_name_of_any_length_has_temporary_ones(tmp_path, length):
    name = "n" * length
    with replacing_folder(tmp_path / name) as folder:
        assert partial_owner(folder) == owner_key(name)
        assert len(folder.name) <= 255
    assert os.listdir(tmp_path) == [name]


def test_what_stepped_aside_comes_back_when_nothing_took_its_place(tmp_path):
    aside = tmp_path / ".partial-demo-01abcdef.old"
    aside.mkdir()
    (aside / "bundle.json").write_text("{}")
    clear_partial_folder(aside)
    assert os.listdir(tmp_path) == ["demo"]
    assert os.listdir(tmp_path / "demo") == ["bundle.json"]
    aside.mkdir()
    clear_partial_folder(aside)  # now something stands there
    assert os.listdir(tmp_path) == ["demo"]
    assert os.listdir(tmp_path / "demo") == ["bundle.json"]


def test_failed_folder_leaves_the_old_one(tmp_path):
    path = tmp_path / "bundle"
    path.mkdir()
    (path / "kept").write_text("kept")
    with pytest.raises(RuntimeError), replacing_folder(path) as folder:
        (folder / "half").write_text("half")
        raise RuntimeError
    assert os.listdir(path) == ["kept"]
    assert os.listdir(tmp_path) == ["bundle"]


def test_concurrent_writers_never_show_a_part(tmp_path):
    path = tmp_path / "x"
    texts = ["a" * 200_000, "b" * 200_000]
    write_text(path, texts[0])
    stop = threading.Event()

    def write(text):
        while not stop.is_set():
            write_text(path, text)

    writers = [threading.Thread(target=write, args=(text,)) for text in texts]
    for writer in writers:
        writer.start()
    seen = {path.read_text() for _ in range(50)}
    stop.set()
    for writer in writers:
        writer.join()
    assert seen <= set(texts)


def test_file_in_the_place_of_a_folder_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match=r"cannot write .*file.*a file stands where a folder is needed"):
        write_text(tmp_path / "file" / "x", "text")
    with pytest.raises(OutputError, match="a file stands where a folder is needed"):
        make_folder(tmp_path / "file")
    with (
        pytest.raises(OutputError, match="a file stands where a folder is needed"),
        replacing_folder(tmp_path / "file"),
    ):
        pass


def test_folder_in_the_place_of_a_file_is_named(tmp_path):
    with pytest.raises(OutputError, match="a folder stands where a file is needed"):
        write_text(tmp_path, "text")
    with pytest.raises(InputError, match=r"is a folder, but a checkpoint must be a file"):
        require_file(tmp_path, "a checkpoint")
    with pytest.raises(InputError, match=r"nothing\.pth does not exist; give a checkpoint"):
        require_file(tmp_path / "nothing.pth", "a checkpoint")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="this system has no /dev/full to stand for a full disk")
def test_full_disk_is_said_in_plain_words(tmp_path):
    with (
        pytest.raises(OutputError, match="the disk is full"),
        replacing_file(tmp_path / "x"),
        open("/dev/full", "w") as full,
    ):
        full.write("x")
        full.flush()
    assert os.listdir(tmp_path) == []


def test_leftovers_of_killed_processes_are_removed(tmp_path):
    with replacing_file(tmp_path / "a.png") as temporary:
        left = tmp_path / temporary.name.replace(".png", "-of-a-killed-one.png")
        left.write_text("half")
        temporary.write_text("whole")
    (tmp_path / "b.png").write_text("mine")
    assert left.exists()
    remove_partial_files(tmp_path)
    assert sorted(os.listdir(tmp_path)) == ["a.png", "b.png"]


def test_a_git_lfs_pointer_is_called_one(tmp_path):
    folder = tmp_path / "my models"
    folder.mkdir()
    path = folder / "x4 net.pth"
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 67040989\n")
    with pytest.raises(InputError) as caught:
        require_file(path, "a checkpoint")
    command = f"git -C '{folder}' lfs pull --include 'x4 net.pth'"
    assert str(caught.value) == (
        f"{path} is a Git LFS pointer, which stands for a checkpoint, not the file itself; run: {command}"
    )
    path.write_text("version https://git-lfs.github.com/spec/v1\n" + "x" * 2000)  # no pointer is that long
    assert require_file(path, "a checkpoint") == path
