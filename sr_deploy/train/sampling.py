"""The stream of training batches.

Every draw comes from (seed, step, sample) alone, through a counter-based generator. So the stream is the same after a
resume, with any number of threads, and when several processes share the samples of a step.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Generator
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass

import numpy as np

from sr_deploy.imaging.photographs import draw_corner
from sr_deploy.imaging.resize import downscale_bicubic
from sr_deploy.train.mixture import WHOLE, Mixture, PictureScale, cut_shrunk
from sr_deploy.train.originals import OriginalPair, Samples, raise_depth
from sr_deploy.train.recipe import Recipe
from sr_deploy.train.training_images import TrainingImages

_PATCH_STREAM = 0
_PICTURE_STREAM = 15
_BATCHES_AHEAD = 2  # for each thread
_NOTICE_SECONDS = 0.5


@dataclass(frozen=True)
class Batch:
    """What one process works on in one step, N x H x W x C, 8 bit, or 16 where one of its originals has them."""

    step: int
    """Of the training, from 0."""
    first_sample: int
    """Number of its first sample among those of all processes."""
    lr: Samples
    """Low resolution, aligned with `hr`; N x 0 x 0 x C where a degradation makes it."""
    hr: Samples
    """Patches of the originals; their sides are `lr`'s times the scale, or the canvas of the degradation."""


class PatchSampler:
    """Cuts the patches of any step."""

    def __init__(
        self,
        photographs: TrainingImages,
        recipe: Recipe,
        *,
        mixture: Mixture | None = None,
        rank: int = 0,
        processes: int = 1,
    ) -> None:
        """A sampler of one process's share of each batch.

        Args:
            photographs: without a degradation their sides are at least the recipe's patch size; with one they may be
                any, and have no low resolution.
            recipe: decides what is drawn.
            mixture: which of the photographs, and at which scale; None: each alike, as it is.
            rank: of this process.
            processes: that share a batch; they must divide it.
        """
        self._photographs = photographs
        self._mixture = mixture
        self._seed = recipe.seed
        self._data = recipe.data
        self._canvas = recipe.degradation.canvas if recipe.degradation is not None else None
        self.share = recipe.data.batch // processes
        self._first = rank * self.share

    def draw_batch(self, step: int, abandoned: threading.Event | None = None) -> Batch:
        """The batch of a step (counted from 0).

        Args:
            step: of the training.
            abandoned: set where nobody wants it any more.

        Raises:
            InputError: no file is left that can be used.
            CancelledError: it was abandoned.
        """
        patches = []
        for sample in range(self._first, self._first + self.share):
            if abandoned is not None and abandoned.is_set():
                raise CancelledError
            patches.append(self.draw_patch(step, sample, abandoned))
        lr, hr = (np.stack(raise_depth(images)) for images in zip(*patches, strict=True))
        return Batch(step=step, first_sample=self._first, lr=lr, hr=hr)

    def draw_patch(self, step: int, sample: int, abandoned: threading.Event | None = None) -> tuple[Samples, Samples]:
        """One pair of patches (low, high resolution), flipped and turned alike."""
        random = random_for(self._seed, _PATCH_STREAM, step, sample)
        choosing, count = random, self._data.patches_per_decode
        if count > 1:
            # A sample keeps its picture for so many steps, so that a batch is of different ones, and samples take new
            # ones in turn, so that each step waits for as many.
            choosing = random_for(self._seed, _PICTURE_STREAM, (step + sample) // count, sample)
        pair = None
        while pair is None:  # a file that cannot be used is drawn again, from the same stream
            picture, picture_scale = self._draw_picture(choosing)
            pair = self._photographs.pair(picture, abandoned)
        if picture_scale != WHOLE:
            side, scale = (self._canvas, None) if self._canvas else (self._data.patch_size, self._photographs.scale)
            lr, hr = cut_shrunk(pair.hr, picture_scale, side, scale, random)
        elif self._canvas is None:
            lr, hr = self._cut(pair, random)
        else:
            lr, hr = pair.lr, cut_canvas(pair.hr, self._canvas, random)
        # Drawn whether used or not: switching one off leaves the other draws as they were.
        flip, turns = bool(random.integers(2)), int(random.integers(4))
        if flip and self._data.flips:
            lr, hr = lr[:, ::-1], hr[:, ::-1]
        if self._data.rotations:
            lr, hr = np.rot90(lr, turns), np.rot90(hr, turns)
        return lr, hr

    def _draw_picture(self, random: np.random.Generator) -> tuple[int, PictureScale]:
        if self._mixture is None:
            return int(random.integers(len(self._photographs.paths))), WHOLE
        entry = self._mixture.draw(random)
        return entry.picture, entry.scale

    def _cut(self, pair: OriginalPair, random: np.random.Generator) -> tuple[Samples, Samples]:
        scale = self._photographs.scale
        side = self._data.patch_size // scale
        top, left = draw_corner(pair.hr[::scale, ::scale], side, random)
        hr = pair.hr[top * scale : (top + side) * scale, left * scale : (left + side) * scale]
        if pair.lr.size:
            return pair.lr[top : top + side, left : left + side], hr
        return downscale_bicubic(pair.hr, scale, range(top, top + side), range(left, left + side)), hr


def cut_canvas(hr: Samples, side: int, random: np.random.Generator) -> Samples:
    """A square of that side; what is missing is reflected, below and to the right."""
    top, left = draw_corner(hr, side, random)
    cut = hr[top : top + side, left : left + side]
    missing = ((0, side - cut.shape[0]), (0, side - cut.shape[1]), (0, 0))
    return np.pad(cut, missing, mode="reflect") if any(after for _, after in missing) else cut


def random_for(seed: int, stream: int, step: int, sample: int) -> np.random.Generator:
    """The generator of one sample's draws: Philox (Salmon et al. 2011) with all of them in its key and counter.

    Args:
        seed: of the recipe.
        stream: which kind of draws.
        step: of the training, from 0.
        sample: within the step, over all processes, from 0.
    """
    return np.random.Generator(np.random.Philox(key=[seed, stream], counter=[0, 0, step, sample]))


def iterate_batches(
    sampler: PatchSampler, first: int, last: int, workers: int, stop: threading.Event | None = None
) -> Generator[Batch, None, None]:
    """Batches of the steps `first` to `last - 1`, prepared ahead by `workers` threads (none: when asked).

    They end early where one does not come, as from a drive that is gone, half a second after `stop` was set.
    """
    pool = ThreadPoolExecutor(max(workers, 1), thread_name_prefix="batches")
    waiting: deque[Future[Batch]] = deque()
    abandoned = threading.Event()
    try:
        for step in range(first, last):
            waiting.append(pool.submit(sampler.draw_batch, step, abandoned))
            while len(waiting) > (workers * _BATCHES_AHEAD if step < last - 1 else 0):
                if not _comes(waiting[0], stop):
                    return
                yield waiting.popleft().result()
    finally:
        abandoned.set()
        pool.shutdown(cancel_futures=True)


def _comes(batch: Future[Batch], stop: threading.Event | None) -> bool:
    """Wait for a batch; false: half a second passed after `stop` was set."""
    while not wait([batch], _NOTICE_SECONDS).done:
        if stop is not None and stop.is_set():
            return False
    return True
