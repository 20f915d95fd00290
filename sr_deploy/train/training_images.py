"""Images of any size as aligned pairs of high and low resolution, decoded when they are drawn and kept in memory."""

from __future__ import annotations

import hashlib
import logging
import threading
from collections import OrderedDict, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import MappingProxyType

import numpy as np

from sr_deploy.errors import ImageError, InputError, RecipeError
from sr_deploy.imaging.codec import bundled_photographs, check_training_image, list_images
from sr_deploy.imaging.formats import PHOTOGRAPHS
from sr_deploy.imaging.pairs import require_fit
from sr_deploy.imaging.photographs import crop_to_multiple
from sr_deploy.imaging.resize import downscale_bicubic
from sr_deploy.train.headers import FileHeader, read_headers, tell_progress
from sr_deploy.train.originals import OriginalPair, Samples, read_original
from sr_deploy.train.patience import PatientReader
from sr_deploy.train.recipe import DataRecipe

_LOG = logging.getLogger(__name__)
_FEW_FILES, _FEW_BYTES = 1000, 1 << 28
"""As many are decoded before the first step."""
BUNDLED_NAME = "bundled photographs"
"""Of the source that they are."""


class TrainingImages:
    """Pairs by index, for several threads at once. Files that cannot be used are logged once each."""

    def __init__(
        self,
        paths: Sequence[Path],
        *,
        scale: int,
        min_side: int,
        multiple: int,
        cache_gib: float,
        with_lr: bool = True,
        channels: int = 3,
        partners: Mapping[Path, Path] = MappingProxyType({}),
    ) -> None:
        """Nothing is read yet.

        Args:
            paths: image files.
            scale: from low to high resolution.
            min_side: high-resolution pixels that each side must have.
            multiple: high-resolution sides are cropped to multiples of this (itself a multiple of the scale).
            cache_gib: memory for decoded pairs.
            with_lr: make low resolution by the papers' bicubic; else only originals are kept. Once headers are read,
                only where the cache holds all pictures: of others it is made of each patch, as that is cut.
            channels: of the network: 3 (RGB) or 1 (gray).
            partners: low-resolution pictures of originals, which take the place of what would be made.
        """
        self._channels = channels
        self._partners = partners
        self._said: set[str] = set()
        self._with_lr = with_lr
        self.paths = tuple(paths)
        self.headers: list[FileHeader] = []
        self._reader = PatientReader([*self.paths, *partners.values()])
        self.scale = scale
        self._min_side = min_side
        self._multiple = multiple
        self._room = int(cache_gib * 2**30)
        self._full = False
        self._lock = threading.Lock()
        self._decoding: defaultdict[int, threading.Lock] = defaultdict(threading.Lock)
        self._cache: OrderedDict[int, OriginalPair] = OrderedDict()
        self._bad: set[int] = set()

    def examine(self, threads: int, known: Iterable[FileHeader] = ()) -> None:
        """Read all headers, and decode files that these say are too small, or say too little of.

        Few pictures are all decoded, until the cache is full, so that the first steps need not wait for them. Of many
        the first is that can be: damage among samples is found when a patch is drawn.

        Args:
            threads: that decode.
            known: headers as they were kept.

        Raises:
            InputError: none of the files can be used.
        """
        self.headers = read_headers(self.paths, known)
        self._with_lr = self._with_lr and self._decoded_bytes() <= self._room
        odd = [index for index, one in enumerate(self.headers) if self._is_small(one.width, one.height)]
        ended = threading.Event()
        with ThreadPoolExecutor(max(threads, 1)) as pool:
            try:
                examined = pool.map(lambda index: self._examine(index, ended), odd)
                for _ in tell_progress(examined, lambda count: f"examined {count:,} of {len(odd):,} unusual pictures"):
                    pass
                if self._are_few():
                    every = range(len(self.paths))
                    list(pool.map(lambda index: None if self._full else self.pair(index, ended), every))
            finally:
                ended.set()
                pool.shutdown(cancel_futures=True)
        self._check_any_good()
        next(pair for pair in map(self.pair, range(len(self.paths))) if pair is not None)  # or an error is raised

    def pair(self, index: int, abandoned: threading.Event | None = None) -> OriginalPair | None:
        """The pair of one file, or None if the file cannot be used. Threads that want the same one wait for the first.

        Args:
            index: among the paths.
            abandoned: ends waiting for a drive that is gone, when it is set.

        Raises:
            InputError: now none of the files is left, or all of them are gone and did not come back.
            CancelledError: abandoned while it waited.
        """
        with self._lock:
            decoding = self._decoding[index]
        with decoding:
            with self._lock:
                if index in self._bad:
                    return None
                if index in self._cache:
                    self._cache.move_to_end(index)
                    return self._cache[index]
            try:
                made = self._make_pair(index, abandoned)
            except ImageError as error:
                self._mark_bad(index, error)
                self._check_any_good()
                return None
            self._remember(index, made)
            return made

    @property
    def has_pairs(self) -> bool:
        """Whether originals have low-resolution pictures of their own."""
        return bool(self._partners)

    def find_size(self, index: int) -> tuple[int, int] | None:
        """Height and width of a pair's high resolution, by the header that was read; None if it cannot be used."""
        with self._lock:
            if index in self._bad:
                return None
        header = self.headers[index]
        if self._is_small(header.width, header.height):
            return None
        return header.height - header.height % self._multiple, header.width - header.width % self._multiple

    def cached_bytes(self) -> int:
        """Memory that decoded pairs take now."""
        with self._lock:
            return sum(pair.nbytes for pair in self._cache.values())

    def fingerprint(self) -> str:
        """SHA-256 over names and sizes of the files: whether a resumed run sees what the first part saw."""
        lines = ["{}\t{}".format(*one.identity) for one in self.headers]
        lines += [f"{path.name}\t{path.stat().st_size}" for path in self._partners.values()]
        return hashlib.sha256("\n".join(lines).encode("utf-8", "surrogateescape")).hexdigest()

    def _are_few(self) -> bool:
        return len(self.paths) <= _FEW_FILES and self._decoded_bytes() <= _FEW_BYTES

    def _decoded_bytes(self) -> int:
        """Of all originals, were they of 8 bit."""
        return sum(3 * one.width * one.height for one in self.headers)

    def _examine(self, index: int, ended: threading.Event) -> None:
        """Whether the file can be used, as far as its header tells a decoder."""
        path, header = self.paths[index], self.headers[index]
        try:
            width, height = self._reader.read(path, check_training_image, ended)
        except ImageError as error:
            self._mark_bad(index, error)
            return
        if header.size < 0:  # it was away
            (header,) = read_headers([path])
        self.headers[index] = header._replace(width=width, height=height)
        if self._is_small(width, height):
            self.pair(index)  # says so

    def _is_small(self, *lengths: int) -> bool:
        return min(length - length % self._multiple for length in lengths) < self._min_side

    def _make_pair(self, index: int, abandoned: threading.Event | None) -> OriginalPair:
        path = self.paths[index]
        image, partner = self._read(path, abandoned), self._partners.get(path)
        if partner is not None:
            lr = self._read(partner, abandoned)
            require_fit(path, image.shape, partner, lr.shape, self.scale)
        hr = crop_to_multiple(image, self._multiple)
        if self._is_small(*image.shape[:2]):
            raise ImageError(
                f"{path} is too small ({image.shape[1]}x{image.shape[0]} pixels; "
                f"at least {self._min_side}x{self._min_side} are needed)"
            )
        if partner is not None:
            lr = np.ascontiguousarray(lr[: hr.shape[0] // self.scale, : hr.shape[1] // self.scale])
        elif self._with_lr:
            lr = downscale_bicubic(hr, self.scale)
        else:
            lr = np.zeros((0, 0, self._channels), np.uint8)
        return OriginalPair(lr, hr)

    def _read(self, path: Path, abandoned: threading.Event | None) -> Samples:
        original = self._reader.read(path, partial(read_original, channels=self._channels), abandoned)
        with self._lock:
            new = [note for note in original.notes if note not in self._said]
            self._said.update(new)
        for note in new:
            _LOG.warning("%s: %s (said once)", path, note)
        return original.pixels

    def _remember(self, index: int, made: OriginalPair) -> None:
        size = made.nbytes
        with self._lock:
            if index in self._cache:
                return
            self._full = self._full or self._room < size
            while self._cache and self._room < size:
                _, oldest = self._cache.popitem(last=False)
                self._room += oldest.nbytes
            if self._room >= size:
                self._cache[index] = made
                self._room -= size

    def _mark_bad(self, index: int, error: ImageError) -> None:
        with self._lock:
            if index in self._bad:
                return
            self._bad.add(index)
        _LOG.warning("skipped: %s", error)

    def _check_any_good(self) -> None:
        if len(self._bad) == len(self.paths):
            unfit = ", or not of the size of their pair" if self._partners else ""
            raise InputError(
                f"none of the {len(self.paths)} images in {self.paths[0].parent} can be used: all are unreadable or "
                f"smaller than {self._min_side}x{self._min_side} pixels{unfit}; give larger ones or a smaller "
                "--set data.patch_size"
            )


@dataclass(frozen=True)
class TrainingSource:
    """Images that are trained on with one weight."""

    name: str
    """Its folder, or a word for the bundled photographs."""
    paths: tuple[Path, ...]
    weight: float | None = None
    """As `SourceRecipe` has it."""
    scaled: bool = True
    """Likewise."""


def training_sources(recipe: DataRecipe) -> list[TrainingSource]:
    """The files to train on, by source.

    Raises:
        InputError: no such folder, or no image in it.
        RecipeError: no such bundled photograph.
    """
    if recipe.source:
        return [
            TrainingSource(one.folder, tuple(_images_in(one.folder)), one.weight, one.scaled) for one in recipe.source
        ]
    if recipe.folder is not None:
        return [TrainingSource(recipe.folder, tuple(_images_in(recipe.folder)))]
    return [TrainingSource(BUNDLED_NAME, tuple(_bundled(recipe.training, "data.training")))]


def validation_paths(recipe: DataRecipe) -> list[Path]:
    """The files to validate on.

    Raises:
        InputError: no such folder, or no image in it.
        RecipeError: no such bundled photograph.
    """
    if recipe.validation_folder is not None:
        return _images_in(recipe.validation_folder)
    return _bundled(recipe.held_out, "data.held_out")


def _images_in(folder: str) -> list[Path]:
    found = list_images(Path(folder))
    if not found:
        raise InputError(f"{folder} holds no images ({PHOTOGRAPHS}), at any depth; give a folder that does")
    return found


def _bundled(names: Sequence[str], key: str) -> list[Path]:
    known = bundled_photographs()
    unknown = [name for name in names if name not in known]
    if unknown:
        raise RecipeError(f"{key}: no bundled photograph named {', '.join(unknown)}; known: {', '.join(known)}")
    return [known[name] for name in names]
