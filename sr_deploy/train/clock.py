"""Time in the training loop, and its pace."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Iterator

from sr_deploy.train.sampling import Batch
from sr_deploy.train.state import TrainingState

_MANIFEST_SECONDS = 5.0
_MUCH_WAITING = 0.2  # share of the time


class Clock:
    """Time in the loop, and the pace of the latest steps."""

    def __init__(self, state: TrainingState) -> None:
        now = time.monotonic()
        self._started = now - state.seconds
        self._lap_at, self._lap_step = now, state.step
        self._manifest_at = now
        self._waited, self._told = 0.0, False
        self.loss, self.steps_per_second, self.data_wait = math.nan, math.nan, 0.0

    def watch(self, batches: Iterable[Batch]) -> Iterator[Batch]:
        """The batches, with the time taken that the loop waits for them."""
        iterator = iter(batches)
        while True:
            asked = time.monotonic()
            batch = next(iterator, None)
            self._waited += time.monotonic() - asked
            if batch is None:
                return
            yield batch

    def tick(self, state: TrainingState) -> None:
        """Bring the state's time up to date."""
        state.seconds = time.monotonic() - self._started

    def lap(self, state: TrainingState, loss: float) -> None:
        """Begin a new stretch of steps; keep the loss and the pace of the one that ends."""
        now = time.monotonic()
        passed = max(now - self._lap_at, 1e-9)
        self.steps_per_second, self.data_wait = (state.step - self._lap_step) / passed, self._waited / passed
        self._lap_at, self._lap_step, self._waited, self.loss = now, state.step, 0.0, loss

    def metrics(self) -> dict[str, float]:
        """Of the latest stretch, as the log has them."""
        return {"steps_per_second": round(self.steps_per_second, 3), "data_wait": round(self.data_wait, 3)}

    def data_just_became_slow(self) -> bool:
        """Whether the latest stretch is the first of this session that waited much for its batches."""
        if self._told or self.data_wait < _MUCH_WAITING:
            return False
        self._told = True
        return True

    def manifest_due(self) -> bool:
        """Whether the manifest is old; asking makes it new."""
        now = time.monotonic()
        if now - self._manifest_at < _MANIFEST_SECONDS:
            return False
        self._manifest_at = now
        return True
