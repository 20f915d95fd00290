"""Learning rates as functions of the step alone: nothing to save, nothing to restore."""

from __future__ import annotations

import math

from sr_deploy.train.recipe import OptimizerRecipe, ScheduleRecipe


def learning_rate_at(step: int, optimizer: OptimizerRecipe, steps: int) -> float:
    """The learning rate of one update.

    Args:
        step: updates made before this one (0 for the first).
        optimizer: base rate and schedule.
        steps: updates of the whole training, the length of a plain cosine.
    """
    schedule, base = optimizer.schedule, optimizer.learning_rate
    rate = _scheduled_rate(step, schedule, base, steps)
    if step < schedule.warm_up:
        rate *= (step + 1) / schedule.warm_up
    return rate


def _scheduled_rate(step: int, schedule: ScheduleRecipe, base: float, steps: int) -> float:
    if schedule.kind == "multistep":
        return base * schedule.gamma ** sum(step >= milestone for milestone in schedule.milestones)
    if schedule.kind == "cosine":
        return _cosine(step, steps, base, schedule.minimum)
    if schedule.kind == "cosine_restarts":
        start = 0
        for period in schedule.periods:
            if step < start + period:
                return _cosine(step - start, period, base, schedule.minimum)
            start += period
        return schedule.minimum
    return base


def _cosine(step: int, length: int, base: float, minimum: float) -> float:
    """Half a cosine from base to minimum (SGDR, eq. 5)."""
    return minimum + (base - minimum) * (1 + math.cos(math.pi * min(step / length, 1.0))) / 2
