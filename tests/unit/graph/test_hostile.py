"""Damaged and hostile files of `tests/fuzz/onnx_cases.py`, read and run in a process with limits that a crash ends."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fuzz.onnx_cases import make_case
from tests.fuzz.onnx_graphs import BASES

SEEDS = range(150)
ROOT = Path(__file__).parents[3]
# Reads, describes and runs each file; an exception that is no error of ours is a fault.
READ_ALL = """
import json, resource, sys
from pathlib import Path
import numpy as np
from sr_deploy.errors import SrDeployError
from sr_deploy.graph.read import describe_graph_cost, describe_layers
from sr_deploy.model import open_model
from sr_deploy.runners import open_runner

GIB = 2**30
pages = int(Path("/proc/self/statm").read_text().split()[0])
resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + 2 * GIB,) * 2)
outcomes = {}
for path in map(Path, sys.argv[1:]):
    print(path.name, file=sys.stderr, flush=True)
    try:
        model = open_model(path)
        describe_graph_cost(path)
        n, _, h, w = model.graph_info.input_shape
        side = 16 * model.input_multiple
        describe_layers(path, (n or 1, h or side, w or side))
        with open_runner(model, f"onnxruntime:{model.precisions[0]}", threads=1) as runner:
            runner.infer(np.zeros((n or 1, model.channels, h or side, w or side), np.float32))
        outcomes[path.name] = "taken"
    except SrDeployError as error:
        line = str(error)
        outcomes[path.name] = "refused" if len(line) < 1000 and "\\n" not in line else "long: " + line[:2000]
    except BaseException as error:
        outcomes[path.name] = f"{type(error).__name__}: {error}"
# Not `getrusage`: a process keeps there the peak of the program that started it.
peak = int(Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0]) * 1024
print(json.dumps({"outcomes": outcomes, "peak": peak}))
"""


def read_all(paths):
    command = [sys.executable, "-c", READ_ALL, *map(str, paths)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=300, check=False)
    last = done.stderr.strip().splitlines()[-1:]
    assert done.returncode == 0, f"ended with {done.returncode} at {last}: {done.stderr[-2000:]}"
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="limits of memory are set as Linux has them")
def test_every_case_is_taken_or_refused(tmp_path):
    paths = []
    for seed in SEEDS:
        name, content = make_case(seed)
        if name.startswith("endless"):  # takes the seconds that a trial has; tests of the trial have one
            continue
        paths.append(tmp_path / f"{seed:04d}.onnx")
        paths[-1].write_bytes(content)
    found = read_all(paths)
    outcomes = found["outcomes"]
    assert {name: said for name, said in outcomes.items() if said not in ("taken", "refused")} == {}
    counts = [list(outcomes.values()).count(kind) for kind in ("taken", "refused")]
    assert min(counts) > 10  # neither is everything refused, nor nothing
    assert found["peak"] < 2**30


def test_the_sound_graphs_are_taken(tmp_path):
    paths = []
    for name, make in BASES.items():
        paths.append(tmp_path / f"{name}.onnx")
        paths[-1].write_bytes(make().SerializeToString())
    assert read_all(paths)["outcomes"] == {f"{name}.onnx": "taken" for name in BASES}


def test_a_seed_makes_the_same_file_always():
    assert [make_case(seed) for seed in (3, 17, 3)] == [make_case(seed) for seed in (3, 17, 3)]
    assert make_case(3) != make_case(4)
