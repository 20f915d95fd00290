"""The pool of training pairs, which mixes what is drawn once for a batch."""

from __future__ import annotations

import torch
from torch import Tensor

from sr_deploy.errors import TrainingError
from sr_deploy.train.degradation.degrader import TrainingPair
from sr_deploy.train.sampling import random_for

_POOL_STREAM = 13
_NAMES = ("lr", "hr", "target")


class PairPool:
    """Keeps pairs of past steps and gives some of them back for those that come in (Real-ESRGAN, section 4.1).

    Until the pool is full, pairs are kept and pass through. Then each sample that comes in takes the place of one
    drawn at random, which leaves in its stead. Size and batch need not divide each other. Pixels are kept in
    8 bit; from the first batch of deep originals on theirs are kept in 16.
    """

    def __init__(self, size: int, seed: int) -> None:
        """`size`: pairs that are kept; 0 lets everything pass. `seed`: of the recipe."""
        self._size = size
        self._seed = seed
        self._filled = 0
        self._kept: dict[str, Tensor] = {}

    def exchange(self, pair: TrainingPair, step: int, *, deep: bool = False) -> TrainingPair:
        """Put a batch in, take one of the same size out.

        Args:
            pair: of the step. On levels of 255, or of 65535 where deep, so that nothing is lost.
            step: of the training; with the seed it decides what is drawn.
            deep: whether the originals have 16 bits.

        Raises:
            TrainingError: the patches have another size than those in the pool.
        """
        if self._size == 0:
            return pair
        images = _take_apart(pair)
        self._prepare(images, deep=deep)
        count = len(pair.hr_NCHW)
        fresh = min(count, self._size - self._filled)
        for name, kept in self._kept.items():
            kept[self._filled : self._filled + fresh] = _encode(images[name][:fresh], kept.dtype)
        # Drawn among those that were there before, and never one twice.
        before = self._filled
        leaving = min(count - fresh, before)
        self._filled += fresh
        if leaving == 0:
            return pair
        slots = random_for(self._seed, _POOL_STREAM, step, 0).permutation(before)[:leaving]
        indices = torch.from_numpy(slots).to(pair.hr_NCHW.device)
        given = {}
        for name, kept in self._kept.items():
            old = kept.index_select(0, indices)
            kept.index_copy_(0, indices, _encode(images[name][fresh : fresh + leaving], kept.dtype))
            parts = (images[name][:fresh], _decode(old), images[name][fresh + leaving :])
            given[name] = torch.cat(parts)
        return TrainingPair(given["lr"], given["hr"], given.get("target", given["hr"]))

    def state_dict(self) -> dict[str, Tensor | int]:
        """All that is in the pool; tensors are shared, not copied."""
        return {"filled": self._filled, **self._kept}

    def load_state_dict(self, state: dict[str, Tensor | int]) -> None:
        """Go on with what `state_dict` gave.

        Args:
            state: of a pool of the same size.

        Raises:
            TrainingError: the state does not fit this pool.
        """
        filled = state.get("filled")
        images = {name: value for name, value in state.items() if name in _NAMES and isinstance(value, Tensor)}
        if not isinstance(filled, int) or not 0 <= filled <= self._size:
            raise TrainingError(f"the pool's state holds {filled} pairs, the pool 0 to {self._size}; start a new run")
        if any(value.dtype not in (torch.uint8, torch.int16) or len(value) != self._size for value in images.values()):
            raise TrainingError(f"the pool's state is not one of {self._size} pairs of 8 or 16 bit; start a new run")
        self._filled = filled
        self._kept = {name: value.clone() for name, value in images.items()}

    def _prepare(self, images: dict[str, Tensor], *, deep: bool) -> None:
        if not self._kept:
            self._kept = {
                name: torch.zeros(self._size, *image.shape[1:], dtype=torch.uint8, device=image.device)
                for name, image in images.items()
            }
        if deep:  # low resolution stays on levels of 255
            self._kept = {
                name: kept if name == "lr" or kept.dtype == torch.int16 else _encode(_decode(kept), torch.int16)
                for name, kept in self._kept.items()
            }
        for name, image in images.items():
            if name not in self._kept or self._kept[name].shape[1:] != image.shape[1:]:
                raise TrainingError(
                    f"the pool keeps { ({name: tuple(kept.shape[1:]) for name, kept in self._kept.items()}) }, but got "
                    f"{name} of {tuple(image.shape[1:])}; patches must keep their size within a run"
                )


def _take_apart(pair: TrainingPair) -> dict[str, Tensor]:
    images = {"lr": pair.lr_NCHW, "hr": pair.hr_NCHW}
    if pair.target_NCHW is not pair.hr_NCHW:
        images["target"] = pair.target_NCHW
    return images


def _encode(images_NCHW: Tensor, dtype: torch.dtype) -> Tensor:
    """To 8 bit, or to 16: torch computes with signed ones alone, so black is the lowest of them."""
    if dtype == torch.uint8:
        return (images_NCHW * 255).round_().to(torch.uint8)
    return (images_NCHW * 65535).round_().sub_(32768).to(torch.int16)


def _decode(kept_NCHW: Tensor) -> Tensor:
    return kept_NCHW.float() / 255 if kept_NCHW.dtype == torch.uint8 else (kept_NCHW.float() + 32768) / 65535
