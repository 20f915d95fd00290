"""Windows and macOS are simulated here: what their calls refuse is refused by the calls that are put in."""

import errno
import fcntl
import os

import pytest

from sr_deploy import disk, files
from sr_deploy.errors import OutputError
from sr_deploy.files import replacing_file, replacing_folder, write_text


@pytest.fixture
def windows(monkeypatch):
    """Refuses to flush through handles that may only read, and to open folders; notes what was flushed."""
    monkeypatch.setattr(disk, "_ON_WINDOWS", True)
    monkeypatch.setattr("sr_deploy.names._ON_WINDOWS", True)
    flushed, real_fsync, real_open = [], os.fsync, os.open

    def fsync(handle):
        if fcntl.fcntl(handle, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY:
            raise OSError(errno.EBADF, "Bad file descriptor")
        flushed.append(os.fstat(handle).st_ino)
        real_fsync(handle)

    def refuse_folders(path, *arguments, **options):
        if os.path.isdir(path):
            raise PermissionError(errno.EACCES, "Permission denied", path)
        return real_open(path, *arguments, **options)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "open", refuse_folders)
    return flushed


def test_files_are_flushed_through_handles_that_may_write(windows, tmp_path):
    write_text(tmp_path / "a.json", "content")
    assert (tmp_path / "a.json").read_text() == "content"
    assert windows == [(tmp_path / "a.json").stat().st_ino]


def test_folders_are_written_where_folders_cannot_be_flushed(windows, tmp_path):
    with replacing_folder(tmp_path / "bundle") as folder:
        (folder / "engines").mkdir()
        (folder / "engines" / "a").write_text("x")
        (folder / "bundle.json").write_text("{}")
    assert len(windows) == 2
    assert (tmp_path / "bundle" / "engines" / "a").read_text() == "x"


@pytest.fixture
def held(monkeypatch):
    """Lets another program hold what is renamed for the first `held[0]` tries."""
    tries, waited, real = [0], [], os.replace

    def replace(new, old):
        if tries[0] > 0:
            tries[0] -= 1
            raise PermissionError(errno.EACCES, "The process cannot access the file", str(new))
        real(new, old)

    monkeypatch.setattr(os, "replace", replace)
    monkeypatch.setattr(disk.time, "sleep", waited.append)
    return tries, waited


def test_a_file_that_a_scanner_holds_for_a_moment_is_replaced_after_it(windows, held, tmp_path):
    tries, waited = held
    write_text(tmp_path / "a", "old")
    tries[0] = 5
    write_text(tmp_path / "a", "new")
    assert (tmp_path / "a").read_text() == "new"
    assert waited == [0.01, 0.02, 0.04, 0.08, 0.16]


def test_a_file_that_stays_open_elsewhere_keeps_its_content_and_is_named(windows, held, tmp_path):
    tries, waited = held
    write_text(tmp_path / "a", "old")
    tries[0] = 10**6
    with pytest.raises(OutputError, match=r"cannot write .*a: permission denied"):
        write_text(tmp_path / "a", "new")
    assert 3 <= sum(waited) < 3.5
    assert os.listdir(tmp_path) == ["a"]
    assert (tmp_path / "a").read_text() == "old"


def test_elsewhere_nobody_waits(held, tmp_path):
    tries, waited = held
    tries[0] = 1
    with pytest.raises(OutputError, match="permission denied"):
        write_text(tmp_path / "a", "new")
    assert waited == []


def test_a_folder_that_cannot_be_replaced_stays(monkeypatch, tmp_path):
    (tmp_path / "bundle").mkdir()
    (tmp_path / "bundle" / "kept").write_text("kept")
    real, calls = os.rename, []

    def rename(path, name):
        calls.append(str(name))
        if len(calls) == 2:  # the new one, once the old one stepped aside
            raise PermissionError(errno.EACCES, "Permission denied")
        real(path, name)

    monkeypatch.setattr(files, "exchange_folders", lambda first, second: False)
    monkeypatch.setattr(os, "rename", rename)
    with pytest.raises(OutputError), replacing_folder(tmp_path / "bundle") as folder:
        (folder / "half").write_text("half")
    assert os.listdir(tmp_path) == ["bundle"]
    assert os.listdir(tmp_path / "bundle") == ["kept"]


@pytest.mark.parametrize("refuses", [False, True])
def test_on_macos_the_disk_itself_is_asked(monkeypatch, tmp_path, refuses):
    asked, flushed = [], []

    def call(handle, command, *_arguments):
        asked.append(command)
        if refuses:
            raise OSError(errno.ENOTSUP, "Operation not supported")

    monkeypatch.setattr(fcntl, "F_FULLFSYNC", 51, raising=False)
    monkeypatch.setattr(fcntl, "fcntl", call)
    monkeypatch.setattr(os, "fsync", flushed.append)
    path = tmp_path / "a"
    path.write_text("x")
    disk.flush_file(path)
    assert asked == [51]
    assert len(flushed) == int(refuses)


@pytest.mark.skipif(not os.path.exists("/proc/self/fd"), reason="this system does not tell what a handle is of")
def test_names_are_flushed_too(monkeypatch, tmp_path):
    flushed, real = [], os.fsync

    def fsync(handle):
        flushed.append(os.readlink(f"/proc/self/fd/{handle}"))
        real(handle)

    monkeypatch.setattr(os, "fsync", fsync)
    write_text(tmp_path / "a", "x")
    assert len(flushed) == 2
    assert flushed[1] == str(tmp_path)


@pytest.mark.skipif(not os.path.exists("/proc/self/fd"), reason="this system does not tell what a handle is of")
@pytest.mark.parametrize(("number", "fatal"), [(errno.EINVAL, False), (errno.ENOTSUP, False), (errno.EIO, True)])
def test_file_systems_that_flush_no_folders_are_no_error(monkeypatch, tmp_path, number, fatal):
    real = os.fsync

    def fsync(handle):
        if os.path.isdir(f"/proc/self/fd/{handle}"):
            raise OSError(number, os.strerror(number))
        real(handle)

    monkeypatch.setattr(os, "fsync", fsync)
    if fatal:
        with pytest.raises(OutputError):
            write_text(tmp_path / "a", "x")
    else:
        write_text(tmp_path / "a", "x")
    assert (tmp_path / "a").read_text() == "x"


def test_read_only_files_of_a_temporary_folder_go_too(monkeypatch, tmp_path):
    monkeypatch.setattr(disk, "_ON_WINDOWS", True)
    folder = tmp_path / "temporary"
    folder.mkdir()
    (folder / "a").write_text("x")
    (folder / "a").chmod(0o444)
    real = os.unlink

    def unlink(path, *arguments, **options):
        if not os.stat(path, dir_fd=options.get("dir_fd")).st_mode & 0o200:
            raise PermissionError(errno.EACCES, "Access is denied")
        real(path, *arguments, **options)

    monkeypatch.setattr(os, "unlink", unlink)
    disk.remove_folder(folder)
    assert not folder.exists()


def test_what_cannot_be_removed_hides_no_error(monkeypatch, tmp_path):
    def unlink(*_arguments, **_options):
        raise OSError(errno.EIO, "Input/output error")

    with pytest.raises(RuntimeError, match="half way"), replacing_file(tmp_path / "x"):
        monkeypatch.setattr(os, "unlink", unlink)
        raise RuntimeError("half way")


def test_new_files_and_folders_get_the_umask(tmp_path):
    before = os.umask(0o027)
    try:
        write_text(tmp_path / "a", "x")
        with replacing_folder(tmp_path / "b"):
            pass
    finally:
        os.umask(before)
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o640
    assert (tmp_path / "b").stat().st_mode & 0o777 == 0o750
