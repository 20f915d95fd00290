"""Run every command that the README shows and put its real output there, and the table of its first screen.

    python benchmarks/update_readme.py README.md CHECKPOINT

The commands run in their order in an empty folder that holds one photograph, `photo.jpg` (scikit-image's `coffee`,
reduced to 300x200), so the figures in the README are those of one run on one machine, which it names. CHECKPOINT is the
published network that the table speaks of, Real-ESRGAN's `realesr-animevideov3.pth`.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path

from sr_deploy.bench.report import BenchReport
from sr_deploy.imaging.codec import bundled_photographs, read_image, write_image
from sr_deploy.imaging.resize import downscale_bicubic

TABLE_SHAPE = "1x256x256"
_BLOCK = re.compile(r"```console\n(.*?)```", re.DOTALL)
_TABLE = re.compile(r"(<!-- table -->\n).*?(<!-- end of table -->)", re.DOTALL)


def read_commands(page: str) -> list[str]:
    """The `$ ` commands of the console blocks of a Markdown page, in order."""
    return [command for block in _BLOCK.findall(page) for command in re.findall(r"^\$ (.+)$", block, re.MULTILINE)]


def write_photograph(folder: Path) -> Path:
    """Put the photograph that the README speaks of into `folder`."""
    coffee = read_image(bundled_photographs()["coffee"])
    path = folder / "photo.jpg"
    write_image(path, downscale_bicubic(coffee, 2))
    return path


def run_command(command: str, folder: Path) -> str:
    """Run one command as a user would and return what it printed on stdout."""
    print(f"$ {command}", file=sys.stderr)
    scripts = Path(sys.executable).parent
    environment = os.environ | {"PATH": f"{scripts}{os.pathsep}{os.environ['PATH']}"}
    done = subprocess.run(
        command, shell=True, cwd=folder, env=environment, check=True, stdout=subprocess.PIPE, text=True
    )
    return "\n".join(line.rstrip() for line in done.stdout.splitlines())


def fill_blocks(page: str, folder: Path) -> str:
    """The page with each console block's output replaced by what its commands print in `folder`."""

    def fill_block(block: re.Match[str]) -> str:
        commands = re.findall(r"^\$ (.+)$", block.group(1), re.MULTILINE)
        parts = [f"$ {command}\n{run_command(command, folder)}".rstrip() for command in commands]
        return "```console\n" + "\n\n".join(parts) + "\n```"

    return _BLOCK.sub(fill_block, page)


def make_table(report: BenchReport) -> str:
    """A benchmark as a Markdown table, with a caption that names machine, versions, date and command."""
    lines = [
        "| backend | precision | median | images/s | against PyTorch | peak memory | agreement with PyTorch FP32 |",
        "|---|---|---:|---:|---:|---:|---|",
    ]
    for result in report.results:
        backend, precision = result.contender.split(":")
        speedup = "1" if result.contender == report.baseline else f"{result.speedup:.2f} times as fast"
        psnr = result.parity.psnr_db
        agreement = "the reference" if result.contender == report.reference else "equal"
        if psnr is not None:
            agreement = f"{psnr:.1f} dB, {100 * result.parity.changed_8bit:.2g} % of 8-bit samples differ"
        lines.append(
            f"| {backend} | {precision} | {result.median_ms:.1f} ms | {result.images_per_second:.1f} | {speedup} "
            f"| {result.peak_memory_mib:.0f} MiB | {agreement} |"
        )
    machine = report.machine
    versions = ", ".join(f"{name} {report.versions[name]}" for name in ("torch", "onnxruntime", "openvino"))
    features = ", ".join(machine.features)
    caption = (
        f"{Path(report.model).stem} (compact network, x{report.scale}), input {report.shapes[0]}, on {machine.cores} "
        f"cores of an {machine.cpu} ({features}), {report.threads} threads each; {versions}, Python {machine.python}; "
        f"{report.measured_at[:10]}; `{report.command}`. Peak memory: of a process with this backend alone."
    )
    return "\n".join([*lines, "", caption, ""])


def measure_table(checkpoint: Path, folder: Path) -> str:
    """Export and benchmark the published network."""
    run_command(f"sr-deploy export {shlex.quote(str(checkpoint.resolve()))} --fp16 --backend none", folder)
    document = run_command(f"sr-deploy bench deployments/{checkpoint.stem} --shape {TABLE_SHAPE} --json", folder)
    return make_table(BenchReport.model_validate_json(document))


def main() -> None:
    """Rewrite the page named on the command line."""
    path, checkpoint = Path(sys.argv[1]), Path(sys.argv[2])
    page = path.read_text(encoding="utf-8")
    with tempfile.TemporaryDirectory() as name:
        write_photograph(Path(name))
        page = fill_blocks(page, Path(name))
        table = measure_table(checkpoint, Path(name))
    path.write_text(_TABLE.sub(lambda found: found.group(1) + table + found.group(2), page), encoding="utf-8")


if __name__ == "__main__":
    main()
