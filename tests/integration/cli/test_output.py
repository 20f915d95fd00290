import json
import os
import pty
import subprocess
import sys

from pydantic import BaseModel

from sr_deploy.cli.output import Output
from sr_deploy.progress import Progress


class Result(BaseModel):
    name: str
    decibels: float


def test_people_get_text_and_programs_get_one_document(capsys):
    for_people = Output(as_json=False)
    for_people.show("a table")
    for_people.finish(Result(name="x", decibels=1.5))
    assert capsys.readouterr().out == "a table\n"
    for_programs = Output(as_json=True)
    for_programs.show("a table")
    for_programs.log("a log line")
    for_programs.finish(Result(name="x", decibels=1.5))
    captured = capsys.readouterr()
    assert json.loads(captured.out) == {"name": "x", "decibels": 1.5}
    assert captured.err == "a log line\n"


def test_progress_without_a_terminal_is_a_line_each_tenth_on_stderr(capsys):
    with Output(as_json=True).progress("training") as show:
        for step in range(1, 51):
            show(Progress(f"loss {step}", step, 50, "steps"))
    captured = capsys.readouterr()
    assert captured.out == ""
    lines = captured.err.splitlines()
    assert len(lines) == 10
    assert lines[0].startswith("training: 10 %, ")
    assert lines[0].endswith("s left, loss 5")
    assert lines[-1] == "training: 100 %, 0 s left, loss 50"


def test_status_says_now_and_then_what_is_done_where_there_is_no_terminal(capsys):
    with Output(as_json=False).status() as show:
        for seconds in (0.5, 9.9, 10.0, 12.0, 19.0, 20.5):
            show(Progress(f"at {seconds}", seconds, None, "s"))
        show(Progress("the next one", 1.0, None, "s"))  # time begins anew
        show(Progress("the next one goes on", 11.0, None, "s"))
    assert capsys.readouterr().err.splitlines() == [
        "at 10.0, 10 s so far",
        "at 20.5, 20 s so far",
        "the next one goes on, 11 s so far",
    ]


def test_status_counts_what_has_no_end(capsys, monkeypatch):
    now = iter((0.0, 0.5, 9.9, 10.2, 19.0, 21.0))
    monkeypatch.setattr("time.monotonic", lambda: next(now))
    with Output(as_json=False).status() as show:
        for frame in (1, 20, 21, 38, 42):
            show(Progress("2.00 frames/s, limited by decode", frame, None, "frames"))
    assert capsys.readouterr().err.splitlines() == [
        "21 frames, 2.00 frames/s, limited by decode",
        "42 frames, 2.00 frames/s, limited by decode",
    ]


def test_what_the_title_says_is_not_said_again(capsys):
    with Output(as_json=False).progress("upscaling a.png") as show:
        show(Progress("upscaling", 1, 2, "tiles"))
        show(Progress("a.png", 2, 2, "tiles"))
    first, last = capsys.readouterr().err.splitlines()
    assert first.startswith("upscaling a.png: 50 %, ")
    assert first.endswith(" s left")
    assert last == "upscaling a.png: 100 %, 0 s left, a.png"


def test_status_is_rewritten_in_place_on_a_terminal_and_gives_way_to_lines():
    code = """
import logging
from sr_deploy.cli.net import run_guarded
from sr_deploy.cli.output import Output
from sr_deploy.progress import Progress
def command():
    output = Output(as_json=False)
    with output.status() as show:
        show(Progress("Building engine 1/6", 1.0, None, "s"))
        show(Progress("Building engine 2/6", 2.0, None, "s"))
        logging.getLogger("sr_deploy.engine.bundle").info("built")
        show(Progress("Building engine 3/6", 3.0, None, "s"))
    output.log("the end")
    return 0
run_guarded(command, as_json=False)
"""
    master, slave = pty.openpty()
    environment = {**os.environ, "TERM": "xterm"}
    subprocess.run([sys.executable, "-c", code], stderr=slave, check=True, env=environment)
    os.close(slave)
    text = os.read(master, 65536).decode()
    os.close(master)
    words = ("Building engine 2/6, 2 s so far", "built", "Building engine 3/6", "the end")
    shown, built, again, end = map(text.index, words)
    assert shown < built < again < end
    assert "\x1b[2K" in text[shown:built]  # the line was cleared
