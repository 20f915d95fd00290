"""Puts the page of a run together."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

from sr_deploy.errors import InputError
from sr_deploy.files import write_text
from sr_deploy.measure.quality import ImageScores, average_scores
from sr_deploy.page import slider
from sr_deploy.page.html import escape, make_page, table
from sr_deploy.page.slider import View, show_slider
from sr_deploy.run_folder import MANIFEST_NAME, is_run
from sr_deploy.train.curves import list_plots
from sr_deploy.train.headers import read_kept_headers
from sr_deploy.train.page import film
from sr_deploy.train.page.comparison import SIDE, compare, find_compared
from sr_deploy.train.page.content import RunContent, read_content
from sr_deploy.train.page.film import show_film
from sr_deploy.train.page.recipe import show_history, show_recipe
from sr_deploy.train.run import ValidationResult
from sr_deploy.train.shares import find_shares

_COLORS = {"finished": "good", "failed": "bad"}


def write_training_page(run: Path, target: Path) -> None:
    """Write a run as one HTML file that needs no other: scores, pictures, curves, recipe, machine.

    What is damaged or missing is left out, and the page says so. Two photographs of the validation are upscaled by the
    best and by the last checkpoint, on the CPU.

    Args:
        run: a run's folder, finished or not.
        target: the .html file.

    Raises:
        InputError: no run there, or another suffix.
        OutputError: it cannot be written.
    """
    if target.suffix.lower() not in (".html", ".htm"):
        raise InputError(f"cannot write {target}: unknown suffix {target.suffix!r}; name it .html")
    if not is_run(run):
        raise InputError(
            f"{run} is not a run: it has no {MANIFEST_NAME}; a page is made of the folder that sr-deploy train wrote, "
            "as runs/demo"
        )
    write_text(target, render_page(read_content(run)))


def render_page(content: RunContent) -> str:
    """The page as text: styles, scripts and pictures inside, nothing fetched from anywhere."""
    sections = (
        _show_comparison(content),
        show_film(content),
        _show_curves(content),
        _show_facts(content),
        _show_shares(content),
        show_history(content),
        show_recipe(content),
    )
    head = (_show_header(content), _show_scores(content), _show_missing(content))  # the last knows what the others lack
    return make_page(f"Run: {content.title}", [*head, *sections], slider.read_script() + film.read_script())


def _show_header(content: RunContent) -> str:
    manifest, recipe = content.manifest, content.recipe
    status = manifest.status if manifest is not None else "damaged"
    said = [f"recipe {manifest.recipe}"] if manifest is not None else []
    said += [recipe.arch_spec().title()] if recipe is not None else []
    said += [f"{manifest.step:,} of {manifest.steps:,} steps"] if manifest is not None else []
    color = _COLORS.get(status, "warn" if manifest is not None else "bad")
    what = recipe.description if recipe is not None else ""
    return (
        f'<header><h1>{escape(content.title)}</h1><span class="verdict {color}">{escape(status)}</span>'
        f"<span>{escape(', '.join(said))}</span></header><p>{escape(what)}</p>"
        f'<p class="soft">Written {datetime.now(UTC):%Y-%m-%d %H:%M} UTC.'
        + (" A run that was killed says running as well." if status == "running" else "")
        + "</p>"
    )


def _show_missing(content: RunContent) -> str:
    if not content.missing:
        return ""
    lines = "".join(f"<li>{escape(line)}</li>" for line in content.missing)
    return f'<h2>What is missing</h2><ul class="warn">{lines}</ul>'


def _show_scores(content: RunContent) -> str:
    best, last = content.best, content.last
    if best is None or last is None:
        content.missing.append("scores: the run has no validation yet")
        return ""
    gains = [f"{best.model.psnr_y - best.bicubic.psnr_y:+.2f} dB against bicubic"]
    if best.step != last.step:
        gains.append(f"{best.model.psnr_y - last.model.psnr_y:+.2f} dB against the last one, of step {last.step:,}")
    named = [(f"best, step {best.step}", best), (f"last, step {last.step}", last)]
    named = named if best.step != last.step else [(f"best and last, step {last.step}", last)]
    rows = [_score_cells(name, one.model) for name, one in named]
    rows.append(_score_cells("bicubic", best.bicubic))
    for name, one in named if best.degraded and last.degraded else ():
        rows.append(_score_cells(f"{name}, degraded", average_scores([each.model for each in one.degraded])))
    if best.degraded and last.degraded:
        rows.append(_score_cells("bicubic, degraded", average_scores([each.bicubic for each in best.degraded])))
    header = ["", "Y-PSNR dB", "Y-SSIM", "RGB-PSNR dB", "RGB-SSIM", "NIQE", "LPIPS (not validated)"]
    if best.model.lpips is None and last.model.lpips is None:
        header, rows = header[:-1], [row[:-1] for row in rows]
    warned = (
        "<p>A discriminator trains: PSNR falls on purpose, and the best by PSNR is no reason to take it.</p>"
        if content.recipe is not None and content.recipe.discriminator is not None
        else ""
    )
    return (
        f"<h2>Best validation: step {best.step:,}</h2><p><b>{best.model.psnr_y:.2f} dB Y-PSNR, {best.model.ssim_y:.4f} "
        f"Y-SSIM</b>, {'; '.join(gains)}. Best by <code>{escape(content.best_by)}</code>, means over "
        f"{len(best.photographs)} photographs.</p>{warned}{table(header, rows, numbers=range(1, len(header)))}"
    )


def _score_cells(name: str, scores: ImageScores) -> list[str]:
    figures = [
        f"{scores.psnr_y:.2f}",
        f"{scores.ssim_y:.4f}",
        f"{scores.psnr_rgb:.2f}",
        f"{scores.ssim_rgb:.4f}",
        "" if scores.niqe is None else f"{scores.niqe:.2f}",
        "" if scores.lpips is None else f"{scores.lpips:.4f}",
    ]
    return [f'<span class="line">{escape(name)}</span>', *figures]


def _show_comparison(content: RunContent) -> str:
    recipe, best = content.recipe, content.best
    if recipe is None:
        content.missing.append("best against last: the recipe, which names the photographs, cannot be read")
        return ""
    found = content.attempt(
        "best against last", lambda: find_compared(content.run, best.step if best is not None else None)
    )
    compared = content.attempt(
        "best against last", lambda: compare(recipe, [folder for _, _, folder in found or ()]) if found else []
    )
    if not found or not compared:
        return ""
    names = [f"{name}, step {step}" for name, step, _ in found]
    figures = []
    for number, one in enumerate(compared):
        left, *others = [View(name, name, image) for name, image in zip(names, one.checkpoints, strict=True)]
        views = [*others, View("bicubic", "bicubic", one.bicubic), View("original", "original", one.original)]
        height, width = one.original.shape[:2]
        title = f"{one.name}: {left.name} against {views[0].name}"
        drawn = round(SIDE * width / max(height, width))
        caption = escape(one.name) + _show_photograph(one.name, best, content.last)
        figures.append(show_slider(number, title, left, views, width=drawn, caption=caption))
    alone = "" if len(found) > 1 else _say_alone(content, found[-1][1])
    return (
        f"<h2>{'Best against last' if len(found) > 1 else 'Last step against bicubic'}</h2>"
        f"<p>Drag the handle, or use the arrow keys. {alone}Each shows where bicubic is furthest from the "
        f"original, up to {SIDE}x{SIDE} pixels, by the averaged generator in FP32.</p>"
        f'<div class="figures">{"".join(figures)}</div>'
    )


def _say_alone(content: RunContent, last_step: int) -> str:
    if content.best is None:
        return "No validation says which step is best. "
    if content.best.step == last_step:
        return "The best step is the last one. "
    return f"The checkpoint of the best step, {content.best.step}, is not kept. "


def _show_photograph(name: str, best: ValidationResult | None, last: ValidationResult | None) -> str:
    """The scores of a whole photograph."""
    if best is None or last is None:
        return ""
    figures = [("best", best, "model"), ("last", last, "model"), ("bicubic", best, "bicubic")]
    said = [
        f"{label} {getattr(one, kind).psnr_y:.2f}"
        for label, result, kind in figures
        for one in result.photographs
        if one.name == name
    ]
    return f": Y-PSNR of the whole photograph {', '.join(said)} dB" if said else ""


def _show_curves(content: RunContent) -> str:
    plots = list_plots(content.lines, content.best.step if content.best is not None else None)
    if not any(line["kind"] == "training" for line in content.lines):
        content.missing.append("curves of the training: the log has no line of it yet")
    drawn = "".join(f"<h3>{escape(plot.title)}</h3>{plot.draw()}" for plot in plots)
    return f"<h2>Curves</h2>{drawn}" if plots else ""


def _show_facts(content: RunContent) -> str:
    manifest = content.manifest
    rows = [("seed", str(content.values["seed"]))] if "seed" in content.values else []
    if manifest is not None:
        start, machine = manifest.started_from, manifest.machine
        rows = [
            ("begun", f"{manifest.created_at:%Y-%m-%d %H:%M} UTC"),
            ("last written", f"{manifest.updated_at:%Y-%m-%d %H:%M} UTC"),
            ("time in the loop", f"{manifest.seconds:,.0f} s, {manifest.skipped_steps} skipped steps"),
            ("started from", start.path if start is not None else "weights drawn from the seed"),
            *([("", f"{start.transfer}, sha256 {start.sha256}")] if start is not None else []),
            *rows,
            ("computed in", f"{manifest.precision.title()}, on {manifest.device}"),
            ("processes", f"{manifest.processes}"),
            ("machine", machine.title()),
            ("system", f"{machine.os}, Python {machine.python}"),
            ("versions", ", ".join(f"{name} {version}" for name, version in manifest.versions.items())),
            ("training pictures", f"sha256 {manifest.data_sha256} over names and sizes"),
        ]
    told = [[escape(name), f"<span>{escape(value)}</span>"] for name, value in rows]
    return f"<h2>How it was run</h2>{table(['', ''], told, stacks=True)}" if told else ""


def _show_shares(content: RunContent) -> str:
    headers, recipe = read_kept_headers(content.run), content.recipe
    if not headers or recipe is None:
        content.missing.append("shares of the training pictures: the run keeps no list of them that can be read")
        return ""
    shares = content.attempt("shares of the training pictures", lambda: find_shares(recipe, headers))
    if not shares:
        return ""
    rows = [
        [f"<code>{escape(one.source)}</code>", escape(one.scale), f"{one.pictures:,}", f"{100 * one.share:.1f} %"]
        for one in shares
    ]
    return f"<h2>What it learned from</h2>{table(['source', 'scale', 'pictures', 'patches'], rows, numbers=(2, 3))}"
