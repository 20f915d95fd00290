"""How alike the engines are that TensorRT-RTX builds of one graph, and whether they are taken for equal.

    python benchmarks/engine_builds.py small-x2 deployments/demo --processes 4 --builds 8

Every graph of each bundle (or ONNX file) is built again and again, in several processes one after the other, since what
varies is ordered by places in memory. For each graph: how many of the engines differ, in how many bytes those of the
same length are not all the same, how often a mask of the bytes that differ among two or eight of them does not do for
one more, and how many of the ordered pairs (300 of them at most) are taken for different. Then
single bits are turned over at random places of one of them, and those that are not noticed are counted.

With `--out FILE` the results are written as JSON, with the command, the machine, the versions and the day.
"""

from __future__ import annotations

import argparse
import itertools
import json
import random
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from sr_deploy.backends import Precision, builders
from sr_deploy.backends.tensorrt.build_worker import BuildJob, build
from sr_deploy.backends.tensorrt.equality import find_difference
from sr_deploy.bundle import Profile, parse_profile, utc_now
from sr_deploy.engine.request import EngineRequest
from sr_deploy.files import sha256_of
from sr_deploy.measure.machine import describe_machine, tool_versions
from sr_deploy.model import open_model

_PROFILE = parse_profile("tile=1x64x64,1x256x256,2x512x512")
_BITS = 500
_PAIRS = 300
_DRAWS = 2000


def list_graphs(model: Path) -> Iterator[tuple[str, Path, Precision, tuple[str, ...]]]:
    """Name, file, precision and planned layers of each graph of a bundle, or of the one ONNX file."""
    opened = open_model(model)
    for precision in opened.precisions:
        record = opened.bundle.manifest.graph(precision) if opened.bundle is not None else None
        planned = record.planned_fp32 if record is not None else ()
        yield f"{opened.path.stem} {precision}", opened.graph_path(precision), precision, planned


def make_request(graph: Path, precision: Precision, planned: Sequence[str], profile: Profile) -> EngineRequest:
    """For all GPUs that the builder knows and that compute in the precision."""
    known = builders.compute_capabilities("tensorrt-rtx")
    lacking = builders.find_lacking(precision, known)
    return EngineRequest(
        graph=graph,
        graph_sha256=sha256_of(graph),
        precision=precision,
        backend="tensorrt-rtx",
        profiles=(profile,),
        compute_capabilities=tuple(name for name in known if name not in lacking),
        planned_fp32=tuple(planned),
    )


def build_apart(request: EngineRequest, builds: int, folder: Path) -> None:
    """Build in a process of its own, `builds` times."""
    command = [sys.executable, __file__, "--worker", str(builds), str(folder)]
    subprocess.run(command, input=request.model_dump_json(), text=True, check=True, capture_output=True)


def work(builds: int, folder: Path) -> None:
    """What that process does."""
    request = EngineRequest.model_validate_json(sys.stdin.read())
    begin = sum(1 for _ in folder.iterdir())
    for number in range(begin, begin + builds):
        build(BuildJob(request=request, engine=folder / f"{number}.engine", report=folder / "report"))


def compare(engines: Sequence[bytes]) -> dict[str, float]:
    """How alike they are."""
    distinct = list(dict.fromkeys(engines))
    layouts = {len(engine) for engine in distinct}
    rows = np.stack([np.frombuffer(one, np.uint8) for one in distinct if len(one) == len(distinct[0])])
    pairs = list(itertools.permutations(distinct, 2))
    pairs = random.Random(0).sample(pairs, min(len(pairs), _PAIRS))
    return {
        "builds": len(engines),
        "bytes": len(distinct[0]),
        "lengths": len(layouts),
        "different_engines": len(distinct),
        "bytes_not_all_the_same": int((rows != rows[0]).any(axis=0).sum()),
        "missed_by_mask_of_2": try_mask(engines, 2),
        "missed_by_mask_of_8": try_mask(engines, 8),
        "pairs": len(pairs),
        "pairs_taken_for_different": sum(find_difference(*pair) is not None for pair in pairs),
    }


def try_mask(engines: Sequence[bytes], builds: int) -> float:
    """How often one more engine differs outside a mask of the bytes that differ among some others; 0 to 1."""
    rows = np.stack([np.frombuffer(one, np.uint8) for one in engines if len(one) == len(engines[0])])
    rows = rows[:, (rows != rows[0]).any(axis=0)]
    draw = np.random.default_rng(0)
    missed = 0
    for _ in range(_DRAWS):
        first, *others, last = rows[draw.permutation(len(rows))[: builds + 1]]
        mask = np.any([other != first for other in others], axis=0)
        missed += bool(((last != first) & ~mask).any())
    return missed / _DRAWS


def turn_bits(engine: bytes) -> int:
    """How many of `_BITS` single bits, turned over, are not noticed."""
    draw = random.Random(0)
    unnoticed = 0
    for _ in range(_BITS):
        spoilt = bytearray(engine)
        spoilt[draw.randrange(len(engine))] ^= 1 << draw.randrange(8)
        unnoticed += find_difference(bytes(spoilt), engine) is None
    return unnoticed


def main() -> None:
    """Read the command line, build, compare, tell."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", type=Path)
    parser.add_argument("--processes", type=int, default=4)
    parser.add_argument("--builds", type=int, default=8, help="in each process")
    parser.add_argument("--profile", type=parse_profile, default=_PROFILE)
    parser.add_argument("--bits", action="store_true", help="turn single bits over, too")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--worker", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        work(int(options.worker[0]), Path(options.worker[1]))
        return
    results = {}
    for name, graph, precision, planned in (found for model in options.models for found in list_graphs(model)):
        request = make_request(graph, precision, planned, options.profile)
        with tempfile.TemporaryDirectory() as folder:
            for _ in range(options.processes):
                build_apart(request, options.builds, Path(folder))
            engines = [path.read_bytes() for path in sorted(Path(folder).glob("*.engine"))]
        results[name] = compare(engines)
        if options.bits:
            results[name] |= {"bits_turned": _BITS, "bits_unnoticed": turn_bits(engines[0])}
        print(name, json.dumps(results[name]), flush=True)
    if options.out is not None:
        document = {
            "command": shlex.join(["python", "benchmarks/engine_builds.py", *sys.argv[1:]]),
            "measured_at": utc_now(),
            "machine": describe_machine().model_dump(mode="json"),
            "versions": tool_versions(),
            "results": results,
        }
        options.out.write_text(json.dumps(document, indent=2) + "\n")


if __name__ == "__main__":
    main()
