import json
import os
import pty
import subprocess
import sys

from pydantic import BaseModel

from sr_deploy.cli.output import Output


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
    with Output(as_json=True).progress("training", total=50) as advance:
        for step in range(1, 51):
            advance(step, f"loss {step}")
    captured = capsys.readouterr()
    assert captured.out == ""
    lines = captured.err.splitlines()
    assert len(lines) == 10
    assert lines[0].startswith("training: 10 %, ")
    assert lines[0].endswith("s left, loss 5")
    assert lines[-1] == "training: 100 %, 0 s left, loss 50"


def test_status_says_now_and_then_what_is_done_where_there_is_no_terminal(capsys):
    output = Output(as_json=False)
    with output.status() as tell:
        for seconds in (0.5, 9.9, 10.0, 12.0, 19.0, 20.5):
            tell(f"at {seconds}", seconds)
        tell("the next one", 1.0)  # time begins anew
        tell("the next one goes on", 11.0)
    assert capsys.readouterr().err.splitlines() == ["at 10.0", "at 20.5", "the next one goes on"]


def test_status_is_rewritten_in_place_on_a_terminal_and_gives_way_to_lines():
    code = """
from sr_deploy.cli.output import Output
output = Output(as_json=False)
with output.status() as tell:
    tell("Building engine 1/6", 1.0)
    tell("Building engine 2/6", 2.0)
    output.log("built")
output.log("the end")
"""
    master, slave = pty.openpty()
    environment = {**os.environ, "TERM": "xterm"}
    subprocess.run([sys.executable, "-c", code], stderr=slave, check=True, env=environment)
    os.close(slave)
    text = os.read(master, 65536).decode()
    os.close(master)
    shown, built, end = (text.index(words) for words in ("Building engine 2/6", "built", "the end"))
    assert shown < built < end
    assert "\x1b[2K" in text[shown:built]  # the line was cleared
