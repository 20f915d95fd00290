"""How long `sr-deploy` takes from its start to its end where there is next to nothing to compute.

    python benchmarks/startup.py deployments/demo

A photograph of 64x64 pixels is upscaled by each backend and by `auto`, which remembers its choice by then. `--help`,
`info` and Python with nothing but numpy are timed beside them, in turns. Whole processes, files warm in memory; the
median of the rounds, with half the interquartile range. Results go to `results/startup.json` and `.md`, and into
docs/performance.md.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from pages import describe_run, make_table, replace_table, write_results

from sr_deploy.imaging.codec import bundled_photographs, read_image, write_image
from sr_deploy.model import open_model
from sr_deploy.runners import runnable_choices

RESULTS = Path(__file__).parent / "results" / "startup"


def list_commands(model: Path, picture: Path) -> dict[str, list[str]]:
    """What is timed, by what it is called."""
    program = [sys.executable, "-m", "sr_deploy"]
    backends = [str(choice) for choice in runnable_choices(open_model(model)) if choice.precision == "fp32"]

    def upscale(backend: str) -> list[str]:
        target = picture.with_name(f"{backend.replace(':', '-')}.png")
        return [*program, "upscale", str(picture), str(target), "--model", str(model), "--backend", backend]

    return {
        "python -c 'import numpy'": [sys.executable, "-c", "import numpy"],
        "sr-deploy --help": [*program, "--help"],
        "sr-deploy info MODEL": [*program, "info", str(model)],
        **{f"sr-deploy upscale --backend {backend}": upscale(backend) for backend in ("auto", *backends)},
    }


def time_command(command: Sequence[str]) -> float:
    """Seconds from start to end."""
    started = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True)
    return time.perf_counter() - started


def time_in_turns(commands: dict[str, list[str]], rounds: int) -> dict[str, list[float]]:
    """Seconds of each command, by round; one more round goes before, untimed."""
    taken: dict[str, list[float]] = {name: [] for name in commands}
    for number in range(rounds + 1):
        for name, command in commands.items():
            seconds = time_command(command)
            if number:
                taken[name].append(seconds)
    return taken


def format_table(document: dict[str, object], taken: dict[str, list[float]]) -> str:
    """The table, and where it is from."""
    rows = []
    for name, seconds in taken.items():
        low, middle, high = statistics.quantiles(seconds, n=4)
        rows.append((f"`{name}`", f"{middle:.2f} s", f"±{(high - low) / 2:.2f} s"))
    place = f"{document['machine']}; {document['versions']}; {document['date']}; `{document['command']}`"
    return "\n".join([*make_table("command | median | spread", rows), "", f"{place}; {document['rounds']} rounds.", ""])


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, help="a bundle")
    parser.add_argument("--rounds", type=int, default=10)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="sr-deploy-") as folder:
        picture = Path(folder) / "in.png"
        write_image(picture, read_image(bundled_photographs()["chelsea"])[100:164, 150:214])
        taken = time_in_turns(list_commands(arguments.model, picture), arguments.rounds)
    document = {**describe_run("torch", "onnxruntime", "openvino", "numpy"), "rounds": arguments.rounds}
    table = format_table(document, taken)
    page = f"# Start-up\n\nWritten by `benchmarks/startup.py`; do not edit.\n\n{table}"
    write_results(RESULTS, {**document, "seconds": taken}, page)
    replace_table("start-up", table)


if __name__ == "__main__":
    main()
