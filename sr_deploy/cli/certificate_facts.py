"""What `sr-deploy info` says of a bundle's certificate. Nothing is measured."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sr_deploy.bundle import Bundle


@dataclass(frozen=True)
class CertificateFacts:
    """What was measured of a bundle."""

    verdict: str
    """`verified`, `incomplete` or `failed`, as `verify` has it, of what is written down."""
    verdict_text: str
    """The same in one line, with what it does not cover."""
    verified: str | None
    """Where and when the last verification was, as in `AMD EPYC, 2026-11-29`; None: never, or by an older sr-deploy."""
    state: str
    """passed, failed, empty or invalid, and what that rests on."""
    entries: tuple[str, ...]
    """One line for each artifact, backend and machine."""


def describe_certificate(bundle: Bundle) -> CertificateFacts:
    """Whether the bundle was verified, on what, and whether that still holds."""
    from sr_deploy.verification.agreement import describe_agreement
    from sr_deploy.verification.judging import judge_bundle

    certificate, judgment, problem = judge_bundle(bundle)
    last = certificate.last
    said = judgment.verdict, judgment.describe(), None if last is None else f"{last.machine}, {last.at[:10]}"
    entries = certificate.entries
    if problem:
        return CertificateFacts(*said, f"invalid: {problem}", ())
    if not entries:
        return CertificateFacts(*said, f"empty: nothing was measured yet; run: sr-deploy verify {bundle.path}", ())
    grades = {number: describe_agreement(entry).grade for number, entry in enumerate(entries)}
    failed = [grade for grade in grades.values() if grade == "FAILED"]
    lines = [
        f"{entry.artifact.file} by {entry.backend} {entry.backend_version}: "
        f"{'FAILED' if grades[number] == 'FAILED' else 'passed'}, "
        f"{_decibels(entry.worst_psnr_db)}, max abs {entry.worst_max_abs:.2g}, on {entry.machine}"
        + (f", rewritten when opened: {', '.join(entry.rewrites)}" if entry.rewrites else "")
        for number, entry in enumerate(entries)
    ]
    lines += [f"WRONG: {check.file} ({check.kind}): {line}" for check in certificate.checks for line in check.findings]
    state = f"failed: {len(failed)} of {len(entries)} entries" if failed else f"passed: all {len(entries)} entries"
    return CertificateFacts(*said, state, tuple(lines))


def _decibels(value: float | None) -> str:
    return "equal outputs" if value is None else f"{value:.1f} dB"
