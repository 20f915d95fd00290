"""What is said goes through `logging`, how far an operation is through one callback."""

from __future__ import annotations

import inspect
import os
import subprocess
import sys
from dataclasses import FrozenInstanceError

import pytest

import sr_deploy
from sr_deploy.progress import Progress

SKIPS = """
from pathlib import Path
import sr_deploy
from sr_deploy.bundle import find_newest_bundle
from sr_deploy.errors import InputError
try:
    find_newest_bundle(Path("deployments"))
except InputError:
    print("none")
"""
WORKERS = {
    "engine": "from sr_deploy.backends.tensorrt.build_worker import main as work",
    "bench": "from sr_deploy.bench.worker import _main as work",
}


@pytest.fixture
def damaged(tmp_path):
    """A folder with a bundle that cannot be read."""
    path = tmp_path / "deployments" / "demo" / "bundle.json"
    path.parent.mkdir(parents=True)
    path.write_text("{")
    return tmp_path


def run(code, folder, **options):
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    words = [sys.executable, "-c", code]
    return subprocess.run(
        words, cwd=folder, env=environment, capture_output=True, text=True, check=False, **options
    )  # fmt: skip


def test_the_package_says_nothing_unless_logging_is_configured(damaged):
    silent = run(SKIPS, damaged)
    assert (silent.stdout, silent.stderr) == ("none\n", "")
    loud = run("import logging\nlogging.basicConfig(format='%(levelname)s %(message)s')\n" + SKIPS, damaged)
    assert loud.stderr.startswith("WARNING skipped: deployments/demo/bundle.json ")


def test_a_command_shows_what_the_package_says(damaged):
    done = run("from sr_deploy.cli import run\nrun()", damaged)
    assert "skipped" not in done.stderr  # its help
    done = run("import sys\nsys.argv.append('verify')\nfrom sr_deploy.cli import run\nrun()", damaged)
    said, error = done.stderr.splitlines()
    assert said.startswith("skipped: deployments/demo/bundle.json ")
    assert error.startswith("error: ")
    assert done.returncode == 1


@pytest.mark.parametrize("name", WORKERS)
def test_a_worker_process_writes_warnings_where_its_owner_reads(tmp_path, name):
    code = f"""
import logging
{WORKERS[name]}
try:
    work()
except Exception:  # nothing is asked of it
    pass
logging.getLogger("sr_deploy.backends.builders").warning("%s: %s", "the SDK", "warned")
"""
    done = run(code, tmp_path, stdin=subprocess.DEVNULL)
    assert done.stderr == "the SDK: warned\n"


@pytest.mark.parametrize(
    "operation",
    [
        sr_deploy.bench_model,
        sr_deploy.build_engines,
        sr_deploy.evaluate_model,
        sr_deploy.export_bundle,
        sr_deploy.Upscaler.__call__,
        sr_deploy.Upscaler.upscale,
        sr_deploy.Upscaler.upscale_many,
        sr_deploy.Upscaler.upscale_rows,
    ],
)
def test_progress_has_one_name_and_one_type(operation):
    told = inspect.signature(operation).parameters["on_progress"]
    assert (told.kind, told.default, told.annotation) == (told.KEYWORD_ONLY, None, "OnProgress | None")


def test_a_progress_is_a_value():
    progress = sr_deploy.Progress("upscaling", 3, 12, "tiles")
    assert progress == Progress("upscaling", 3, 12, "tiles")
    with pytest.raises(FrozenInstanceError):
        progress.done = 4  # type: ignore[misc]
