"""What changes while training."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import nn

from sr_deploy.arch.spec import DiscriminatorSpec
from sr_deploy.train.degradation import PairPool
from sr_deploy.train.ema import MovingAverage
from sr_deploy.train.run import ValidationResult


@dataclass
class DiscriminatorState:
    """A discriminator in training."""

    network: nn.Module
    """In FP32, on the device."""
    spec: DiscriminatorSpec
    optimizer: torch.optim.Optimizer
    """Adam, with its moments."""
    rate_factor: float
    """Its learning rate, as a multiple of the generator's."""


@dataclass
class TrainingState:
    """What changes while training. The loop owns it."""

    network: nn.Module
    """The generator, in FP32, on the device."""
    average: MovingAverage
    """Moving average of the generator: what is validated and exported."""
    optimizer: torch.optim.Optimizer
    """Adam, with its moments."""
    scaler: torch.amp.GradScaler
    """Keeps FP16 gradients from vanishing; passes everything through for other formats."""
    discriminator: DiscriminatorState | None = None
    """The discriminator, where the loss has an adversarial term."""
    pool: PairPool | None = None
    """Training pairs kept for later batches, of this process."""
    step: int = 0
    """Updates made, those left out among them."""
    seconds: float = 0.0
    """Time in the loop, over all resumptions."""
    metrics: dict[str, list[float]] = field(default_factory=dict)
    """Of the healthy steps since the last line of metrics, by name."""
    skipped: int = 0
    """Steps left out so far."""
    skipped_lately: int = 0
    """Those of them since the last line of metrics."""
    bad_in_row: int = 0
    """Steps left out one after another, up to now."""
    best_validation: ValidationResult | None = None
    """The best so far, by the recipe's `run.best_by`."""
