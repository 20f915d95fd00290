"""Train networks of one cost for as many steps each, and say what each gives on pictures that it has not seen.

    python benchmarks/architectures.py --data BSDS500 --set14 SET14

The recipe is `small-x2`, with the network exchanged: the compact network, SPAN with plain convolutions, and SPAN as it
is published, whose convolutions are trained in three branches and exported as one. All take the same operations for a
pixel once they are deployed, to a fiftieth. The figures go to benchmarks/results/architectures.md and docs/training.md.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

from pages import describe_run, head_lines, make_table, replace_table, write_results
from srgan_stages import run

from sr_deploy.arch.registry import describe_cost
from sr_deploy.model import open_model

ROOT = Path(__file__).parents[1]
NETWORKS = {
    "compact, 15 convolutions of 32": ["network.features=32", "network.blocks=15"],
    "SPAN of 28, plain convolutions": ["network.architecture=span", "network.features=28", "network.blocks=6",
                                       "network.branches=1"],
    "SPAN of 28, in branches": ["network.architecture=span", "network.features=28", "network.blocks=6"],
}  # fmt: skip


def measure(settings: list[str], scale: int, options: argparse.Namespace, runs: Path) -> dict[str, object]:
    """Train one network and evaluate it."""
    every = f"run.validate_every={options.steps}"
    sets = [*settings, f"scale={scale}", f"run.steps={options.steps}", f"run.checkpoint_every={options.steps}", every]
    folder = runs / str(len(list(runs.iterdir())))
    started = time.monotonic()
    words = [word for setting in sets for word in ("--set", setting)]
    run("train", "small-x2", "--data", options.data, "--out", folder, *words)
    seconds = time.monotonic() - started
    seen = run("evaluate", folder, "--hr", options.set14, "--no-niqe")
    arch = open_model(folder).arch
    assert arch is not None
    return {
        "flops_per_pixel": describe_cost(arch).flops_per_input_pixel,
        "minutes": seconds / 60,
        "psnr_y": seen["mean_model"]["psnr_y"],
        "bicubic": seen["mean_bicubic"]["psnr_y"],
    }


def main() -> None:
    """Train each, evaluate, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of photographs to train on")
    parser.add_argument("--set14", type=Path, required=True, help="folder of originals to evaluate on")
    parser.add_argument("--steps", type=int, default=600, help="of each run [600]")
    parser.add_argument("--scale", type=int, action="append", help="2, 4, ...; repeatable [2]")
    options = parser.parse_args()
    found = {}
    with tempfile.TemporaryDirectory() as name:
        for scale in options.scale or [2]:
            for network, settings in NETWORKS.items():
                found[f"{network}, x{scale}"] = measure(settings, scale, options, Path(name))
    rows = [
        (name, f"{one['flops_per_pixel'] / 1e3:.0f}", f"{one['minutes']:.1f}", f"{one['psnr_y']:.2f}",
         f"{one['bicubic']:.2f}")
        for name, one in found.items()
    ]  # fmt: skip
    table = make_table("network | kFLOP for a pixel | minutes | Y-PSNR on Set14, dB | bicubic", rows)
    facts = {**describe_run("torch", "numpy"), "recipe": "small-x2", "steps": options.steps}
    page = [*head_lines("Networks of one cost", "architectures.py", facts), *table, ""]
    write_results(ROOT / "benchmarks/results/architectures", {**facts, "networks": found}, "\n".join(page))
    origin = (
        f"`{facts['command']}`, {facts['machine']}; {facts['versions']}; {facts['date']}; {options.steps} steps each."
    )
    replace_table("architectures", "\n".join(["", *table, "", origin]), ROOT / "docs/training.md")


if __name__ == "__main__":
    main()
