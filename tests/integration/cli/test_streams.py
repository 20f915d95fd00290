"""What a command says to streams of every kind, in processes of their own."""

import io
import json
import os
import pty
import select
import subprocess
import sys
import textwrap

import pytest

from sr_deploy.cli.streams import SafeStream

HOSTILE = "n\x1b]0;owned\x07\x9b2J\u202e[/]{x}\n\ud83d"
SHOWN = "n\\x1b]0;owned\\x07\\x9b2J\\u202e[/]{x}\\n\\ud83d"


def run(code, *, redirect="", env=None, **options):
    """Run Python code behind a shell's redirections, with `main` calling it in place of a command."""
    script = (
        "import sys\nimport sr_deploy.cli.app as app\nfrom sr_deploy.cli import run\n"
        "from sr_deploy.cli.output import Output\nhostile = " + ascii(HOSTILE) + "\n"
        f"def command(words):\n{textwrap.indent(textwrap.dedent(code), '    ')}\n    return 0\n"
        "app.run_words = command\nrun()\n"
    )
    words = ["sh", "-c", f'exec "$0" -c "$1" --json {redirect}', sys.executable, script]
    return subprocess.run(words, capture_output=True, check=False, env={**os.environ, **(env or {})}, **options)


SAY_ALL = """
import logging, warnings
from rich.table import Table
from sr_deploy.progress import Progress
output = Output(as_json=False)
output.show(hostile)
table = Table(hostile, title=hostile)
table.add_column(hostile, footer=hostile)
table.add_row(hostile, hostile)
output.show(table)
output.log(hostile)
print(hostile)
logging.getLogger("a.package").warning("%s", hostile)
warnings.warn(hostile)
with output.progress(hostile) as show:
    show(Progress("1 " + hostile, 1, 2, "tiles"))
    output.log(hostile)
    print(hostile, file=sys.stderr)
    show(Progress("2 " + hostile, 2, 2, hostile))
with output.status() as show:
    show(Progress(hostile, 11.0, None, "s"))
    show(Progress(hostile, 11.0, None, hostile))
raise ValueError(hostile)
"""


def test_nothing_that_is_shown_acts_on_the_terminal():
    done = run(SAY_ALL)
    assert done.returncode == 1
    for text in (done.stdout.decode(), done.stderr.decode()):
        assert not set(text) & set("\x1b\x07\x9b\u202e\r")
    shown = done.stdout.decode()
    assert shown.startswith(SHOWN + "\n")
    table, _, rest = shown.partition("\n{\n")
    assert table.count("owned") >= 6
    assert "ValueError: n" in json.loads("{\n" + rest)["error"]["message"]
    lines = done.stderr.decode().splitlines()
    assert lines[0] == SHOWN
    assert f"upscaling: {SHOWN}".removeprefix("upscaling: ") in lines
    assert any(line.startswith("warning: n\\x1b") for line in lines)
    assert lines[-1].startswith("error: internal: ValueError: n\\x1b]0;owned")


def test_a_terminal_sees_only_the_escapes_that_rich_makes():
    code = SAY_ALL.replace("raise ValueError(hostile)", "")
    master, slave = pty.openpty()
    script = (
        "import sys\nfrom sr_deploy.cli.streams import safe_streams\nfrom sr_deploy.cli.output import Output\n"
        f"hostile = {HOSTILE!a}\nwith safe_streams():\n{textwrap.indent(code, '    ')}\n    print('the end')\n"
    )
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "300"}
    process = subprocess.Popen([sys.executable, "-c", script], stdout=slave, stderr=slave, env=environment)
    os.close(slave)
    text = b""
    while select.select([master], [], [], 60)[0]:
        try:
            read = os.read(master, 65536)
        except OSError:  # the other end is closed
            break
        text += read
        if not read:
            break
    os.close(master)
    assert process.wait() == 0
    shown = text.decode()
    assert "the end" in shown
    assert "\x1b]" not in shown
    assert not set(shown) & set("\x07\x9b\u202e")
    assert shown.count("\\x1b]0;owned\\x07") >= 10


@pytest.mark.parametrize("encoding", ["latin-1", "ascii", "cp437", "utf-8:strict", "utf-16"])
def test_letters_that_the_encoding_lacks_are_escaped(encoding):
    code = """
    Output(as_json=False).show("写真 \\udce9 ü")
    Output(as_json=False).log("写真 \\udce9 ü")
    """
    done = run(code, env={"PYTHONIOENCODING": encoding})
    assert done.returncode == 0
    name = encoding.partition(":")[0]
    for text in (done.stdout, done.stderr):
        assert "\\xe9" in text.decode(name)
        assert ("写真" if name.startswith("utf") else "\\u5199\\u771f") in text.decode(name)


FULL = pytest.mark.skipif(not os.path.exists("/dev/full"), reason="this system has no /dev/full")
WORKED = "Output(as_json=False).show('written: out.png', 'and more')"


@pytest.mark.parametrize(
    ("redirect", "reason"), [(">&-", "it is closed"), pytest.param(">/dev/full", "No space left on device", marks=FULL)]
)
def test_what_stdout_does_not_take_is_said_on_stderr(redirect, reason):
    done = run(WORKED, redirect=redirect)
    assert done.returncode == 0
    assert done.stderr.decode().splitlines() == [
        f"stdout cannot be written ({reason}); its text follows here:",
        "written: out.png",
        "and more",
    ]


@pytest.mark.parametrize("redirect", [">&-", pytest.param(">/dev/full", marks=FULL)])
def test_a_document_that_nobody_gets_is_an_error(redirect):
    done = run("Output(as_json=True).finish({'result': 1})", redirect=redirect)
    assert done.returncode == 1
    text = done.stderr.decode()
    assert '"result": 1' in text
    assert "error: the JSON document could not be written to stdout" in text
    assert "Traceback" not in text


@pytest.mark.parametrize("redirect", ["2>&-", pytest.param("2>/dev/full", marks=FULL)])
def test_without_stderr_a_command_does_its_work(redirect):
    done = run("Output(as_json=False).log('a line')\n" + WORKED, redirect=redirect)
    assert done.returncode == 0
    assert done.stdout == b"written: out.png\nand more\n"
    assert done.stderr == b""


def test_nothing_at_all_to_write_to():
    done = run("Output(as_json=False).log('a line')\n" + WORKED, redirect="<&- >&- 2>&-")
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


def test_a_file_never_gets_the_number_of_a_closed_stdout(tmp_path):
    code = f"""
    import os
    with open({str(tmp_path / "out.png")!r}, "wb") as file:
        os.write(1, b"what a library prints")
        file.write(b"picture")
    """
    assert run(code, redirect=">&-").returncode == 0
    assert (tmp_path / "out.png").read_bytes() == b"picture"


def test_a_reader_that_has_gone_is_no_error(tmp_path):
    code = "for number in range(100000):\n    Output(as_json=False).show(str(number))\nopen('done', 'w').close()"
    done = run(code, redirect="| head -1", cwd=tmp_path)
    assert done.stdout == b"0\n"
    assert done.stderr == b""
    assert (tmp_path / "done").exists()


def test_progress_lines_do_not_run_into_each_other(capsys):
    above = []
    stream = SafeStream(io.StringIO(), "stderr")
    with stream.lines_go(above.append):
        print("one", "two", file=stream)
        stream.write("half a ")
        stream.write("line\nrest")
    assert above == ["one two", "half a line"]


@pytest.mark.parametrize(
    ("redirect", "said"),
    [
        ("<&-", "stdin is closed; leave it open"),
        (">&-", "stdout is closed; leave it open"),
        pytest.param(">/dev/full", "there is no room for them (No space left on device)", marks=FULL),
        ("| head -c 1 >/dev/null", "their reader has ended (Broken pipe)"),
    ],
)
def test_frames_that_have_nowhere_to_come_from_or_go_to_end_the_job(redirect, said, tmp_path, write_gentle_network):
    write_gentle_network(tmp_path / "net.safetensors", 8, 2)
    (tmp_path / "frames").write_bytes(bytes(8 * 8 * 3 * 400))
    words = "upscale - - --format rgb24 --size 8x8 --model net.safetensors --backend torch"
    stdin = "" if redirect == "<&-" else "< frames"
    script = f'"$0" -m sr_deploy {words} {stdin} {redirect}'
    done = subprocess.run(["sh", "-c", script, sys.executable], cwd=tmp_path, capture_output=True, check=False)
    lines = done.stderr.decode().splitlines()
    assert said in lines[-1]
    assert lines[-1].startswith("error: ")
    assert "Traceback" not in done.stderr.decode()
