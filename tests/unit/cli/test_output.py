import json

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
