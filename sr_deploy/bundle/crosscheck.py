"""A certificate held against itself and against its bundle: nothing in it is taken at its own word.

Whether an entry passed follows from its figures and thresholds, so what it says of that is only compared. Its figures
bound one another: an error of at most e makes a PSNR of -20 log10(e) at least. What it ran has to be a file of the
bundle in the precision that the manifest says, held to what the manifest asks.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence

from sr_deploy.backends import QUANTIZED, BackendChoice
from sr_deploy.backends.registry import find_backend, get_reference, list_mixed, name_float64
from sr_deploy.bundle.certificate import Certificate, CertificateEntry, Measurement
from sr_deploy.bundle.records import EngineRecord, Manifest
from sr_deploy.bundle.tolerance import MAX_ALLOWANCE

_REST = "+bf16"
_KNOWN_THRESHOLDS = {"max_abs", "psnr_db", "max_drop_db", "rounding"}
_SLACK = 1e-6
"""Relative: figures are written as they were computed, so this is for the last bits alone."""


def list_contradictions(
    certificate: Certificate, manifest: Manifest, engines: Sequence[EngineRecord] = ()
) -> Iterator[str]:
    """What cannot be true of a certificate in its bundle, one line each.

    Args:
        certificate: as it was read.
        manifest: the bundle's.
        engines: the bundle's.
    """
    for identity, count in Counter(entry.identity for entry in certificate.entries).items():
        if count > 1:
            yield f"{count} entries of {identity[0]} on {identity[1]} ({identity[2]}), where one is due"
    for entry in certificate.entries:
        # An entry that failed stands against the bundle whatever else it says; only praise has to be earned.
        contradictions = _list_contradictions(entry, manifest, engines) if entry.passed else ()
        for line in (*list_flaws(entry), *contradictions):
            yield f"the entry of {entry.artifact.file} on {entry.backend} ({entry.machine}) {line}"


def list_flaws(entry: CertificateEntry) -> Iterator[str]:
    """What an entry says of itself that its own figures deny."""
    judged = entry.judged_measurements
    if not judged:
        yield "measured nothing"
        return
    if entry.passed and entry.shortfalls:
        yield "says that it passed, and its figures miss its thresholds"
    psnrs = [one.psnr_db for one in judged if one.psnr_db is not None]
    for name, said, seen in (
        ("worst_max_abs", entry.worst_max_abs, max(one.max_abs for one in judged)),
        ("worst_psnr_db", entry.worst_psnr_db, min(psnrs) if psnrs else None),
    ):
        if said != seen:
            yield f"names {said} as its {name}, and its measurements make {seen}"
    for one in entry.measurements:
        flaw = _find_impossible(one)
        yield from _list_overstated(entry, one)
        if flaw is not None:
            yield f"has figures of {one.content} {one.shape} that no output gives: {flaw}"


def _list_overstated(entry: CertificateEntry, one: Measurement) -> Iterator[str]:
    """What an input is said to be allowed beyond what follows from its figures."""
    limit, floor = entry.thresholds.get("max_abs", math.inf), entry.thresholds.get("psnr_db", 0.0)
    if one.fp32_rounding is not None:
        limit, floor = entry.derive_allowance(one.fp32_rounding)
    # How coarse values of the I/O type are is not written down; the picture sets a bound to that.
    limit += MAX_ALLOWANCE if entry.thresholds.get("rounding") else 0.0
    if entry.limit_of(one) > limit * (1 + _SLACK):
        yield f"allows a difference of {one.allowed:g} on {one.content} {one.shape}, where {limit:g} is due"
    if entry.floor_of(one) < floor * (1 - _SLACK):
        yield f"needs {one.needed_db:g} dB on {one.content} {one.shape}, where {floor:g} dB is due"


def _find_impossible(one: Measurement) -> str | None:
    """How the figures of one comparison contradict one another."""
    if not math.isfinite(one.max_abs):  # of such an output the others are set by convention
        return None
    least = math.inf if one.max_abs == 0 else -20 * math.log10(one.max_abs)
    if (math.inf if one.psnr_db is None else one.psnr_db) < least - _SLACK * abs(least) - _SLACK:
        return f"{one.psnr_db} dB with a greatest difference of {one.max_abs:g}, which makes {least:.1f} at least"
    if one.psnr_db is None and one.changed_8bit:
        return f"equal outputs, and {one.changed_8bit:.2%} of the samples differ"
    if one.mean_abs is not None and one.mean_abs > one.max_abs * (1 + _SLACK):
        return f"a mean difference of {one.mean_abs:g} above the greatest of {one.max_abs:g}"
    if one.changed_8bit_more is not None and one.changed_8bit_more > one.changed_8bit:
        return "more samples differ by over one step than differ at all"
    return None


def _list_contradictions(entry: CertificateEntry, manifest: Manifest, engines: Sequence[EngineRecord]) -> Iterator[str]:
    """What an entry says that the bundle's own documents deny."""
    in_fp32 = str(BackendChoice(get_reference("weights").name))  # of inputs that are too large for float64
    for reference in dict.fromkeys((entry.reference, *(one.reference for one in entry.measurements))):
        if reference not in (None, name_float64(), in_fp32):
            yield f"was compared with {reference}, where {name_float64()} is due"
    precision = _precision_in(manifest, engines, entry)
    if precision is None:
        yield "is of a file that its backend does not run"
    elif precision != entry.precision or _stated_precision(entry) != entry.precision:
        yield f"is of precision {entry.precision}, and what {entry.backend} runs there is {precision}"
    if entry.judged and entry.precision not in QUANTIZED:
        yield f"is judged on {', '.join(entry.judged)} alone, where every content counts"
    elif entry.judged and "photograph" not in {one.content for one in entry.judged_measurements}:
        yield "is not judged on photographs"
    unknown = entry.thresholds.keys() - _KNOWN_THRESHOLDS
    if unknown:
        yield f"names unknown thresholds: {', '.join(sorted(unknown))}"
    yield from _list_loosened(entry, manifest)
    yield from _list_overspent(entry, manifest)


def _stated_precision(entry: CertificateEntry) -> str:
    """The precision in the name of its backend: `int8` of `openvino:int8+bf16`."""
    return entry.backend.split(" ")[0].partition(":")[2].removesuffix(_REST)


def _list_overspent(entry: CertificateEntry, manifest: Manifest) -> Iterator[str]:
    """What an entry of INT8 with the rest in BF16 says of its loss that the budget denies."""
    if not entry.backend.endswith(_REST):
        return
    if entry.backend not in map(str, list_mixed()):
        yield f"is of {entry.backend}, which does not exist"
    elif manifest.int8 is None or entry.drop_db is None:
        yield "says nothing of what it loses against photographs"
    elif entry.drop_db > manifest.int8.max_drop_db:
        yield f"loses {entry.drop_db:.3f} dB against photographs, and {manifest.int8.max_drop_db:g} are allowed"


def _precision_in(manifest: Manifest, engines: Sequence[EngineRecord], entry: CertificateEntry) -> str | None:
    """In which precision the entry's backend runs the entry's file; None: it does not."""
    name, file = entry.backend.split(":")[0], entry.artifact.file
    backend = find_backend(name)  # None: of another package, which is not here
    if backend is not None and backend.artifact == "weights":
        return entry.precision if file == manifest.reference.file else None
    for record in engines:
        if record.engine.file == file:
            return record.precision if record.backend == name else None
    graph = next((graph for graph in manifest.graphs if graph.file == file), None)
    if graph is None:
        return None
    held = [one.precision for one in manifest.graphs]
    of_another = backend is not None and backend.find_stored(held, entry.precision) == graph.precision
    return entry.precision if of_another else graph.precision


def _list_loosened(entry: CertificateEntry, manifest: Manifest) -> Iterator[str]:
    """Thresholds of an entry that are looser than what the manifest states for its precision."""
    stated = manifest.thresholds.get(entry.precision)
    if stated is None:
        return
    asked = stated.widened(entry.thresholds.get("rounding", 0.0))
    limit, floor = entry.thresholds.get("max_abs", math.inf), entry.thresholds.get("psnr_db", 0.0)
    if asked.max_abs is not None and limit > asked.max_abs * (1 + _SLACK):
        yield f"allowed a greatest difference of {limit:g}, and this bundle allows {asked.max_abs:g}"
    if asked.psnr_db is not None and floor < asked.psnr_db * (1 - _SLACK):
        yield f"needed {floor:g} dB, and this bundle needs {asked.psnr_db:g} dB"
