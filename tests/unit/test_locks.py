import errno
import os
import re
import signal
import socket
import subprocess
import sys
import threading

import pytest

from sr_deploy import locks
from sr_deploy.errors import InputError, LockedError, OutputError
from sr_deploy.locks import hold_lock, hold_place

HOLD = """
import sys, time
from pathlib import Path
from sr_deploy.locks import hold_lock
with hold_lock(Path(sys.argv[1]), Path("the bundle")):
    print("held", flush=True)
    time.sleep(120)
"""
COUNT = """
import sys
from pathlib import Path
from sr_deploy.locks import hold_lock
folder = Path(sys.argv[1])
for _ in range(int(sys.argv[2])):
    with hold_lock(folder / "below" / ".lock", folder, patience=60):
        number = int((folder / "number").read_text())
        (folder / "number").write_text(str(number + 1))
"""


@pytest.fixture
def holder(tmp_path):
    """A process that holds `tmp_path/.lock`."""
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path / ".lock")], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.wait()
    process.stdout.close()


def test_another_process_is_told_who_holds_it_and_since_when(holder, tmp_path):
    who = rf"process {holder.pid} on {re.escape(socket.gethostname())}, since 20\d\d-\d\d-\d\d \d\d:\d\d:\d\d\+00:00"
    with (
        pytest.raises(LockedError, match=rf"^x/y is being written .* \({who}\); wait"),
        hold_lock(tmp_path / ".lock", tmp_path.__class__("x/y")),
    ):
        pass
    assert issubclass(LockedError, InputError)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_lock_ends_with_its_process(holder, tmp_path, number):
    holder.send_signal(number)
    holder.wait()
    assert (tmp_path / ".lock").exists()  # it had no time to remove it
    with hold_lock(tmp_path / ".lock", tmp_path):
        assert f'"pid": {os.getpid()}' in (tmp_path / ".lock").read_text()
    assert os.listdir(tmp_path) == []


def test_threads_exclude_each_other_too_and_an_error_releases(tmp_path):
    seen = []

    def try_it():
        with pytest.raises(LockedError) as caught, hold_lock(tmp_path / "a" / ".lock", tmp_path):
            pass
        seen.append(str(caught.value))

    with pytest.raises(RuntimeError), hold_lock(tmp_path / "a" / ".lock", tmp_path):
        thread = threading.Thread(target=try_it)
        thread.start()
        thread.join()
        raise RuntimeError
    assert f"process {os.getpid()}" in seen[0]
    with hold_lock(tmp_path / "a" / ".lock", tmp_path):
        pass
    assert os.listdir(tmp_path / "a") == []


def test_it_is_removed_each_time_and_still_only_one_has_it(tmp_path):
    (tmp_path / "number").write_text("0")
    words = [sys.executable, "-c", COUNT, str(tmp_path), "150"]
    processes = [subprocess.Popen(words) for _ in range(4)]
    assert [process.wait() for process in processes] == [0] * 4
    assert (tmp_path / "number").read_text() == "600"
    assert os.listdir(tmp_path / "below") == []


def test_a_lock_taken_over_in_a_removed_folder_is_not_trusted(tmp_path, monkeypatch):
    """Who opens the file just before it is removed gets a lock on a file that nobody else will ever see."""
    path, opened = tmp_path / ".lock", []
    real_open = locks._open

    def open_and_lose(wanted):
        handle = real_open(wanted)
        opened.append(handle)
        if len(opened) == 1:
            wanted.unlink()
        return handle

    monkeypatch.setattr(locks, "_open", open_and_lose)
    with hold_lock(path, tmp_path):
        assert len(opened) == 2
        assert path.exists()


@pytest.mark.parametrize("note", ["", "{", "[]", '{"pid": 1}', "\x00" * 4000, "null"])
def test_a_holder_that_left_no_word_is_still_one(holder, tmp_path, note):
    (tmp_path / ".lock").write_text(note)
    with (
        pytest.raises(LockedError, match=r"is being written by another sr-deploy; wait"),
        hold_lock(tmp_path / ".lock", tmp_path),
    ):
        pass


@pytest.mark.skipif(os.name != "posix", reason="no such files elsewhere")
@pytest.mark.parametrize("kind", ["folder", "fifo", "link"])
def test_what_is_no_regular_file_is_never_written_to(tmp_path, kind):
    path, aim = tmp_path / ".lock", tmp_path / "aim"
    aim.write_text("mine")
    {"folder": path.mkdir, "fifo": lambda: os.mkfifo(path), "link": lambda: path.symlink_to(aim)}[kind]()
    with pytest.raises(OutputError, match=r"cannot (write|lock) .*\.lock: "), hold_lock(path, tmp_path):
        pass
    assert aim.read_text() == "mine"


def test_a_file_system_without_locks_is_said_and_used(tmp_path, monkeypatch, caplog):
    fcntl = pytest.importorskip("fcntl", reason="POSIX alone has flock")

    def refuse(handle, operation):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    with hold_lock(tmp_path / ".lock", tmp_path):
        assert (tmp_path / ".lock").exists()
    assert "this file system has no locks (No locks available); start no second job there" in caplog.text


def test_what_killed_processes_left_beside_a_folder_goes_and_what_is_being_made_stays(tmp_path):
    for name in ("demo-abcdef01", "other-abcdef01", "busy-abcdef01"):
        (tmp_path / f".partial-{name}" / "engines").mkdir(parents=True)
    (tmp_path / ".partial-x").mkdir()  # nobody knows whose it is
    (tmp_path / ".partial-demo-file0000").write_text("a file")
    with hold_place(tmp_path / "busy"):
        (tmp_path / ".partial-busy-12345678").mkdir()
        with hold_place(tmp_path / "demo"):
            names = set(os.listdir(tmp_path))
            with pytest.raises(LockedError, match="demo is being written by"), hold_place(tmp_path / "demo"):
                pass
    assert names == {".busy.lock", ".demo.lock", ".partial-busy-12345678", ".partial-x", ".partial-demo-file0000"}
    assert set(os.listdir(tmp_path)) == names - {".busy.lock", ".demo.lock"}


@pytest.mark.skipif(os.name != "posix", reason="hard links")
def test_a_lock_that_is_another_files_second_name_is_not_written(tmp_path):
    victim = tmp_path / "victim"
    victim.write_text("victim")
    os.link(victim, tmp_path / ".lock")
    message = "it is another file under a second name; remove it"
    with pytest.raises(OutputError, match=message), hold_lock(tmp_path / ".lock", tmp_path):
        pass
    assert victim.read_text() == "victim"
