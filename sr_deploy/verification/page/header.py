"""The head of the page: the verdict, what it covers and what not, what the bundle holds and where it came from."""

from __future__ import annotations

from collections.abc import Iterator

from sr_deploy.bundle import DEFAULT_THRESHOLDS, CertificateEntry, FileRecord
from sr_deploy.bundle.shortfall import find_worst
from sr_deploy.bundle.tolerance import FP32_MULTIPLE
from sr_deploy.bundle.verdict import Failure
from sr_deploy.measure.machine import tool_versions
from sr_deploy.page.html import escape, table
from sr_deploy.verification.agreement import Agreement, describe_agreement
from sr_deploy.verification.causes import group_failures
from sr_deploy.verification.page.content import PageContent
from sr_deploy.verification.page.measured import show_state


def show_header(content: PageContent) -> str:
    """Name, verdict, and on failure the causes with what follows from each."""
    judgment = content.judgment
    said, *limits = judgment.describe().split("; ")
    color = {"verified": "good", "incomplete": "warn", "failed": "bad"}[judgment.verdict]
    if judgment.failures:
        said = "NOT verified"
    chips = "".join(f'<span class="limit warn">{escape(limit)}</span>' for limit in limits)
    version = tool_versions().get("sr-deploy", "")
    machines = " and ".join(name for name, _ in content.here)
    return (
        f'<header><h1>{escape(content.title)}</h1><span class="verdict {color}">{escape(said)}</span>{chips}'
        f'<span class="soft">{escape(content.network)}</span></header>{_show_causes(content)}'
        f'<p class="soft">Written by sr-deploy {escape(version)} on {escape(machines)}, '
        f"{escape(_show_time(content.written_at))} UTC.</p>"
    )


def _show_causes(content: PageContent) -> str:
    groups = group_failures(content.judgment.failures, content.graphs, content.engines)
    parts = []
    for cause, consequences in groups:
        folded = "".join(_show_failure(one) for one in consequences)
        count = f"{len(consequences)} consequence{'' if len(consequences) == 1 else 's'}"
        parts.append(
            f'<div class="cause">{_show_failure(cause)}'
            + (f"<details><summary>{count}</summary>{folded}</details>" if consequences else "")
            + "</div>"
        )
    return "".join(parts)


def _show_failure(failure: Failure) -> str:
    lines = "".join(f"<li>{escape(line)}</li>" for line in failure.lines)
    by = failure.foreign
    told = (
        f'<p class="soft">Accepted by {escape(by.by)}, which counts for that user alone.</p>' if by is not None else ""
    )
    return f'<p class="bad"><b>{escape(failure.name)}</b></p><ul>{lines}</ul>{told}'


def show_coverage(content: PageContent) -> str:
    """What the verdict covers and what it does not, one line each."""
    covers = [escape(line) for line in _list_covered(content)] or ["nothing was run"]
    leaves = [escape(line) for line in _list_uncovered(content)]
    return (
        "<h2>What the verdict covers</h2><ul>"
        + "".join(f"<li>{line}</li>" for line in covers)
        + "</ul><h2>What it does not cover</h2><ul>"
        + "".join(f"<li>{line}</li>" for line in leaves or ["nothing was left out"])
        + "</ul>"
    )


def _list_covered(content: PageContent) -> Iterator[str]:
    ran = {(one.file, one.sha256) for one in content.judgment.ran}
    for file in dict.fromkeys(one.file for one in content.judgment.ran):
        of_file = [one for one in content.entries if one.artifact.file == file]
        counted = [one for one in content.ran_now if one.artifact.file == file] or of_file
        counted = [one for one in counted if (one.artifact.file, one.artifact.sha256) in ran]
        inputs = max(len(one.measurements) for one in counted)
        backends = ", ".join(dict.fromkeys(one.backend for one in counted))
        count = f"{inputs} input{'' if inputs == 1 else 's'}"
        yield f"{file}: {count} against {counted[0].reference}, on {backends}"
    done = [check for check in content.certificate.checks if not check.not_checked]
    if done:
        yield f"what is in the files: {len(done)} checks, listed below"
    for budget in content.certificate.error_budgets:
        if (budget.file, budget.sha256) not in ran:
            continue
        yield f"{budget.precision}: {budget.drop_db:.4f} dB lost on {budget.inputs} by {budget.machine}"


def _list_uncovered(content: PageContent) -> Iterator[str]:
    judgment = content.judgment
    for graph in judgment.missing:
        yield f"{graph.file}: no backend ran it"
    for graph in judgment.aside:
        yield f"{graph.file}: not requested"
    for one in judgment.not_run:
        yield f"{one.what}: {one.reason}"
    for check in judgment.unchecked:
        yield f"{check.file} ({check.kind}) was not checked: {check.not_checked}"
    for looser in judgment.looser:
        yield f"looser than the default: {looser}"
    for failure in judgment.accepted:
        by = failure.accepted
        if by is not None:
            yield f"{failure.name}, accepted by {by.by} on {by.accepted_at[:10]}: {'; '.join(failure.lines)}"
    left_out: dict[str, list[str]] = {}
    for entry in content.ran_now:
        for line in entry.left_out:
            left_out.setdefault(line, []).append(entry.backend)
    for line, backends in left_out.items():
        yield f"on {', '.join(dict.fromkeys(backends))}: {line}"


def show_holdings(content: PageContent) -> str:
    """The first table: each graph and engine, whether it ran, where, and how it did."""
    rows: list[list[str]] = []
    for graph in content.graphs:
        rows += _list_rows(content, graph, f"ONNX graph, {graph.precision}")
    for record in content.engines:
        target = record.target.replace("+", " ")
        what = f"{record.backend} {record.backend_version} engine, {record.precision}, for {target}"
        rows += _list_rows(content, record.engine, what)
    if not rows:
        return ""
    header = ["", "file", "checks", "ran on", "PSNR", "8-bit pictures"]
    return f"<h2>What is deployed</h2>{table(header, rows, numbers=(4,), stacks=True)}"


def _list_rows(content: PageContent, record: FileRecord, what: str) -> Iterator[list[str]]:
    head = [f'<code>{escape(record.file)}</code><br><span class="soft">{escape(what)}</span>']
    head.append(_show_checks_of(content, record.file))
    of_file = [one for one in content.entries if one.artifact.file == record.file]
    now = {(one.file, one.sha256) for one in content.judgment.ran}
    if (record.file, record.sha256) not in now:
        reason = next((one.reason for one in content.judgment.not_run if one.file == record.file), "")
        yield [show_state("not run"), *head, f'<span class="soft">{escape(reason)}</span>', "", ""]
        head = ["", ""]
    for entry in of_file:
        agreement = describe_agreement(entry)
        words = _show_words(content, entry, agreement)
        counts = (record.file, record.sha256) in now and (entry in content.ran_now or not content.ran_now)
        state = agreement.grade if counts or agreement.grade == "FAILED" else f"{agreement.grade}, earlier"
        yield [show_state(state), *head, _show_place(content, entry), _show_psnr(entry), words]
        head = ["", ""]


def _show_checks_of(content: PageContent, file: str) -> str:
    """What was found in a file without running it, a line for each kind of check."""
    states: dict[str, str] = {}
    for check in content.certificate.checks:
        if check.file == file and states.get(check.kind) != "FAILED":
            states[check.kind] = "FAILED" if check.findings else "not checked" if check.not_checked else "ok"
    return "<br>".join(
        f'<span class="line">{escape(kind)} {show_state(state)}</span>' for kind, state in states.items()
    )


def _show_place(content: PageContent, entry: CertificateEntry) -> str:
    where = entry.machine if entry.place in content.here else entry.place_title
    where += "" if entry in content.ran_now else f", {entry.measured_at[:10]}"
    return f'{escape(entry.backend)}<br><span class="soft">{escape(where)}</span>'


def _show_psnr(entry: CertificateEntry) -> str:
    noisiest = find_worst(entry)[1]
    psnr = "equal" if noisiest.psnr_db is None else f"{noisiest.psnr_db:.1f} dB"
    floor = entry.floor_of(noisiest)
    return psnr + ("" if not floor else f'<br><span class="soft">needs {floor:.1f} dB</span>')


def _show_words(content: PageContent, entry: CertificateEntry, agreement: Agreement) -> str:
    """How many samples are off, and of INT8 and FP8 what that costs against ground truth."""
    search = content.manifest.searches.get(entry.precision) if content.manifest is not None else None
    if search is None:
        return escape(agreement.words)
    lost = f"{search.drop_db:.3f} dB lost against photographs when it was made, {search.max_drop_db:.3f} allowed"
    if entry.drop_db is not None:
        lost = f"{entry.drop_db:.3f} dB lost against photographs at least, {search.max_drop_db:.3f} allowed"
    return f'{escape(agreement.words)}<br><span class="soft">{escape(lost)}</span>'


def show_facts(content: PageContent) -> str:
    """Where a bundle came from, what it is deployed for and what was asked of it; empty for what is not a bundle."""
    manifest = content.manifest
    if manifest is None:
        return ""
    source = manifest.source
    rows = [
        ["checkpoint", f"<code>{escape(source.file)}</code>, recognized as {escape(source.layout)}"],
        ["its sha256", f"<code>{escape(source.sha256)}</code>"],
        ["its license", escape(source.attribution.license or "not recorded")],
        *([f"its {name}", escape(text)] for name, text in source.attribution.stated.items() if name != "license"),
        ["shapes deployed", "<br>".join(f"<code>{escape(profile)}</code>" for profile in manifest.profiles)],
        ["thresholds", "<br>".join(_list_thresholds(content))],
        ["made", f"{escape(_show_time(manifest.created_at))} UTC with {escape(_name_tools(manifest.tools))}"],
    ]
    return f"<h2>Where it came from</h2>{table(['', ''], rows, stacks=True)}"


def _list_thresholds(content: PageContent) -> Iterator[str]:
    manifest = content.manifest
    if manifest is None:
        return
    looser = {one.precision: one for one in content.judgment.looser}
    for graph in manifest.graphs:
        precision, asked = graph.precision, manifest.thresholds_for(graph.precision)
        parts = [] if asked.psnr_db is None else [f"{asked.psnr_db:g} dB at least"]
        parts += [] if asked.max_abs is None else [f"a difference of {asked.max_abs:g} at most"]
        parts += [] if asked.max_drop_db is None else [f"{asked.max_drop_db:g} dB lost at most"]
        line = f"{precision}: {', '.join(parts) or 'nothing is asked'}"
        if precision == "fp32" and parts:
            line += f", or {FP32_MULTIPLE:g} times the error of PyTorch's own FP32 where that is more"
        if precision in looser:
            said = "; ".join(str(one) for one in content.judgment.looser if one.precision == precision)
            yield f'{escape(line)} <span class="bad">(looser than the default: {escape(said)})</span>'
        elif precision not in manifest.thresholds:
            yield f"{escape(line)} (the default; the bundle names none)"
        else:
            same = asked == DEFAULT_THRESHOLDS[precision]
            yield f"{escape(line)} ({'the default' if same else 'stricter than the default'})"


def _name_tools(tools: dict[str, str]) -> str:
    return ", ".join(f"{name} {version}" for name, version in tools.items())


def _show_time(text: str) -> str:
    return text[:19].replace("T", " ")
