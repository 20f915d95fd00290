"""`make fuzz MINUTES=10`: try hostile and damaged inputs until time is up, and keep each one that is not refused well.

Every case is made from a seed, so that a run can be had again: `--seed` and the number of the case decide. A fault is
kept as a folder with the files, the command and what it said.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

ROOT = Path(__file__).parents[2]

Maker = Callable[[random.Random, int, Path], list[str]]
"""Puts the files of a case into a folder; gives the words of the command to run there."""


@dataclass
class Tally:
    """What became of the cases of one kind."""

    outcomes: Counter[str] = field(default_factory=Counter)
    slowest: float = 0.0
    """Processor time, in seconds."""
    largest: float = 0.0
    """Memory, in MiB."""


@dataclass(frozen=True)
class Material:
    """Sound files that cases are made from, and small ones that commands need beside the hostile one."""

    checkpoint: Path
    bundle: Path
    image: Path


class Server:
    """A process that runs cases; started anew if it does not answer."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._environment = dict(environment)
        self._process: subprocess.Popen[str] | None = None

    def run(self, folder: Path, words: list[str]) -> dict[str, object]:
        """Run one case; how it ended."""
        if self._process is None:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.fuzz.child"],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=self._environment,
            )  # fmt: skip
        stdin, stdout = self._pipes()
        stdin.write(json.dumps({"folder": str(folder), "words": words}) + "\n")
        stdin.flush()
        answer = stdout.readline()
        if not answer:
            self.close()
            return {"outcome": "fault", "reason": "the server died", "code": 0, "seconds": 0.0, "mib": 0.0, "said": ""}
        return dict(json.loads(answer))

    def close(self) -> None:
        """End the process."""
        if self._process is not None:
            stdin, _ = self._pipes()
            stdin.close()
            self._process.wait()
            self._process = None

    def _pipes(self) -> tuple[IO[str], IO[str]]:
        assert self._process is not None
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        return self._process.stdin, self._process.stdout


def make_material(folder: Path) -> Material:
    """Write a small network, its bundle and a picture."""
    import torch
    from PIL import Image

    from sr_deploy.arch.registry import build_network
    from sr_deploy.arch.spec import ArchSpec
    from sr_deploy.arch.weights import save_generator

    spec = ArchSpec(architecture="compact", scale=2, features=4, blocks=1)
    torch.manual_seed(0)
    network = build_network(spec)
    with torch.no_grad():
        for weights in network.parameters():
            weights.mul_(0.5)
    checkpoint = folder / "tiny.safetensors"
    save_generator(checkpoint, network.state_dict(), spec)
    words = ["export", str(checkpoint), "--fp16", "--backend", "none", "--out", str(folder / "bundle")]
    subprocess.run([sys.executable, "-m", "sr_deploy", *words], check=True, capture_output=True, cwd=folder)
    image = folder / "small.png"
    Image.new("RGB", (16, 12), (90, 120, 30)).save(image)
    return Material(checkpoint, folder / "bundle", image)


def list_makers(material: Material) -> dict[str, tuple[float, Maker]]:
    """Kinds of cases, with how often each is drawn."""
    from tests.fuzz import argument_cases, document_cases, image_cases, onnx_cases, video_cases, weight_cases

    recipes = document_cases.list_documents(ROOT / "train")
    specs = document_cases.list_documents(ROOT / "export")
    tiny = f"--model {material.checkpoint} --backend torch"

    def write(folder: Path, case: tuple[str, str, bytes]) -> str:
        name = f"case.{case[1]}"
        (folder / name).write_bytes(case[2])
        return name

    def weights(draw: random.Random, seed: int, folder: Path) -> list[str]:
        name = write(folder, weight_cases.make_case(seed))
        blend = f"interpolate {name} {material.checkpoint} --alpha 0.5 --out out.safetensors"
        return draw.choice((f"info {name}", f"info {name} --json", blend)).split()

    def graph(draw: random.Random, seed: int, folder: Path) -> list[str]:
        (folder / "case.onnx").write_bytes(onnx_cases.make_case(seed)[1])
        upscale = f"upscale {material.image} out.png --model case.onnx"
        return draw.choice(("info case.onnx", "info case.onnx --layers", "verify case.onnx", upscale)).split()

    def image(draw: random.Random, seed: int, folder: Path) -> list[str]:
        name = write(folder, image_cases.make_case(seed))
        upscale = f"upscale {name} out.{draw.choice(('png', 'jpg', 'webp', 'tif'))} {tiny}"
        return draw.choice((upscale, upscale, f"{upscale} --stream", f"degrade {name} --out sheet.png")).split()

    def video(_: random.Random, seed: int, folder: Path) -> list[str]:
        return f"upscale {write(folder, video_cases.make_case(seed))} out.mkv {tiny}".split()

    def bundle(draw: random.Random, _: int, folder: Path) -> list[str]:
        document_cases.damage_bundle(draw, material.bundle, folder / "case")
        upscale = f"upscale {material.image} out.png --model case --backend onnxruntime"
        return draw.choice(("info case", "info case", "verify case --backend onnxruntime:fp32", upscale)).split()

    def document(draw: random.Random, folder: Path, documents: list[tuple[str, str]]) -> str:
        name, text = draw.choice(documents)
        (folder / f"{name}.toml").write_bytes(document_cases.damage_toml(draw, text))
        return f"{name}.toml"

    def recipe(draw: random.Random, _: int, folder: Path) -> list[str]:
        return f"train {document(draw, folder, recipes)} --data missing --device cpu".split()

    def spec(draw: random.Random, _: int, folder: Path) -> list[str]:
        return f"export missing.pth --spec {document(draw, folder, specs)} --backend none".split()

    def arguments(draw: random.Random, _: int, folder: Path) -> list[str]:
        return argument_cases.make_words(draw, folder, material.checkpoint, material.image)

    return {
        "weights": (6, weights), "onnx": (4, graph), "image": (6, image), "video": (1, video), "bundle": (3, bundle),
        "recipe": (2, recipe), "spec": (2, spec), "arguments": (2, arguments),
    }  # fmt: skip


def run_campaign(
    arguments: argparse.Namespace, makers: Mapping[str, tuple[float, Maker]], environment: Mapping[str, str]
) -> dict[str, Tally]:
    """Try cases in as many processes as asked until time is up, or all of them are tried."""
    tallies = {kind: Tally() for kind in makers}
    end = time.monotonic() + arguments.minutes * 60
    numbers = iter(range(arguments.first, arguments.first + arguments.cases))
    lock = threading.Lock()
    kinds, shares = list(makers), [share for share, _ in makers.values()]

    def work() -> None:
        server = Server(environment)
        while time.monotonic() < end:
            with lock:
                number = next(numbers, None)
                if number is None:
                    break
                seed = arguments.seed * 10**9 + number
                draw = random.Random(seed)
                kind = draw.choices(kinds, shares)[0]
                folder = Path(tempfile.mkdtemp(prefix=f"{kind}-{number}-", dir=environment["TMPDIR"]))
                words = makers[kind][1](draw, seed, folder)
            ending = server.run(folder, words)
            with lock:
                _count(tallies[kind], ending)
                tried = sum(tally.outcomes.total() for tally in tallies.values())
                if tried % 1000 == 0:
                    print(f"{tried} tried", flush=True)
                if ending["outcome"] == "fault":
                    _keep(arguments.faults / f"{kind}-{number}", folder, words, ending)
            shutil.rmtree(folder, ignore_errors=True)
        server.close()

    with ThreadPoolExecutor(arguments.jobs) as pool:
        for done in [pool.submit(work) for _ in range(arguments.jobs)]:
            done.result()
    return tallies


def _count(tally: Tally, ending: Mapping[str, object]) -> None:
    tally.outcomes[str(ending["outcome"])] += 1
    tally.slowest = max(tally.slowest, float(str(ending["seconds"])))
    tally.largest = max(tally.largest, float(str(ending["mib"])))


def _keep(place: Path, folder: Path, words: list[str], ending: Mapping[str, object]) -> None:
    print(f"FAULT {place}: {ending['reason']}: sr-deploy {' '.join(map(ascii, words))[:300]}", flush=True)
    shutil.rmtree(place, ignore_errors=True)
    shutil.copytree(folder, place, symlinks=True, ignore=shutil.ignore_patterns("stdout.txt", "stderr.txt"))
    (place / "case.json").write_text(json.dumps({"words": words, **ending}, indent=2))


def show_table(tallies: Mapping[str, Tally]) -> int:
    """Print what was tried; the number of faults."""
    print(f"{'kind':12}{'tried':>8}{'refused':>9}{'taken':>8}{'faults':>8}{'slowest':>10}{'largest':>10}")
    total: Counter[str] = Counter()
    for kind, tally in tallies.items():
        total += tally.outcomes
        _show_row(kind, tally.outcomes, f"{tally.slowest:.1f} s", f"{tally.largest:.0f} MiB")
    _show_row("all", total, "", "")
    return total["fault"]


def _show_row(kind: str, outcomes: Counter[str], slowest: str, largest: str) -> None:
    tried = sum(outcomes.values())
    print(
        f"{kind:12}{tried:>8}{outcomes['refused']:>9}{outcomes['taken']:>8}{outcomes['fault']:>8}{slowest:>10}{largest:>10}"
    )


def main() -> int:
    """Run a campaign; 0 if nothing was found."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--cases", type=int, default=10**9, help="try no more than so many")
    parser.add_argument("--seed", type=int, default=int(time.time()) % 100_000, help="another seed gives other cases")
    parser.add_argument("--first", type=int, default=0, help="number of the first case")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--kind", action="append", help="try only this kind; repeatable")
    parser.add_argument("--faults", type=Path, default=Path("fuzz-faults"), help="folder for what was found")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="sr-deploy-fuzz-") as temporary:
        place = Path(temporary)
        own = {"HOME": temporary, "TMPDIR": temporary, "SR_DEPLOY_CACHE": str(place / "cache")}
        environment = {**os.environ, **own, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
        makers = list_makers(make_material(place))
        if arguments.kind:
            makers = {kind: makers[kind] for kind in arguments.kind}
        print(f"seed {arguments.seed}, {arguments.jobs} processes, {arguments.minutes:g} minutes", flush=True)
        faults = show_table(run_campaign(arguments, makers, environment))
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
