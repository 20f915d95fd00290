"""What `sr-deploy upscale` says of pictures and folders, in lines and as a document."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from sr_deploy.cli.output import Output

if TYPE_CHECKING:
    from sr_deploy.runners.protocol import RunnerSpec
    from sr_deploy.upscale.folder import FolderResult
    from sr_deploy.upscale.image_file import UpscaledFile


@dataclass(frozen=True)
class OpenedNetwork:
    """A network and what it runs on."""

    path: Path
    spec: RunnerSpec
    receptive_radius: int | None
    """How far the network looks around a pixel."""
    devices: list[str]
    """What it runs on."""


def show_network(output: Output, opened: OpenedNetwork) -> None:
    """Two lines: the model, and what runs it where."""
    output.show(f"model    {opened.path}")
    output.show(f"backend  {opened.spec} {opened.spec.version} on {', '.join(opened.devices)}")


def network_document(opened: OpenedNetwork) -> dict[str, object]:
    """The same for `--json`."""
    return {
        "model": str(opened.path),
        "backend": str(opened.spec),
        "backend_version": opened.spec.version,
        "device": opened.spec.device,
        "devices": opened.devices,
        "scale": opened.spec.scale,
        "receptive_radius": opened.receptive_radius,
    }


def show_folder(output: Output, target: Path, result: FolderResult) -> None:
    """What was remarkable, what failed, and how many of each."""
    for file in result.done:
        for line in describe_remarks(file):
            output.show(f"{file.target}: {line}")
    for fault in result.faults:
        output.log(f"done by another device: {fault}")
    for failure in result.failures:
        output.log(f"failed: {failure.source}: {failure.reason}")
    counts = (
        (len(result.done), "written"),
        (len(result.skipped), "finished before"),
        (len(result.failures), "failed"),
        (len(result.left), "left"),
    )
    told = ", ".join(f"{count} {what}" for count, what in counts if count or what == "written")
    output.show(f"{target}: {told}, {result.seconds:.2f} s")
    if result.left:
        output.log("run the same command again to do the rest; what is finished is skipped")


def folder_document(source: Path, target: Path, result: FolderResult) -> dict[str, object]:
    """The same for `--json`."""
    return {
        "source": str(source),
        "target": str(target),
        "written": [file_document(file) for file in result.done],
        "skipped": [str(path) for path in result.skipped],
        "failed": [{"source": str(failure.source), "reason": failure.reason} for failure in result.failures],
        "left": [str(path) for path in result.left],
        "faults": result.faults,
        "stopped": result.stopped,
        "seconds": result.seconds,
    }


def file_document(result: UpscaledFile) -> dict[str, object]:
    """One picture, for `--json`."""
    report = result.reports[0]
    return {
        "source": str(result.source),
        "target": str(result.target),
        "input": {"width": result.width, "height": result.height},
        "output": {"width": result.target_width, "height": result.target_height},
        "tiles": report.tiles,
        "halo": report.halo,
        "recomputed": result.recomputed,
        "halvings": sum(each.halvings for each in result.reports),
        "batch": report.batch,
        "batch_halvings": sum(each.batch_halvings for each in result.reports),
        "seam_db": report.seam_db,
        "losses": list(result.losses),
        "seconds": result.seconds,
    }


def describe_file(result: UpscaledFile, receptive_radius: int | None) -> str:
    """One picture, in a line."""
    report = result.reports[0]
    tiles = "whole" if report.tiles == 1 else f"{report.tiles} tiles {_describe_halo(report.halo, receptive_radius)}"
    size = f"{result.width}x{result.height} to {result.target_width}x{result.target_height}"
    return f"{result.target}: {size}, {tiles}, {result.seconds:.2f} s"


def describe_remarks(result: UpscaledFile) -> list[str]:
    """What did not go by itself: losses of the format, tiles computed again, memory, seams."""
    remarks = [f"note     {loss}" for loss in result.losses]
    if result.recomputed:
        remarks.append(f"guards   {result.recomputed} tiles were wrong and were computed again in FP32")
    if sum(report.batch_halvings for report in result.reports):
        remarks.append("memory   ran out, and fewer tiles went through the network at once; a smaller --batch fits")
    halvings = sum(report.halvings for report in result.reports)
    if halvings:
        remarks.append(
            f"memory   ran out {halvings} times; tiles of at most {result.reports[-1].tile_limit} pixels fit"
        )
    for report in result.reports:
        if not report.seams_kept:
            remarks.append(
                f"seams    {report.seam_db:.1f} dB, below the {report.seam_budget_db:g} dB that are aimed at; take a "
                "larger --tile, or 0"
            )
    return remarks


def _describe_halo(halo: int, receptive_radius: int | None) -> str:
    if receptive_radius is None:
        return f"with {halo} pixels of overlap"
    if receptive_radius <= halo:
        return f"with {halo} pixels of overlap, all that the network sees"
    return f"with {halo} pixels of overlap of the {receptive_radius} that the network sees"
