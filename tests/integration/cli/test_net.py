"""Whatever happens inside a command, it ends in one line."""

import logging
import os
import signal
import subprocess
import sys
import threading
import warnings

import numpy as np
import pytest

from sr_deploy.cli import app, main
from sr_deploy.cli.output import Output
from sr_deploy.errors import InputError
from sr_deploy.imaging.codec import write_image


@pytest.fixture(autouse=True)
def _listening():
    """A shell starts what it puts into the background with SIGINT ignored, and `main` leaves that so."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


WORDS = {
    "train": [],
    "export": [],
    "build": [],
    "verify": [],
    "bench": [],
    "upscale": ["in.png", "out.png"],
    "evaluate": ["m", "--hr", "x"],
    "interpolate": ["a", "b", "--alpha", "0.5"],
    "degrade": ["x.png"],
    "info": ["x"],
    "doctor": [],
}


class RustPanicError(BaseException):
    """As libraries in Rust raise."""


class UnspeakableError(Exception):
    def __str__(self):
        raise RuntimeError("no words")


SURPRISES = [
    ZeroDivisionError("division by zero"),
    KeyError("key\nTraceback (most recent call last):\n  File x"),
    UnicodeEncodeError("utf-8", "\udce9", 0, 1, "surrogates not allowed"),
    RecursionError("maximum recursion depth exceeded"),
    RustPanicError("called `Option::unwrap()` on a `None` value"),
    EOFError(),
    BrokenPipeError(32, "Broken pipe"),
    AssertionError(),
]


@pytest.fixture
def raising(monkeypatch):
    """Lets every command raise that, where it begins to speak."""

    def prepare(error):
        def fail(*_arguments, **_options):
            raise error

        monkeypatch.setattr(Output, "__init__", fail)

    return prepare


@pytest.mark.parametrize("command", app._COMMANDS)
def test_a_surprise_inside_a_command_is_one_line(command, raising, capsys, monkeypatch):
    monkeypatch.delenv("SR_DEPLOY_TRACEBACK", raising=False)
    raising(ZeroDivisionError("division by zero"))
    assert main([command, *WORDS[command]]) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    assert captured.err.startswith("error: internal: ZeroDivisionError: division by zero (at sr_deploy/cli/")
    assert "report" in captured.err


@pytest.mark.parametrize("error", SURPRISES, ids=lambda error: type(error).__name__)
def test_every_kind_of_surprise_is_one_line(error, raising, capsys):
    raising(error)
    assert main(["info", "x"]) == 1
    captured = capsys.readouterr()
    assert captured.err.count("\n") == 1
    assert captured.err.startswith(f"error: internal: {type(error).__name__}")
    assert "Traceback" not in captured.err


def test_an_error_that_cannot_say_what_it_is(raising, capsys):
    raising(UnspeakableError())
    assert main(["info", "x"]) == 1
    assert capsys.readouterr().err == "error: internal: UnspeakableError\n"


@pytest.mark.parametrize(("code", "expected"), [(None, 0), (0, 0), (3, 3), ("said by a library", 1)])
def test_a_library_that_ends_the_process_ends_the_command(code, expected, raising, capsys):
    raising(SystemExit(code))
    assert main(["info", "x"]) == expected
    assert capsys.readouterr().err == ("error: said by a library\n" if code == "said by a library" else "")


def test_the_traceback_is_there_for_who_asks(raising, capsys, monkeypatch):
    monkeypatch.setenv("SR_DEPLOY_TRACEBACK", "1")
    raising(InputError("a file\x1b[31m"))
    assert main(["info", "x"]) == 1
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "Traceback (most recent call last):"
    assert lines[-2] == "sr_deploy.errors.InputError: a file\\x1b[31m"
    assert lines[-1] == "error: a file\\x1b[31m"


def test_wrong_usage_says_it_legibly(capsys):
    assert main(["info", "x", "--no\x1b[31m\u202e\nsuch"]) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("Usage: sr-deploy info")
    assert captured.err.splitlines()[-1].startswith("error: No such option: --no\\x1b[31m\\u202e")
    assert main([]) == 2
    assert "Commands:" in capsys.readouterr().out


def test_threads_logs_and_warnings_are_lines_without_tracebacks(capsys, monkeypatch):
    def command(_words):
        def fail():
            raise ValueError("in\na thread")

        thread = threading.Thread(target=fail, name="worker")
        thread.start()
        thread.join()
        try:
            fail()
        except ValueError:
            logging.getLogger("some.package").exception("it failed\nbadly")
        logging.getLogger("some.package").info("chatter")
        logging.getLogger("sr_deploy.runners.fastest").info("measured: openvino")
        logging.getLogger("sr_deploy.verification.model").info("verify %s", "a\n  b")
        logging.getLogger("sr_deploy.engine.build").debug("all that the builder wrote")
        warnings.warn("old\nname", DeprecationWarning, stacklevel=1)
        return 0

    level = logging.getLogger("sr_deploy").level
    monkeypatch.setattr(app, "run_words", command)
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        assert main(["info"]) == 0
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].startswith("error: in a thread (worker): internal: ValueError: in a thread")
    assert lines[1:] == [
        "it failed badly",
        "measured: openvino",
        "verify a\\n  b",
        "warning: old name (DeprecationWarning)",
    ]
    assert logging.getLogger("sr_deploy").level == level  # as it was


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_is_told_whatever_a_library_makes_of_it(number, capsys, monkeypatch):
    def command(_words):
        try:
            os.kill(os.getpid(), number)
            signal.sigtimedwait([], 5)
        except KeyboardInterrupt as error:
            raise RuntimeError("export failed\nbecause of an interruption") from error

    monkeypatch.setattr(app, "run_words", command)
    before = signal.getsignal(number)
    assert main(["export", "--json"]) == 130
    captured = capsys.readouterr()
    assert captured.err == "error: interrupted; what was finished before is kept\n"
    assert '"exit_code": 130' in captured.out
    assert signal.getsignal(number) is before


def test_an_interruption_where_nothing_can_be_raised_is_not_lost(monkeypatch):
    def command(_words):
        class Holder:
            def __del__(self):
                os.kill(os.getpid(), signal.SIGINT)
                signal.sigtimedwait([], 0.01)

        Holder()
        for _ in range(500):
            signal.sigtimedwait([], 0.01)
        return 0

    monkeypatch.setattr(app, "run_words", command)
    assert main(["train"]) == 130


HEAVY = {
    "typer": ["info", "x"],
    "rich": ["doctor"],
    "pydantic": ["train"],
    "torch": ["train"],
    "numpy": ["upscale", "in.png", "out.png"],
    "onnx": ["info", "net.onnx"],
    "onnxruntime": ["upscale", "in.png", "out.png", "--model", "small-x2", "--backend", "onnxruntime"],
    "openvino": ["upscale", "in.png", "out.png", "--model", "small-x2", "--backend", "openvino"],
    "pyvips": ["upscale", "in.png", "out.png", "--model", "small-x2", "--backend", "onnxruntime"],
    "av": ["upscale", "in.mp4", "out.mkv", "--model", "small-x2", "--backend", "onnxruntime"],
    "safetensors": ["info", "net.safetensors"],
    "ray": ["upscale", "folder", "out", "--ray", "local", "--model", "small-x2"],
}


@pytest.mark.parametrize("module", HEAVY)
@pytest.mark.parametrize("error", ["ImportError('libx.so.1: cannot open')", "RuntimeError('two\\nlines')"])
def test_a_library_that_does_not_load_is_one_line(module, error, tmp_path):
    broken = tmp_path / "broken" / module
    broken.mkdir(parents=True)
    (broken / "__init__.py").write_text(f"raise {error}")
    (tmp_path / "folder").mkdir()
    for name in ("in.png", "in.mp4", "net.onnx", "net.safetensors", "folder/a.png"):
        (tmp_path / name).write_bytes(b"\x10\0\0\0\0\0\0\0{")
    paths = [str(broken.parent), *filter(None, sys.path)]
    done = subprocess.run(
        [sys.executable, "-m", "sr_deploy", *HEAVY[module]],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1, done.stderr
    assert done.stderr.count("\n") == 1
    assert "Traceback" not in done.stderr + done.stdout
    assert "libx.so.1" in done.stderr or "two lines" in done.stderr or module in done.stderr


def test_a_working_folder_that_was_removed_is_said(tmp_path):
    gone = tmp_path / "gone"
    gone.mkdir()
    script = 'rm -r "$PWD"; exec "$0" -m sr_deploy info x'
    done = subprocess.run(["sh", "-c", script, sys.executable], cwd=gone, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("error: the working folder cannot be found")
    assert "Traceback" not in done.stderr


def test_a_surprise_in_a_process_beside_this_one_is_told_without_its_traceback(tmp_path, write_gentle_network):
    write_gentle_network(tmp_path / "net.safetensors", 8, 2)
    (tmp_path / "sitecustomize.py").write_text(
        "import sys\n"
        "class Broken:\n"
        "    def find_spec(self, name, *_):\n"
        "        if name == 'torch.nn' and 'sr_deploy.bench.worker' in sys.orig_argv:\n"
        "            raise ZeroDivisionError('boom in a worker')\n"
        "sys.meta_path.insert(0, Broken())\n"
    )
    paths = [str(tmp_path), *filter(None, sys.path)]
    done = subprocess.run(
        [sys.executable, "-m", "sr_deploy", "bench", "net.safetensors", "--shape", "1x8x8", "--seconds", "0.01"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "ZeroDivisionError: boom in a worker" in done.stderr
    assert "Traceback" not in done.stderr + done.stdout
    assert done.stderr.splitlines()[-1].startswith("error: ")


@pytest.mark.parametrize(
    "broken",
    [
        "sr_deploy.upscale.folder.load_item",
        "sr_deploy.upscale.tile_pipeline.Canvas.put",
        "sr_deploy.upscale.folder_job.write_enlarged",
    ],
)
def test_a_surprise_in_a_thread_costs_its_picture(broken, tmp_path, monkeypatch, capsys, write_gentle_network):
    write_gentle_network(tmp_path / "net.safetensors", 8, 2)
    for name in ("a.png", "b.png"):
        write_image(tmp_path / "in" / name, np.full((24, 24, 3), 90, np.uint8))

    def fail(*_arguments, **_options):
        raise KeyError("what\nnobody foresaw")

    monkeypatch.setattr(broken, fail)
    monkeypatch.chdir(tmp_path)
    assert main(["upscale", "in", "out", "--model", "net.safetensors", "--backend", "torch"]) == 1
    captured = capsys.readouterr()
    assert captured.err.count("failed: in/") == 2
    assert captured.err.count("internal: KeyError") == 2
    assert "Traceback" not in captured.err
    assert "out: 0 written, 2 failed" in captured.out


def test_a_surprise_in_the_threads_of_a_training_is_one_line(tmp_path, monkeypatch, capsys):
    def fail(*_arguments, **_options):
        raise KeyError("what\nnobody foresaw")

    monkeypatch.setattr("sr_deploy.train.sampling.PatchSampler.draw_patch", fail)
    monkeypatch.chdir(tmp_path)
    small = ("network.features=8", "network.blocks=1", "data.workers=2", "precision.autocast=off")
    assert main(["train", *(word for change in small for word in ("--set", change))]) == 1
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("error: internal: KeyError: ")
    assert "(at sr_deploy/train/" in last
