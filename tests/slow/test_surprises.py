"""Ctrl-C at many moments, and what nobody foresaw in the workers of a cluster: a line and a code, never a traceback."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from sr_deploy.deps import is_installed
from sr_deploy.imaging.codec import write_image
from sr_deploy.shipped import DEFAULT_MODEL

pytestmark = pytest.mark.slow

LINE = "error: interrupted; what was finished before is kept\n"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, write_gentle_network: Callable[[Path, int, int], Path]) -> Path:
    path = tmp_path_factory.mktemp("surprises")
    write_gentle_network(path / "net.safetensors", 8, 2)
    shutil.copytree(DEFAULT_MODEL, path / "bundle")
    for name in ("a", "b", "c"):
        write_image(path / "hr" / f"{name}.png", np.random.default_rng(0).integers(0, 255, (96, 96, 3), np.uint8))
    return path


def start(folder: Path, words: list[str]) -> subprocess.Popen[str]:
    # A session of its own: Ctrl-C reaches the whole group, workers included, as on a terminal.
    return subprocess.Popen(
        [sys.executable, "-m", "sr_deploy", *words],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


@pytest.mark.parametrize("tenths", range(0, 60, 6))
def test_ctrl_c_in_export_is_one_line_whatever_it_meets(folder: Path, tenths: int) -> None:
    out = folder / f"out-{tenths}"
    process = start(folder, ["export", "net.safetensors", "--fp16", "--backend", "none", "--out", str(out)])
    assert process.stderr is not None
    said = ""
    while "export the fp32 graph" not in said:  # from here on PyTorch's exporter catches whatever it can
        said += process.stderr.readline()
    time.sleep(tenths / 10)
    os.killpg(process.pid, signal.SIGINT)
    printed, rest = process.communicate(timeout=300)
    if process.returncode == 0:
        return  # this machine was done before
    assert process.returncode == 130
    assert "Traceback" not in printed + rest
    assert rest.endswith(LINE)
    assert not list(folder.glob(".partial-*"))


@pytest.mark.parametrize("seconds", [0.4, 1.5, 4.0])
@pytest.mark.parametrize(
    "words",
    [
        ["doctor"],
        ["info", "bundle"],
        ["verify", "bundle"],
        ["bench", "bundle", "--shape", "1x32x32"],
        ["evaluate", "net.safetensors", "--hr", "hr"],
        ["degrade", "hr/a.png"],
        ["interpolate", "net.safetensors", "net.safetensors", "--alpha", "0.5"],
        ["upscale", "hr/a.png", "a.png", "--model", "net.safetensors"],
        ["upscale", "hr", "out", "--model", "net.safetensors"],
        ["train"],
        ["build", "bundle"],
    ],
    ids=lambda words: "-".join(words[:2]).replace("/", "-"),
)
def test_ctrl_c_in_every_command_prints_no_traceback(folder: Path, words: list[str], seconds: float) -> None:
    process = start(folder, words)
    time.sleep(seconds)
    os.killpg(process.pid, signal.SIGINT)
    printed, said = process.communicate(timeout=300)
    assert "Traceback" not in printed + said
    # -2: the interpreter had not begun with sr-deploy, or was past it. 0, 1: it was done before.
    assert process.returncode in (130, -signal.SIGINT, 0, 1)


def test_a_surprise_in_rays_workers_is_told_for_each_picture(folder: Path, tmp_path: Path) -> None:
    if not is_installed("ray"):
        pytest.skip("Ray is not installed: pip install 'sr-deploy[ray]'")
    (tmp_path / "sitecustomize.py").write_text(
        "import sys\n"
        "class Broken:\n"
        "    def find_spec(self, name, *_):\n"
        "        if name == 'pyvips' and any('default_worker' in word for word in sys.orig_argv):\n"
        "            raise ZeroDivisionError('boom in an actor')\n"
        "sys.meta_path.insert(0, Broken())\n"
    )
    done = subprocess.run(
        [sys.executable, "-m", "sr_deploy", "upscale", "hr", "rays", "--model", "net.safetensors", "--ray", "local"],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), *filter(None, sys.path)])},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "Traceback" not in done.stdout + done.stderr
    assert done.stderr.count("internal: ZeroDivisionError: boom in an actor") == 3
