"""One update: the generator's, and where there is a discriminator, that one's after it.

Nothing here waits for the device: whether a step is healthy is decided there, and unhealthy ones change nothing.
Shape suffixes: N batch, C channels, H height, W width; `sr` is the network's picture, `hr` the original.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from sr_deploy.errors import TrainingError
from sr_deploy.train.degradation import TrainingPair
from sr_deploy.train.dropout import LastDropout
from sr_deploy.train.losses.registry import Criterion, LossInputs, TeacherOutput
from sr_deploy.train.precision import PrecisionChoice
from sr_deploy.train.processes import Processes
from sr_deploy.train.state import TrainingState
from sr_deploy.train.teacher import Teacher

Mark = Callable[[str], None]
"""Told the name of each phase as it begins: forward, backward, update."""


@dataclass(frozen=True)
class Criteria:
    """What the networks minimize."""

    terms: Mapping[str, Criterion]
    """Terms of the generator's loss, each times its weight, in the order in which they are added up."""
    discriminator_loss: Callable[[Tensor, Tensor], Tensor] | None = None
    """From logits of originals and of results."""


@dataclass(frozen=True)
class Updater:
    """What an update needs, apart from the batch."""

    state: TrainingState
    generator: nn.Module
    """The state's network as it is called: compiled, or shared between processes."""
    discriminator: nn.Module | None
    """The discriminator as it is called in its own update."""
    teacher: Teacher | None
    """Where a loss asks for it."""
    criteria: Criteria
    precision: PrecisionChoice
    """How the passes compute."""
    device: torch.device
    accumulate: int
    """Parts in which a batch passes, one after another, at least 1."""
    clip_norm: float | None
    """Greatest norm of the generator's gradient."""
    dropout: LastDropout | None
    """In the generator."""
    processes: Processes

    def update(self, pair: TrainingPair, learning_rate: float, mark: Mark = lambda phase: None) -> dict[str, Tensor]:
        """Change the networks by one batch.

        Args:
            pair: the batch, FP32 on the device.
            learning_rate: of the generator's step.
            mark: told the phases.

        Returns:
            0-dim tensors on the device: `healthy` (1, or 0 if a loss or gradient was non-finite and nothing was
            changed), `loss`, each of its terms, `gradient_norm` before clipping, and with a discriminator its loss, its
            mean verdicts (logits) and `discriminator_gradient_norm`.
        """
        state, discriminator = self.state, self.state.discriminator
        kept = _keep_buffers(state.network, *([discriminator.network] if discriminator else []))
        metrics = _Metrics(self.accumulate)
        parts = _split(self._lay_out(pair), self.accumulate)
        state.optimizer.zero_grad(set_to_none=True)
        sr_parts: list[Tensor] = []
        first_sample = self.processes.rank * len(pair.lr_NCHW)
        for number, part in enumerate(parts):
            count = len(part.lr_NCHW)
            if self.dropout is not None:
                self.dropout.draw(state.step, first_sample + number * count, count, self.device)
            with self._sharing(self.generator, last=number == len(parts) - 1):
                sr_parts.append(self._generator_pass(part, metrics, mark))
        mark("update")
        healthy, norm = self._step(state.optimizer, state.network, learning_rate, self.clip_norm, metrics["loss"])
        norms = {"gradient_norm": norm}
        if discriminator is not None:
            discriminator.optimizer.zero_grad(set_to_none=True)
            for number, (part, sr_NCHW) in enumerate(zip(parts, sr_parts, strict=True)):
                with self._sharing(self.discriminator, last=number == len(parts) - 1):
                    self._discriminator_pass(part.hr_NCHW, sr_NCHW, metrics, mark)
            mark("update")
            rate = learning_rate * discriminator.rate_factor
            judged, norm = self._step(
                discriminator.optimizer, discriminator.network, rate, None, metrics["discriminator"]
            )
            healthy &= judged
            norms["discriminator_gradient_norm"] = norm
        state.scaler.update()
        _restore_buffers(kept, healthy)
        return {**metrics.means, **norms, "healthy": healthy.float()}

    def _generator_pass(self, part: TrainingPair, metrics: _Metrics, mark: Mark) -> Tensor:
        mark("forward")
        with self.precision.autocast_on(self.device):
            sr_NCHW: Tensor = self.generator(part.lr_NCHW)
        inputs = LossInputs(part.lr_NCHW, sr_NCHW, part.target_NCHW, part.hr_NCHW, self._discriminate, self._teach)
        discriminator = self.state.discriminator
        if discriminator is not None:
            discriminator.network.requires_grad_(False)
        terms = {name: criterion(inputs) for name, criterion in self.criteria.terms.items()}
        if discriminator is not None:
            discriminator.network.requires_grad_(True)
        loss = torch.stack(list(terms.values())).sum()
        metrics.add({"loss": loss, **(terms if len(terms) > 1 else {})})
        mark("backward")
        self.state.scaler.scale(loss / self.accumulate).backward()  # type: ignore[no-untyped-call]
        return sr_NCHW.detach()

    def _discriminator_pass(self, hr_NCHW: Tensor, sr_NCHW: Tensor, metrics: _Metrics, mark: Mark) -> None:
        assert self.criteria.discriminator_loss is not None
        assert self.discriminator is not None
        mark("forward")
        with self.precision.autocast_on(self.device):
            # Two passes: batch statistics of originals and of results stay apart, as in the papers' code.
            real, fake = self.discriminator(hr_NCHW), self.discriminator(sr_NCHW)
        loss = self.criteria.discriminator_loss(real, fake)
        metrics.add({"discriminator": loss, "d_real": real.mean(), "d_fake": fake.mean()})
        mark("backward")
        self.state.scaler.scale(loss / self.accumulate).backward()  # type: ignore[no-untyped-call]

    def _discriminate(self, images_NCHW: Tensor) -> Tensor:
        if self.state.discriminator is None:
            raise TrainingError("a loss asks for the discriminator, and its `needs` does not have it: name it there")
        with self.precision.autocast_on(self.device):
            logits: Tensor = self.state.discriminator.network(images_NCHW)
        return logits

    def _teach(self, lr_NCHW: Tensor) -> TeacherOutput:
        if self.teacher is None:
            raise TrainingError("a loss asks for the teacher, and its `needs` does not have it: name it there")
        with self.precision.autocast_on(self.device):
            return self.teacher(lr_NCHW)

    def _step(
        self,
        optimizer: torch.optim.Optimizer,
        network: nn.Module,
        learning_rate: float,
        clip_norm: float | None,
        loss: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """Step if loss and gradient are numbers; whether they are (bool) and the gradient's norm before clipping.

        Both are 0-dim and stay on the device.
        """
        scaler = self.state.scaler
        for group in optimizer.param_groups:
            group["lr"] = learning_rate
        scaler.unscale_(optimizer)
        parameters = [parameter for parameter in network.parameters() if parameter.grad is not None]
        norm = torch.nn.utils.get_total_norm([one.grad for one in parameters if one.grad is not None])
        healthy = self.processes.all_healthy(torch.isfinite(norm) & torch.isfinite(loss))
        if clip_norm is not None:
            torch.nn.utils.clip_grads_with_norm_(parameters, clip_norm, norm)
        if scaler.is_enabled():
            scaler.step(optimizer)  # leaves out what overflowed, by its own check of the same gradients
        else:
            # What GradScaler tells a fused optimizer: with found_inf set, its kernel leaves weights and moments alone.
            optimizer.found_inf = (~healthy).float()  # type: ignore[attr-defined]
            optimizer.step()
        return healthy, norm

    def _lay_out(self, pair: TrainingPair) -> TrainingPair:
        layout = self.precision.memory_format()
        lr, hr = pair.lr_NCHW.contiguous(memory_format=layout), pair.hr_NCHW.contiguous(memory_format=layout)
        same = pair.target_NCHW is pair.hr_NCHW
        return TrainingPair(lr, hr, hr if same else pair.target_NCHW.contiguous(memory_format=layout))

    def _sharing(self, network: nn.Module | None, *, last: bool) -> AbstractContextManager[object]:
        """Processes exchange gradients with the last part of a batch only."""
        if isinstance(network, nn.parallel.DistributedDataParallel) and not last:
            return network.no_sync()
        return nullcontext()


class _Metrics:
    """Means over the parts of a batch."""

    def __init__(self, parts: int) -> None:
        self.means: dict[str, Tensor] = {}
        self._parts = parts

    def add(self, metrics: dict[str, Tensor]) -> None:
        for name, value in metrics.items():
            share = value.detach().float() / self._parts
            self.means[name] = self.means[name] + share if name in self.means else share

    def __getitem__(self, name: str) -> Tensor:
        return self.means[name]


def _split(pair: TrainingPair, parts: int) -> list[TrainingPair]:
    if parts == 1:
        return [pair]
    lr, hr, target = (images.chunk(parts) for images in (pair.lr_NCHW, pair.hr_NCHW, pair.target_NCHW))
    return [TrainingPair(*images) for images in zip(lr, hr, target, strict=True)]


def _keep_buffers(*networks: nn.Module) -> list[tuple[Tensor, Tensor]]:
    """Statistics that a forward pass changes (normalizations), with copies: a non-finite pass spoils them."""
    buffers = [buffer for network in networks for buffer in network.buffers() if buffer.is_floating_point()]
    return [(buffer, buffer.clone()) for buffer in buffers]


@torch.no_grad()
def _restore_buffers(kept: Sequence[tuple[Tensor, Tensor]], healthy: Tensor) -> None:
    for buffer, before in kept:
        buffer.copy_(torch.where(healthy, buffer, before))
