"""What was measured: a row for each entry of each machine, and every input of each."""

from __future__ import annotations

import math
from collections.abc import Sequence

from sr_deploy.bundle import CertificateEntry, Measurement, WorstPlace
from sr_deploy.bundle.shortfall import describe_allowance, describe_failure, find_worst
from sr_deploy.page.html import bars, color_of, escape, table
from sr_deploy.verification.agreement import describe_agreement, margin_of, measure_margin
from sr_deploy.verification.page.content import PageContent

_FAR_DB = 30.0
"""Margin from which a cell of the map is fully green."""


def show_entries(content: PageContent) -> str:
    """The figures of each artifact on each backend and machine."""
    entries = content.entries
    if not entries:
        return "<h2>What was run</h2><p>Nothing was run yet.</p>"
    rows = []
    for entry in entries:
        judged = entry.judged_measurements
        worst, noisiest = find_worst(entry)
        limit, floor = entry.limit_of(worst), entry.floor_of(noisiest)
        ssims = [one.ssim for one in judged if one.ssim is not None]
        off, more = (max(getattr(one, name) or 0 for one in judged) for name in ("changed_8bit", "changed_8bit_more"))
        rows.append(
            [
                show_state(describe_agreement(entry).grade),
                f"<code>{escape(entry.artifact.file)}</code>",
                _show_place(content, entry),
                _two_lines(
                    "equal" if noisiest.psnr_db is None else f"{noisiest.psnr_db:.1f} dB",
                    f"needs {floor:.1f} dB" if floor else "",
                ),
                _two_lines(f"{worst.max_abs:.1e}", "" if math.isinf(limit) else f"up to {limit:.1e}"),
                show_margin(measure_margin(entry)),
                "" if not ssims else f"{min(ssims):.5f}",
                _two_lines(f"{off:.3%}", f"{more:.3%} by more"),
                _show_worst(worst),
            ]
        )
    header = ["", "artifact", "ran on", "PSNR", "max abs", "margin", "SSIM", "off in 8 bit", "worst place"]
    margins = [(f"{one.artifact.file} {one.backend}", measure_margin(one)) for one in entries]
    plot = bars(
        [
            (_shorten(name), max(-_FAR_DB, margin), show_margin(margin))
            for name, margin in margins
            if margin is not None
        ],
        "Margin of each artifact to its nearest threshold, in dB",
    )
    return (
        "<h2>What was run</h2><p>On every machine; the worst of all inputs counts, beside what it is allowed. Max "
        "abs is of outputs that are not "
        "clamped, where black is 0 and white is 1; the margin is the distance to the nearest threshold. Off "
        "in 8 bit is the share of samples that are another number after rounding, and by more than one.</p>"
        f"{table(header, rows, numbers=range(3, 8))}{_show_allowances(entries)}"
        f"<h3>Margin to the nearest threshold</h3>{plot}"
    )


def _show_allowances(entries: Sequence[CertificateEntry]) -> str:
    """Where FP32's bounds come from, and what each failure is."""
    lines = [
        f"{entry.artifact.file} on {entry.backend} is allowed {said}"
        for entry in entries
        if (said := describe_allowance(entry))
    ]
    lines += [
        f"{entry.artifact.file} on {entry.backend} fell short at {said}"
        for entry in entries
        if (said := describe_failure(entry))
    ]
    return "".join(f"<p>{escape(line)}.</p>" for line in lines)


def show_state(state: str) -> str:
    """`ok`, `passes`, `FAILED`, `not run` and the like, in its color."""
    color = {"ok": "good", "FAILED": "bad"}.get(state, "warn")
    return f'<span class="{color}">{escape(state)}</span>'


def describe_place(place: WorstPlace) -> str:
    """As in `row 110, column 127 of image 1`; images count from 0, and the first is not named."""
    of_image = f" of image {place.image}" if place.image else ""
    return f"row {place.y}, column {place.x}{of_image}"


def _show_place(content: PageContent, entry: CertificateEntry) -> str:
    where = entry.machine if entry.place in content.here else entry.place_title
    when = "now" if entry in content.ran_now else entry.measured_at[:10]
    said = f"{entry.backend_version}, {where}, {when}"
    return f'<span class="line">{escape(entry.backend)}</span><br><span class="soft">{escape(said)}</span>'


def _show_worst(worst: Measurement) -> str:
    place = "" if worst.worst is None else f'<br><span class="soft">{escape(describe_place(worst.worst))}</span>'
    return escape(f"{worst.content} {worst.shape}") + place


def _two_lines(first: str, second: str) -> str:
    """HTML of the first line, plain text of the second."""
    second = escape(second)
    return f'<span class="line">{first}</span>' + (f'<br><span class="line soft">{second}</span>' if second else "")


def show_margin(margin: float | None) -> str:
    """As in `+29.1 dB`."""
    return "" if margin is None else f"{margin:+.1f} dB"


def _shorten(name: str) -> str:
    file, _, backend = name.rpartition(" ")
    return (
        f"{backend} {'' if len(file) > len('model.fp16.onnx') else file.removeprefix('model.').removesuffix('.onnx')}"
    )


def show_maps(content: PageContent) -> str:
    """PSNR of every input, one map for each entry; those that failed and the first are open."""
    entries = content.entries
    if not entries:
        return ""
    maps = []
    for number, entry in enumerate(entries):
        opened = " open" if number == 0 or describe_agreement(entry).grade == "FAILED" else ""
        name = f"{entry.artifact.file} on {entry.backend} ({entry.machine}), {len(entry.measurements)} inputs"
        shown = _show_judged(entry) + _show_map(entry)
        maps.append(f"<details{opened}><summary>{escape(name)}</summary>{shown}</details>")
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
    color = color_of(1.0 if margin is None else margin / _FAR_DB)
    text = "equal" if measurement.psnr_db is None else f"{measurement.psnr_db:.1f}"
    told = f"max abs {measurement.max_abs:.2e}, margin {show_margin(margin) or 'none asked'}"
    if measurement.fp32_rounding is not None:
        told += f", PyTorch's FP32 is off by {measurement.fp32_rounding.max_abs:.2e}"
    if measurement.reference is not None:
        told += f", compared with {measurement.reference}"
    return f'<td style="background:{color}" title="{escape(told)}">{text}</td>'
