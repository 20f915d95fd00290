"""Puts the page together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

import numpy as np

from sr_deploy.bundle import CertificateEntry, Check, FileRecord, Ledger, Measurement, WorstPlace, utc_now
from sr_deploy.files import write_text
from sr_deploy.measure.machine import tool_versions
from sr_deploy.page.html import bars, colour_of, encode_picture, escape, make_page, table, verdict
from sr_deploy.verify.margin import margin_of, measure_margin
from sr_deploy.verify.model import NotRun
from sr_deploy.verify.worst import Crop

_FAR_DB = 30.0
"""Margin from which a cell of the map is fully green."""
_FULL = 255
_MOST_CROPS = 12


@dataclass(frozen=True)
class PageContent:
    """Everything that the page shows."""

    title: str
    """What was verified."""
    network: str
    """Its architecture for people; empty if unknown."""
    failures: Sequence[str]
    """What fell short; empty: verified."""
    artefacts: Sequence[FileRecord]
    """Files and their hashes."""
    entries: Sequence[CertificateEntry]
    """What was measured."""
    checks: Sequence[Check]
    """What was found in the files."""
    ledgers: Sequence[Ledger]
    """Where the tenths of a dB go."""
    crops: Sequence[Crop]
    """The worst places."""
    not_run: Sequence[NotRun]
    """What could not be run, and why."""


def write_page(content: PageContent, path: Path) -> None:
    """Write the page, whole or not at all.

    Raises:
        OutputError: it cannot be written.
    """
    write_text(path, render_page(content))


def render_page(content: PageContent) -> str:
    """The page as text: styles, script and pictures inside, nothing fetched from anywhere."""
    sections = (
        _show_header(content),
        _show_entries(content.entries),
        _show_ledgers(content.ledgers),
        _show_crops(content.crops),
        _show_maps(content.entries),
        _show_checks(content.checks),
        _show_files(content.artefacts),
        _show_rest(content),
    )
    script = files("sr_deploy.verify.page").joinpath("slider.js").read_text(encoding="utf-8")
    return make_page(f"Certificate: {content.title}", sections, script)


def _show_header(content: PageContent) -> str:
    passed = not content.failures
    word = "verified" if passed else "NOT verified"
    lines = [
        f'<header><h1>{escape(content.title)}</h1><span class="verdict {"good" if passed else "bad"}">{word}</span>'
        f'<span class="soft">{escape(content.network)}</span></header>'
    ]
    lines += [f'<p class="bad">{escape(failure)}</p>' for failure in content.failures]
    references = dict.fromkeys(entry.reference for entry in content.entries)
    machines = dict.fromkeys(entry.machine for entry in content.entries)
    version = tool_versions().get("sr-deploy", "")
    lines.append(
        f'<p class="soft">Compared with {escape(", ".join(references))} on {escape(", ".join(machines))}. '
        f"sr-deploy {escape(version)}, {escape(utc_now()[:19].replace('T', ' '))} UTC.</p>"
    )
    return "\n".join(lines)


def _show_entries(entries: Sequence[CertificateEntry]) -> str:
    rows = []
    for entry in entries:
        judged = entry.judged_measurements
        worst = max(judged, key=lambda one: one.max_abs)
        limit, floor = entry.thresholds.get("max_abs"), entry.thresholds.get("psnr_db")
        ssims = [one.ssim for one in judged if one.ssim is not None]
        off, more = (max(getattr(one, name) or 0 for one in judged) for name in ("changed_8bit", "changed_8bit_more"))
        rows.append(
            [
                verdict(entry.passed),
                f"<code>{escape(entry.artefact.file)}</code>",
                _two_lines(escape(entry.backend), escape(entry.backend_version)),
                _two_lines(
                    "equal" if entry.worst_psnr_db is None else f"{entry.worst_psnr_db:.1f} dB",
                    "" if floor is None else f"needs {floor:.1f} dB",
                ),
                _two_lines(f"{entry.worst_max_abs:.1e}", "" if limit is None else f"up to {limit:.1e}"),
                show_margin(measure_margin(entry)),
                "" if not ssims else f"{min(ssims):.5f}",
                _two_lines(f"{off:.3%}", f"{more:.3%} by more"),
                _two_lines(
                    escape(f"{worst.content} {worst.shape}"), "" if worst.worst is None else describe_place(worst.worst)
                ),
            ]
        )
    header = ["", "artefact", "runs on", "PSNR", "max abs", "margin", "SSIM", "off in 8 bit", "worst place"]
    margins = [(f"{one.artefact.file} {one.backend}", measure_margin(one)) for one in entries]
    plot = bars(
        [
            (_shorten(name), max(-_FAR_DB, margin), show_margin(margin))
            for name, margin in margins
            if margin is not None
        ],
        "Margin of each artefact to its nearest threshold, in dB",
    )
    return (
        "<h2>What was run</h2><p>The worst of all inputs counts. Max abs is of outputs that are not clamped, where "
        "black is 0 and white is 1; the margin is the distance to the nearest threshold. Off "
        "in 8 bit is the share of samples that are another number after rounding, and by more than one.</p>"
        f"{table(header, rows, numbers=range(3, 8))}<h3>Margin to the nearest threshold</h3>{plot}"
    )


def describe_place(place: WorstPlace) -> str:
    """As in `row 110, column 127 of image 1`; images count from 0, and the first is not named."""
    of_image = f" of image {place.image}" if place.image else ""
    return f"row {place.y}, column {place.x}{of_image}"


def _two_lines(first: str, second: str) -> str:
    return f'<span class="line">{first}</span>' + (f'<br><span class="line soft">{second}</span>' if second else "")


def show_margin(margin: float | None) -> str:
    """As in `+29.1 dB`."""
    return "" if margin is None else f"{margin:+.1f} dB"


def show_lost(lost_db: float) -> str:
    """As in `0.0213 dB`; what was gained by chance has a plus sign."""
    rounded = round(lost_db, 4)
    return f"+{-rounded:.4f} dB" if rounded < 0 else f"{abs(rounded):.4f} dB"


def _shorten(name: str) -> str:
    file, _, backend = name.rpartition(" ")
    return (
        f"{backend} {'' if len(file) > len('model.fp16.onnx') else file.removeprefix('model.').removesuffix('.onnx')}"
    )


def _show_ledgers(ledgers: Sequence[Ledger]) -> str:
    parts = []
    greatest = max((abs(stage.lost_db) for ledger in ledgers for stage in ledger.stages), default=0.0)
    for ledger in ledgers:
        rows = [
            [
                escape(stage.name),
                escape(stage.runs),
                "equal" if stage.psnr_db is None else f"{stage.psnr_db:.1f} dB",
                "equal" if stage.step_psnr_db is None else f"{stage.step_psnr_db:.1f} dB",
                "equal" if stage.truth_psnr_db is None else f"{stage.truth_psnr_db:.3f} dB",
                show_lost(stage.lost_db) if number else "",
            ]
            for number, stage in enumerate(ledger.stages)
        ]
        header = ["stage", "what ran", "to PyTorch", "to the stage before", "to the photographs", "lost"]
        plot = bars(
            [(stage.name, stage.lost_db, show_lost(stage.lost_db)) for stage in ledger.stages[1:]],
            f"dB lost in each stage of the {ledger.precision} chain",
            greatest,
        )
        worst = ledger.worst_stage
        said = f"{worst.name} loses most, {worst.lost_db:.4f} dB" if worst.lost_db > 0 else "no stage loses anything"
        parts.append(
            f"<h3>{escape(ledger.precision)} on {escape(ledger.machine)}, {escape(ledger.inputs)}: {escape(said)}</h3>"
            f"{table(header, rows, numbers=range(2, 6))}{plot}"
        )
    if not parts:
        return ""
    return (
        "<h2>Drift ledger</h2><p>The same photographs through every stage from the trained network to the file on "
        "disk. Lost is what the stage takes from the PSNR against the original photographs.</p>" + "".join(parts)
    )


def _show_crops(crops: Sequence[Crop]) -> str:
    if not crops:
        return ""
    shown = sorted(crops, key=lambda crop: -crop.max_abs)[:_MOST_CROPS]
    figures = "".join(_show_crop(number, crop) for number, crop in enumerate(shown))
    return (
        "<h2>Worst places</h2><p>Drag the handle, or use the arrow keys: the reference is left of it, the artefact "
        f'right of it.</p><div class="figures">{figures}</div>'
    )


def _show_crop(number: int, crop: Crop) -> str:
    difference = np.abs(crop.candidate.astype(np.int16) - crop.reference)
    gain = max(1, _FULL // max(1, int(difference.max())))
    views = {
        "artefact": ("artefact", "artefact", crop.candidate),
        "difference": (f"difference in 8 bit, times {gain}", "difference", (difference * gain).astype(np.uint8)),
        "input": ("input", "input", crop.lr),
    }
    stored = "".join(
        f'<img class="store" data-view="{view}" alt="" src="{encode_picture(picture)}">'
        for view, (_, _, picture) in views.items()
    )
    choices = "".join(
        f'<label><input type="radio" name="view{number}" value="{view}" data-name="{escape(name)}"'
        f"{' checked' if view == 'artefact' else ''}> {label}</label>"
        for view, (name, label, _) in views.items()
    )
    place = f"{crop.point}, {describe_place(crop.place)}"
    height, width = crop.reference.shape[:2]
    return (
        f'<figure><div class="slider" tabindex="0" role="slider" aria-valuemin="0" aria-valuemax="100" '
        f'aria-valuenow="50" aria-label="Reference against {escape(crop.backend)}" style="--ratio: {width}/{height}">'
        f'<img class="right" alt="{escape(crop.backend)}" src="{encode_picture(crop.candidate)}">'
        f'<img class="left" alt="reference" src="{encode_picture(crop.reference)}"><span class="handle"></span></div>'
        f'<div class="sides"><span>reference</span><span class="right-name">artefact</span></div>'
        f'<div class="views" role="radiogroup" aria-label="Shown on the right">{choices}</div>{stored}'
        f"<figcaption>{escape(crop.backend)}, <code>{escape(crop.file)}</code>: off by {crop.max_abs:.1e} in "
        f"{escape(place)}</figcaption></figure>"
    )


def _show_maps(entries: Sequence[CertificateEntry]) -> str:
    maps = [
        f"<details{' open' if number == 0 or not entry.passed else ''}><summary>{escape(entry.artefact.file)} on "
        f"{escape(entry.backend)}, {len(entry.measurements)} inputs</summary>{_show_judged(entry)}{_show_map(entry)}"
        "</details>"
        for number, entry in enumerate(entries)
    ]
    return (
        "<h2>Inputs</h2><p>PSNR in dB of each input that was run: shapes (batch x height x width) by contents. Red is "
        "at the threshold or beyond, green 30 dB or more from it.</p>" + "".join(maps)
    )


def _show_judged(entry: CertificateEntry) -> str:
    if not entry.judged:
        return ""
    return (
        f"<p>Judged on {escape(' and '.join(entry.judged))}, which its ranges were calibrated for; it clips what lies "
        "outside them.</p>"
    )


def _show_map(entry: CertificateEntry) -> str:
    contents = list(dict.fromkeys(one.content for one in entry.measurements))
    shapes = list(dict.fromkeys(one.shape for one in entry.measurements))
    known = {(one.shape, one.content): one for one in entry.measurements}
    head = "".join(f"<th>{escape(content)}</th>" for content in contents)
    rows = "".join(
        f"<tr><th>{escape(shape)}</th>{''.join(_show_cell(entry, known.get((shape, one))) for one in contents)}</tr>"
        for shape in shapes
    )
    return f'<div class="scroll"><table class="heat"><tr><th></th>{head}</tr>{rows}</table></div>'


def _show_cell(entry: CertificateEntry, measurement: Measurement | None) -> str:
    if measurement is None:
        return '<td class="none" title="not run"></td>'
    margin = margin_of(entry, measurement)
    colour = colour_of(1.0 if margin is None else margin / _FAR_DB)
    text = "equal" if measurement.psnr_db is None else f"{measurement.psnr_db:.1f}"
    told = f"max abs {measurement.max_abs:.2e}, margin {show_margin(margin) or 'none asked'}"
    return f'<td style="background:{colour}" title="{escape(told)}">{text}</td>'


def _show_checks(checks: Sequence[Check]) -> str:
    if not checks:
        return ""
    rows = [
        [
            f"<code>{escape(check.file)}</code>",
            escape(check.kind),
            escape(check.what) + "".join(f'<br><span class="bad">{escape(line)}</span>' for line in check.findings),
            verdict(check.passed),
        ]
        for check in checks
    ]
    return f"<h2>What is in the files</h2>{table(['file', 'looked at', 'what', ''], rows)}"


def _show_files(artefacts: Sequence[FileRecord]) -> str:
    if not artefacts:
        return ""
    rows = [[f"<code>{escape(one.file)}</code>", f"<code>{escape(one.sha256)}</code>"] for one in artefacts]
    return f"<h2>Files</h2>{table(['file', 'sha256'], rows)}"


def _show_rest(content: PageContent) -> str:
    lines = [f"{escape(one.what)}: {escape(one.reason)}" for one in content.not_run]
    lines += [f"{escape(entry.backend)}: {escape(line)}" for entry in content.entries for line in entry.left_out]
    if not lines:
        return ""
    return f"<h2>Not run</h2><ul>{''.join(f'<li>{line}</li>' for line in lines)}</ul>"
