"""Low resolution as photographs from the wild have it: Real-ESRGAN's high-order degradation, on batches, on the device.

`Degrader` makes the pairs of a step, `PairPool` mixes those of many steps.
"""

from __future__ import annotations

from sr_deploy.train.degradation.degrader import Degrader, TrainingPair
from sr_deploy.train.degradation.pool import PairPool

__all__ = ["Degrader", "PairPool", "TrainingPair"]
