"""What the page shows, gathered from the bundle, its certificate and the run at hand."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sr_deploy.bundle import Certificate, CertificateEntry, EngineRecord, FileRecord, GraphRecord, Manifest, utc_now
from sr_deploy.bundle.certificate import Place
from sr_deploy.bundle.verdict import Judgment
from sr_deploy.model import Model
from sr_deploy.verification.engines import find_engines
from sr_deploy.verification.judging import list_graphs, list_output_keys
from sr_deploy.verification.worst import Crop


@dataclass(frozen=True)
class PageContent:
    """Everything that the page shows."""

    title: str
    network: str
    """Its architecture for people; empty if unknown."""
    judgment: Judgment
    """The verdict, with what it covers and what it does not."""
    certificate: Certificate
    """Entries of all machines, checks, error budgets."""
    graphs: Sequence[GraphRecord]
    engines: Sequence[EngineRecord] = ()
    manifest: Manifest | None = None
    """What a bundle is made of."""
    ran_now: Sequence[CertificateEntry] = ()
    """Entries of the verification that wrote the page; none where `build` did."""
    crops: Sequence[Crop] = ()
    """Crops around the largest errors."""
    here: Sequence[Place] = ()
    """This machine's processor and GPUs."""
    written_at: str = ""
    """UTC, ISO 8601."""

    @property
    def entries(self) -> tuple[CertificateEntry, ...]:
        """Of all machines, those of this run first."""
        rest = [entry for entry in self.certificate.entries if entry not in self.ran_now]
        return (*self.ran_now, *rest)

    @property
    def files(self) -> tuple[FileRecord, ...]:
        """Every file that is hashed."""
        manifest = self.manifest
        if manifest is None:
            return tuple({entry.artifact.file: entry.artifact for entry in self.entries}.values())
        records = [manifest.reference, *self.graphs, *(record.engine for record in self.engines)]
        for search in manifest.searches.values():
            records += search.files
        return tuple(records)


def describe_page(
    model: Model,
    judgment: Judgment,
    certificate: Certificate,
    *,
    entries: Sequence[CertificateEntry] = (),
    crops: Sequence[Crop] = (),
) -> PageContent:
    """Gather the page of a model.

    Args:
        model: what was verified, or what engines were built of.
        judgment: what `certificate` comes to.
        certificate: all that is known of the model.
        entries: those of the verification at hand.
        crops: its worst places.

    Raises:
        BundleError: an engine is damaged.
    """
    folder = find_engines(model)
    return PageContent(
        title=model.path.resolve().name,
        network=model.arch.title() if model.arch is not None else "",
        judgment=judgment,
        certificate=certificate,
        graphs=list_graphs(model),
        engines=folder.engines() if folder is not None else (),
        manifest=model.bundle.manifest if model.bundle is not None else None,
        ran_now=entries,
        crops=crops,
        here=list_output_keys(),
        written_at=utc_now(),
    )
