"""What a bundle's certificate says before anything is measured, and what is wrong with that. No torch here."""

from __future__ import annotations

from collections.abc import Iterator

from sr_deploy.bundle import Bundle, Certificate, CertificateEntry, Check, utc_now
from sr_deploy.bundle.store import CERTIFICATE_NAME
from sr_deploy.errors import DamagedBundleError
from sr_deploy.graph.read import read_graph
from sr_deploy.runners.ends import rounding_of

_KIND = "certificate"


def read_standing(bundle: Bundle) -> tuple[Certificate, Check]:
    """The certificate that measurements are added to, and the check of the one that lies in the bundle.

    One that does not hold is left out but for what it says against the bundle: failed entries and findings stay, and so
    does the finding that it did not hold, whatever takes its place. That one goes when somebody accepts it, or when the
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


def _list_wide_roundings(bundle: Bundle, certificate: Certificate) -> Iterator[str]:
    """Entries whose thresholds were widened for more rounding than the ends of the bundle's graphs do."""
    widened = [entry for entry in certificate.entries if entry.thresholds.get("rounding")]
    if not widened:
        return
    dtypes = {read_graph(bundle.path / graph.file).input_dtype for graph in bundle.manifest.graphs}
    most = 2 * max(map(rounding_of, dtypes))  # at the ends of both what is compared and of what it is compared with
    for entry in widened:
        if entry.thresholds["rounding"] > most:
            yield (
                f"{bundle.path / CERTIFICATE_NAME} contradicts the graphs: the entry of {entry.artefact.file} on "
                f"{entry.backend} allows {entry.thresholds['rounding']:g} for rounding at the ends, which round by "
                f"{most:g} at most"
            )


def _keep_failures(bundle: Bundle, stated: Certificate) -> Certificate:
    """Of a certificate that does not hold: what it says against the bundle's files as they are."""
    records = [bundle.manifest.reference, *bundle.manifest.graphs]
    records += [record.engine for record in bundle.intact_engines()]
    present = {(record.file, record.sha256) for record in records}

    def speaks_against(entry: CertificateEntry) -> bool:
        of_these = (entry.artefact.file, entry.artefact.sha256) in present
        return bool(entry.measurements) and of_these and not entry.sound

    entries = {entry.identity: entry for entry in stated.entries if speaks_against(entry)}
    return Certificate(
        entries=tuple(entries.values()),
        checks=tuple(one for one in stated.checks if one.findings and (one.file, one.sha256) in present),
        accepted=stated.accepted,
    )
