"""The campaign of `make fuzz`: what it once found is tried again, and what it must notice is noticed."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CORPUS = sorted(path.parent for path in (ROOT / "tests" / "fuzz" / "corpus").glob("*/case.json"))
RunCase = Callable[[Path, list[str]], dict[str, object]]

# What stands in for a command, and the fault that has to be noticed; none for what ends well.
PLANTED = {
    "os.kill(os.getpid(), 11)": "killed by SIGSEGV",
    "while True: pass": "killed by SIG",
    "import time; time.sleep(60)": "killed by SIGKILL",
    "held = bytearray(300 * 2**20); held[::4096] = b'x' * len(held[::4096]); code = 0": "MiB",
    "1 / 0": "exit code 99",
    "code = 77": "exit code 77",
    "code = 1": "no line that says why",
    "print('error: internal: KeyError: 3', file=sys.stderr); code = 1": "nobody foresaw",
    "print('Traceback (most recent call last):\\nerror: x', file=sys.stderr); code = 1": "a traceback",
    "print('error: \\x1b[31mred', file=sys.stderr); code = 1": "control characters",
    "print('error: ' + 'x' * 9000, file=sys.stderr); code = 1": "1 lines, the longest of 9007",
    "code = 0": "",
    "print('error: the file is empty; give another', file=sys.stderr); code = 1": "",
}
RUN_PLANTED = """
import json, os, sys
from pathlib import Path
import sr_deploy.cli
from tests.fuzz import child
child.MIB = 200  # not a GiB: a machine that does other work takes its time to give that much
def main(words):
    inside = {"os": os, "sys": sys}
    exec(words[0], inside)
    return inside["code"]
sr_deploy.cli.main = main
def run(body):
    child.WALL_SECONDS = 3 if "while" in body or "sleep" in body else 60
    return child.run_case(Path(sys.argv[1]), [body]).__dict__
print(json.dumps([run(body) for body in json.loads(sys.argv[2])]))
"""


@pytest.fixture(scope="module")
def run_case() -> Iterator[RunCase]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    server = subprocess.Popen(
        [sys.executable, "-m", "tests.fuzz.child"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
    )
    assert server.stdin is not None
    assert server.stdout is not None

    def run(folder: Path, words: list[str]) -> dict[str, object]:
        assert server.stdin is not None
        assert server.stdout is not None
        server.stdin.write(json.dumps({"folder": str(folder), "words": words}) + "\n")
        server.stdin.flush()
        return dict(json.loads(server.stdout.readline()))

    yield run
    server.stdin.close()
    assert server.wait() == 0


@pytest.mark.parametrize("case", CORPUS, ids=lambda path: path.name)
def test_what_was_found_once_ends_well_now(case: Path, run_case: RunCase, tmp_path: Path) -> None:
    folder = tmp_path / "case"
    shutil.copytree(case, folder)
    due = json.loads((folder / "case.json").read_text())
    ending = run_case(folder, due["words"])
    assert (ending["outcome"], ending["reason"]) == (due["outcome"], ""), ending["said"]
    assert due["says"] in str(ending["said"])


def test_planted_faults_are_noticed(tmp_path: Path) -> None:
    words = [sys.executable, "-c", RUN_PLANTED, str(tmp_path), json.dumps(list(PLANTED))]
    endings = json.loads(subprocess.run(words, capture_output=True, text=True, check=True, cwd=ROOT).stdout)
    for (body, reason), ending in zip(PLANTED.items(), endings, strict=True):
        due = "fault" if reason else "taken" if body == "code = 0" else "refused"
        assert ending["outcome"] == due, (body, ending)
        assert reason in ending["reason"], (body, ending)


def test_a_seed_gives_the_same_case_again() -> None:
    program = """
import hashlib
from tests.fuzz import image_cases, onnx_cases, weight_cases
made = [one.make_case(seed) for one in (image_cases, weight_cases, onnx_cases) for seed in range(40)]
print(hashlib.sha256(repr(made).encode()).hexdigest(), len({case[-1] for case in made}))
"""
    words = [sys.executable, "-c", program]
    first, again = (
        subprocess.run(words, capture_output=True, text=True, check=True, cwd=ROOT).stdout for _ in range(2)
    )
    assert first == again
    assert int(first.split()[1]) > 100  # of 120: they differ from each other
