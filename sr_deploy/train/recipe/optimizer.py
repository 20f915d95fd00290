"""How the weights change: Adam, its learning rate, the average, the number format."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from sr_deploy.train.section import LearningRate, Section, Steps


class ScheduleRecipe(Section):
    """How the learning rate changes with the step."""

    kind: Literal["constant", "multistep", "cosine", "cosine_restarts"] = "constant"
    """constant; multistep (times `gamma` at each milestone); cosine (to `minimum` at the last step);
    cosine_restarts (a cosine for each of `periods`)."""
    milestones: tuple[Steps, ...] = Field(default=(), max_length=1000)
    """multistep: steps at which the rate is multiplied by gamma, ascending."""
    gamma: float = Field(default=0.5, gt=0, le=1)
    """multistep: what the rate is multiplied by at each milestone."""
    periods: tuple[Steps, ...] = Field(default=(), max_length=1000)
    """cosine_restarts: lengths of the cosines in steps, one after another."""
    minimum: float = Field(default=1e-7, ge=0, le=100)
    """cosine and cosine_restarts: the rate at the end of a cosine."""
    warm_up: int = Field(default=0, ge=0, le=10**9)
    """Steps in which the rate first grows linearly to its value; 0 for none."""

    @model_validator(mode="after")
    def _check_kind(self) -> Self:
        if self.kind == "multistep" and (not self.milestones or list(self.milestones) != sorted(set(self.milestones))):
            raise ValueError("multistep needs milestones, ascending")
        if self.kind == "cosine_restarts" and (not self.periods or min(self.periods) < 1):
            raise ValueError("cosine_restarts needs periods of at least one step each")
        return self


class OptimizerRecipe(Section):
    """Adam."""

    learning_rate: LearningRate
    """Step size before the schedule."""
    betas: tuple[float, float] = (0.9, 0.99)
    """Decay of Adam's two moments (0.9 and 0.99 in BasicSR and Real-ESRGAN)."""
    accumulate: int = Field(default=1, ge=1, le=65536)
    """Parts in which a batch passes through the networks, one after another, to save memory; gradients are averaged."""
    clip_norm: float | None = Field(default=None, gt=0, le=10**9)
    """Greatest norm of the generator's gradient; longer ones are shortened to it. Left out: as they come."""
    frozen: tuple[Annotated[str, Field(min_length=1)], ...] = Field(default=(), max_length=1000)
    """Parts of the generator that keep their weights: names of its modules, as `body` or `body.0`."""
    dropout: float = Field(default=0.0, ge=0, lt=1)
    """Probability of each channel before the generator's last convolution to be dropped in training; 0: none."""
    schedule: ScheduleRecipe = ScheduleRecipe()
    """How the learning rate changes."""

    @model_validator(mode="after")
    def _check_betas(self) -> Self:
        if not all(0 <= beta < 1 for beta in self.betas):
            raise ValueError("betas lie in [0, 1)")
        return self


class EmaRecipe(Section):
    """The moving average of the weights, which is what export takes."""

    decay: float = Field(default=0.999, ge=0, lt=1)
    """Share of the old average kept at each step; 0 makes the average equal the weights."""
    warm_up: bool = True
    """Use min(decay, (1 + step) / (10 + step)), so that the initial weights count less in short trainings."""


class PrecisionRecipe(Section):
    """How the forward and backward pass compute. Weights and optimizer stay FP32."""

    autocast: Literal["auto", "off", "bf16", "fp16"] = "auto"
    """auto measures at the start which is fastest here; off is FP32."""
    channels_last: bool | Literal["auto"] = "auto"
    """Memory layout NHWC; auto measures."""
    compile: bool = False
    """Compile the generator with torch.compile: a minute at the start, then fewer passes over memory on a GPU."""
