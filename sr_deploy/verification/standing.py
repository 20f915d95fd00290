"""What a bundle's certificate says before anything is measured, and what is wrong with that. No torch here."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from sr_deploy.bundle import Bundle, Certificate, CertificateEntry, Check, Measurement, Shape, utc_now
from sr_deploy.bundle.store import CERTIFICATE_NAME
from sr_deploy.bundle.tolerance import Fp32Rounding
from sr_deploy.errors import DamagedBundleError
from sr_deploy.graph.read import read_graph
from sr_deploy.runners.io_conversion import rounding_of
from sr_deploy.verification.contents import CONTENTS
from sr_deploy.verification.grid import Point
from sr_deploy.verification.reference import ReferenceOutputs

_KIND = "certificate"
_MACHINES = 16.0
"""How many times as much as here FP32 may round on another machine: its kernels sum in other orders. Here the memory
layouts differ by up to 4 times."""


def read_standing(bundle: Bundle) -> tuple[Certificate, Check]:
    """The certificate that measurements are added to, and the check of the one that lies in the bundle.

    One that does not hold is left out but for what it says against the bundle: failed entries and findings stay, and so
    does the finding that it did not hold, whatever takes its place. It goes when a user accepts it, or when the
    bundle is made anew.

    Raises:
        BundleError: a newer sr-deploy wrote it, and this one would lose what it says.
    """
    findings: list[str] = []
    try:
        certificate = bundle.certificate()
        findings += _list_wide_roundings(bundle, certificate)
    except DamagedBundleError as error:
        findings.append(str(error))
    try:
        stated = bundle.stated_certificate()
    except DamagedBundleError:
        stated = Certificate()
    before = [line for check in stated.checks if check.kind == _KIND for line in check.findings]
    check = check_certificate((*dict.fromkeys((*before, *findings)),))
    return (_keep_failures(bundle, stated) if findings else certificate), check


def check_certificate(findings: tuple[str, ...]) -> Check:
    """The check of the certificate that was there, with what was found wrong."""
    return Check(
        kind=_KIND,
        file=CERTIFICATE_NAME,
        sha256=None,
        what="the certificate that was there is of these files and these weights, and does not contradict itself",
        findings=findings,
        checked_at=utc_now(),
    )


def list_invented(certificate: Certificate, outputs: ReferenceOutputs) -> Iterator[str]:
    """Entries whose errors are excused with more rounding than FP32 has on their inputs, one line each.

    The input whose bound is said to be widest is shown to PyTorch again; in place of one that is too large for float64
    a small photograph.

    Args:
        certificate: as stored in the bundle.
        outputs: of the bundle's weights, here.
    """
    for entry in certificate.entries:
        claim = _find_widest_claim(entry)
        if claim is None or not entry.passed:
            continue
        one, claimed = claim
        measured = outputs.measure_rounding(_find_point(one, outputs))
        if measured is not None and _is_more(claimed, measured):
            yield (
                f"the entry of {entry.artifact.file} on {entry.backend} ({entry.machine}) says that PyTorch's FP32 is "
                f"off by {claimed.max_abs:.1e} on {one.content} {one.shape}, and here it is {measured.max_abs:.1e}"
            )


def distrust(bundle: Bundle, check: Check, findings: Sequence[str]) -> tuple[Certificate, Check]:
    """As `read_standing`, of a certificate that was found out later.

    Args:
        bundle: whose certificate it is.
        check: what `read_standing` found.
        findings: what was found since.
    """
    return _keep_failures(bundle, bundle.stated_certificate()), check_certificate((*check.findings, *findings))


def _find_widest_claim(entry: CertificateEntry) -> tuple[Measurement, Fp32Rounding] | None:
    """The input whose bound FP32's own rounding is said to widen most; None: it widens none."""
    widened = [one for one in entry.measurements if one.allowed is not None or one.needed_db is not None]
    claims = [(one, one.fp32_rounding) for one in widened if one.fp32_rounding is not None]
    return max(claims, key=lambda claim: claim[1].max_abs, default=None)


def _find_point(one: Measurement, outputs: ReferenceOutputs) -> Point:
    n, h, w = map(int, one.shape.split("x"))
    point = Point(Shape(n, h, w), one.content)
    known = one.content in CONTENTS and min(point.shape) > 0
    return point if known and outputs.fits_float64(point) else outputs.plain_point


def _is_more(claimed: Fp32Rounding, measured: Fp32Rounding) -> bool:
    """Whether a rounding is more than another machine's may be."""
    if claimed.max_abs > _MACHINES * measured.max_abs:
        return True
    if claimed.psnr_db is None or measured.psnr_db is None:
        return claimed.psnr_db is not None
    return claimed.psnr_db < measured.psnr_db - 20 * math.log10(_MACHINES)


def _list_wide_roundings(bundle: Bundle, certificate: Certificate) -> Iterator[str]:
    """Entries whose thresholds were widened for more rounding than the I/O type of the bundle's graphs does."""
    widened = [entry for entry in certificate.entries if entry.thresholds.get("rounding")]
    if not widened:
        return
    dtypes = {read_graph(bundle.path / graph.file).input_dtype for graph in bundle.manifest.graphs}
    allowed_max = 2 * max(map(rounding_of, dtypes))  # of what is compared, and of what it is compared with
    for entry in widened:
        if entry.thresholds["rounding"] > allowed_max:
            yield (
                f"{bundle.path / CERTIFICATE_NAME} contradicts the graphs: the entry of {entry.artifact.file} on "
                f"{entry.backend} allows {entry.thresholds['rounding']:g} for rounding by the I/O type, which rounds "
                f"by {allowed_max:g} at most"
            )


def _keep_failures(bundle: Bundle, stated: Certificate) -> Certificate:
    """Of a certificate that does not hold: what it says against the bundle's files as they are."""
    records = [bundle.manifest.reference, *bundle.manifest.graphs]
    records += [record.engine for record in bundle.intact_engines()]
    present = {(record.file, record.sha256) for record in records}

    def speaks_against(entry: CertificateEntry) -> bool:
        of_these = (entry.artifact.file, entry.artifact.sha256) in present
        return bool(entry.measurements) and of_these and not entry.sound

    entries = {entry.identity: entry for entry in stated.entries if speaks_against(entry)}
    return Certificate(
        entries=tuple(entries.values()),
        checks=tuple(one for one in stated.checks if one.findings and (one.file, one.sha256) in present),
        accepted=stated.accepted,
    )
