"""Quality on a test set (`sr_deploy.evaluate_model`): from folders of pictures to figures and the worst crops."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sr_deploy.config import Document
from sr_deploy.errors import InputError, ShapeError
from sr_deploy.evaluation.scores import (
    ImageEvaluation,
    WorstCrop,
    draw_worst_crops,
    evaluate_pair,
)
from sr_deploy.files import make_folder, sha256_of, write_text
from sr_deploy.imaging.codec import write_image
from sr_deploy.imaging.pairs import PairPaths, find_pairs, read_pair
from sr_deploy.measure.quality import Distance, ImageScores, average_scores, mean_of
from sr_deploy.model import Model, open_model
from sr_deploy.progress import OnProgress, Progress
from sr_deploy.upscale.guards import FINITE_ONLY
from sr_deploy.upscale.image import Upscaler

EVALUATION_NAME = "evaluation.json"
CROPS_NAME = "worst-crops.png"
LPIPS_NOTE = "LPIPS is not validated here: it was never run with the published weights; see docs/evaluation.md"


class Evaluation(Document):
    """What `evaluate_model` found; `evaluation.json`."""

    schema_version: int = 1
    model: str
    """What was evaluated, as it was named."""
    model_sha256: str | None
    """Of its weights, or of the graph or engine; a bundle's is that of its PyTorch weights."""
    network: str | None
    """Its architecture for people, where it is known."""
    backend: str
    """What computed, as in `openvino:fp32`."""
    backend_version: str
    """Of the backend's library."""
    device: str
    """As in `cpu` or `cuda:0`."""
    scale: int
    """Output pixels per input pixel; so many pixels are left out at each border."""
    hr: str
    lr: str | None
    """Folder of low-resolution pictures; None: made of the originals by the papers' bicubic."""
    pictures: tuple[ImageEvaluation, ...]
    """In the order of their names."""
    mean_model: ImageScores
    mean_bicubic: ImageScores
    mean_original_niqe: float | None
    notes: tuple[str, ...] = ()
    """What a reader of the figures has to know."""


@dataclass(frozen=True)
class Evaluated:
    """The figures, and the picture to look at."""

    evaluation: Evaluation
    worst_crops: NDArray[np.uint8]
    """H x W x 3: a row for each of the worst places; low resolution, bicubic, network, original."""

    def write(self, folder: Path) -> None:
        """Write `evaluation.json` and `worst-crops.png`; the folder is made if need be.

        Raises:
            OutputError: one cannot be written.
        """
        make_folder(folder)
        write_image(folder / CROPS_NAME, self.worst_crops)
        write_text(folder / EVALUATION_NAME, self.evaluation.model_dump_json(indent=2) + "\n")


def evaluate_model(
    model: Model | Path | str,
    hr: Path | str,
    lr: Path | str | None = None,
    *,
    backend: str = "auto",
    tile: int | None = None,
    with_niqe: bool = True,
    lpips: tuple[Path, Path] | None = None,
    on_progress: OnProgress | None = None,
) -> Evaluated:
    """Score a network on a test set by the papers' protocol, beside bicubic.

    Args:
        model: a checkpoint, graph, bundle, engine or run (a path, or opened).
        hr: folder of originals.
        lr: folder of low-resolution pictures, matched by name; None: made of the originals by the papers' bicubic.
        backend: `auto` or as in `openvino:fp32`.
        tile: as for `Upscaler`.
        with_niqe: whether NIQE is computed.
        lpips: the user's weight files, of torchvision's backbone and of LPIPS's linear layers.
        on_progress: told of each picture.

    Raises:
        InputError: a folder cannot be used, pictures have no partner, or a network that does not enlarge has no `lr`.
        ImageError: a picture cannot be read, or does not fit its partner.
        ShapeError: a picture is too small to score.
        CheckpointError: the model's or LPIPS's weights cannot be used.
        BackendError: the backend does not run here, or fails.
    """
    opened = model if isinstance(model, Model) else open_model(model)
    hr, lr = Path(hr), Path(lr) if lr is not None else None
    if opened.scale == 1 and lr is None:
        raise InputError(f"{opened.path} does not enlarge (x1): give the pictures that it is for with --lr DIR")
    # Folders and weights are looked at before the network is loaded: a wrong name shall not cost its time.
    pairs = find_pairs(hr, lr, opened.scale)
    distance = _open_lpips(lpips)
    pictures: list[ImageEvaluation] = []
    crops: list[WorstCrop] = []
    # A bad network is to be scored, not stopped.
    with Upscaler(opened, backend=backend, tile=tile, guards=FINITE_ONLY) as upscaler:
        for paths in pairs:
            picture, crop = _evaluate_paths(paths, upscaler, with_niqe=with_niqe, lpips=distance)
            pictures.append(picture)
            crops.append(crop)
            if on_progress is not None:
                on_progress(Progress(picture.name, len(pictures), len(pairs), "pictures"))
        spec = upscaler.spec
    evaluation = Evaluation(
        model=str(opened.path),
        model_sha256=_hash_model(opened),
        network=opened.arch.title() if opened.arch else None,
        backend=str(spec),
        backend_version=spec.version,
        device=spec.device,
        scale=opened.scale,
        hr=str(hr),
        lr=str(lr) if lr is not None else None,
        pictures=tuple(pictures),
        mean_model=average_scores([picture.model for picture in pictures]),
        mean_bicubic=average_scores([picture.bicubic for picture in pictures]),
        mean_original_niqe=mean_of(picture.original_niqe for picture in pictures),
        notes=tuple(_make_notes(pictures, with_niqe=with_niqe, with_lpips=distance is not None)),
    )
    return Evaluated(evaluation, draw_worst_crops(crops))


def _evaluate_paths(
    paths: PairPaths, upscaler: Upscaler, *, with_niqe: bool, lpips: Distance | None
) -> tuple[ImageEvaluation, WorstCrop]:
    spec = upscaler.spec
    try:
        pair = read_pair(paths, spec.scale, spec.channels)
        return evaluate_pair(paths.name, pair, upscaler, spec.scale, with_niqe=with_niqe, lpips=lpips)
    except ShapeError as error:
        raise ShapeError(f"{paths.hr}: {error}") from error


def _hash_model(model: Model) -> str | None:
    file = model.weights_path or model.path
    return sha256_of(file) if file.is_file() else None


def _open_lpips(files: tuple[Path, Path] | None) -> Distance | None:
    if files is None:
        return None
    from sr_deploy.arch.lpips import Lpips

    return Lpips.read(*files)


def _make_notes(pictures: list[ImageEvaluation], *, with_niqe: bool, with_lpips: bool) -> list[str]:
    notes = []
    without = [picture.name for picture in pictures if picture.model.niqe is None]
    if with_niqe and without:
        notes.append(
            f"no NIQE for {len(without)} of {len(pictures)} pictures, which are too small or too flat for two blocks "
            f"of 96x96: {', '.join(without[:5])}{', ...' if len(without) > 5 else ''}"
        )
    if with_lpips:
        notes.append(LPIPS_NOTE)
    return notes
