"""Each command and option explains itself, and has its place in the docs."""

from pathlib import Path

import numpy as np
import pytest
import typer.main

from sr_deploy.cli import main
from sr_deploy.cli.app import build_app

ROOT = Path(__file__).parents[2]
COMMANDS = typer.main.get_command(build_app()).commands


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_every_command_and_option_has_help(name):
    command = COMMANDS[name]
    assert command.help
    assert len(command.help) > 20
    for parameter in command.params:
        assert getattr(parameter, "help", None), f"{name} {parameter.name}"
    assert "--json" in {option for parameter in command.params for option in parameter.opts}


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_every_command_and_option_is_documented(name):
    page = (ROOT / "docs" / "commands.md").read_text()
    assert f"## sr-deploy {name}" in page
    section = page.split(f"## sr-deploy {name}\n", 1)[1].split("\n## ", 1)[0]
    options = {option for parameter in COMMANDS[name].params for option in parameter.opts if option.startswith("--")}
    missing = {option for option in options - {"--help", "--json"} if f"`{option}" not in section}
    assert missing == set()


def test_version_and_usage_errors(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("sr-deploy 0.")
    assert main(["no-such-command"]) == 2
    assert "No such command 'no-such-command'" in capsys.readouterr().err
    assert main(["bench", "--no-such-option"]) == 2


def test_memory_that_runs_out_is_one_line_too(capsys, monkeypatch):
    monkeypatch.setattr("sr_deploy.cli.app.require_working_folder", lambda: np.empty((2**28, 2**28)))
    assert main(["bench"]) == 1
    assert capsys.readouterr().err.startswith("error: not enough memory: Unable to allocate 512. PiB")


def test_error_is_one_line_on_stderr_and_a_document_under_json(tmp_path, capsys, monkeypatch):
    import json

    monkeypatch.chdir(tmp_path)
    assert main(["info", "nothing.pth", "--json"]) == 1
    captured = capsys.readouterr()
    assert captured.err.count("\n") == 1
    assert captured.err.startswith("error: nothing.pth does not exist")
    document = json.loads(captured.out)
    assert document["error"]["kind"] == "InputError"
    assert document["error"]["exit_code"] == 1
    assert "error: " + document["error"]["message"] + "\n" == captured.err
