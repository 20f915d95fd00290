"""What goes out to the network, and what libraries leave in HOME to report later: nothing."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from sr_deploy.imaging.codec import write_image

ROOT = Path(__file__).parents[2]
TINY = ("run.steps=3", "network.features=8", "network.blocks=1", "data.batch=2", "data.patch_size=32",
        'data.training=["astronaut"]', 'data.held_out=["chelsea"]', "precision.autocast=off",
        "precision.channels_last=false")  # fmt: skip
COMMANDS = {
    "train": [word for change in TINY for word in ("--set", change)],
    "export": [],
    "verify": [],
    "bench": ["--shape", "1x16x16", "--seconds", "0.1", "--backend", "onnxruntime", "--backend", "openvino"],
    "upscale": ["in.png", "out.png", "--model", "small-x2"],
}
SEND = "import socket; socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'x', ({address!r}, 53))"


@pytest.mark.parametrize(("address", "packets"), [("192.0.2.9", 1), ("198.51.100.7", 1), ("127.0.0.1", 0)])
def test_what_leaves_the_machine_is_counted(run_without_network, tmp_path, address, packets):
    assert run_without_network([sys.executable, "-c", SEND.format(address=address)], tmp_path).packets == packets


@pytest.mark.slow
def test_no_command_sends_anything_or_leaves_a_reporters_file(run_without_network, newcomers_environment, tmp_path):
    environment = newcomers_environment(tmp_path / "home")
    (tmp_path / "home").mkdir()
    write_image(tmp_path / "in.png", np.random.default_rng(0).integers(0, 256, (16, 16, 3), np.uint8))
    for command, words in COMMANDS.items():
        done = run_without_network([sys.executable, "-m", "sr_deploy", command, *words], tmp_path, environment)
        assert (done.code, done.packets) == (0, 0), f"{command}: {done.output}"
    left = {path.relative_to(tmp_path / "home").as_posix() for path in (tmp_path / "home").glob("*/*")}
    assert left - {".cache/sr-deploy"} == set()


@pytest.mark.parametrize(
    ("first", "asked", "reports"), [("sr_deploy", None, False), ("sr_deploy", "0", True), ("os", None, True)]
)
def test_onnx_runtime_is_silenced_unless_the_user_set_it(newcomers_environment, tmp_path, first, asked, reports):
    """Where the variable is not set, or is 0, its file stands in HOME: the test above sees what it looks for."""
    environment = newcomers_environment(tmp_path) | ({} if asked is None else {"ORT_DISABLE_TELEMETRY": asked})
    subprocess.run([sys.executable, "-c", f"import {first}, onnxruntime"], check=True, env=environment)
    assert (tmp_path / ".cache/Microsoft").exists() == reports


def test_whoever_imports_onnx_runtime_imports_this_package_first():
    """By which it is told to report nothing; tests have it from their conftest."""
    for path in (file for folder in ("sr_deploy", "benchmarks", "train") for file in (ROOT / folder).rglob("*.py")):
        names = [name for node in ast.walk(ast.parse(path.read_bytes())) for name in list_imports(node)]
        if "onnxruntime" in names:
            assert "sr_deploy" in names[: names.index("onnxruntime")] or path.is_relative_to(ROOT / "sr_deploy"), path


def list_imports(node: ast.AST) -> list[str]:
    """First words of what a statement imports."""
    found = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
    if isinstance(node, ast.ImportFrom) and node.module is not None:
        found = [node.module]
    return [name.partition(".")[0] for name in found]
