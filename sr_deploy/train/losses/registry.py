"""The terms of the generator's loss: each is one module of this folder, found by its file name when asked for.

Other packages may bring more: an entry point of the group `sr_deploy.losses` names a loss and the module that holds its
`LOSS`.

No torch is imported here before a loss is asked for.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, Generic, Literal, Protocol, TypeVar

from sr_deploy.errors import InputError
from sr_deploy.plugins import find_modules
from sr_deploy.train.metrics import OTHER_METRICS
from sr_deploy.train.section import Factor, Section

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from sr_deploy.train.recipe import Recipe

_ENTRY_POINTS = "sr_deploy.losses"
_NAME = re.compile(r"[a-z][a-z0-9_]{0,63}")

Need = Literal["original", "discriminator", "teacher"]
"""What a loss is computed from beside the generator's output and its input."""


class LossOptions(Section):
    """Section of a loss in a recipe: `[loss.NAME]`. A loss with options of its own has a subclass of this."""

    weight: Factor
    """Factor of the term; 0 leaves it out."""


class TeacherOptions(LossOptions):
    """Section of a loss that needs the teacher."""

    teacher: str | None = None
    """A checkpoint, run or bundle of a network of the same scale and channels, which is not trained; left out: with
    [quantization] what the network was when training began, in FP32."""


OptionsT = TypeVar("OptionsT", bound=LossOptions)


@dataclass(frozen=True)
class TeacherOutput:
    """What a teacher makes of a batch."""

    sr_NCHW: Tensor
    """Its picture, without gradient, in the floating type that it computes in."""
    features: tuple[Tensor, Tensor] | None
    """The last feature maps before the upsampling, N x C x H x W: the generator's with their gradient, and the
    teacher's. None where an architecture does not say which they are."""


@dataclass(frozen=True)
class LossInputs:
    """What losses are computed from: a batch, or a part of one. Images are RGB in [0, 1], not clamped."""

    lr_NCHW: Tensor
    """The network's input, FP32."""
    sr_NCHW: Tensor
    """The generator's output with its gradient, in the floating type that it computes in."""
    target_NCHW: Tensor
    """The original that the output is to equal, FP32; sharpened where the recipe sharpens originals."""
    hr_NCHW: Tensor
    """The original as it is, FP32."""
    discriminator: Callable[[Tensor], Tensor]
    """From images to logits, N x 1 or N x 1 x H x W. The gradient flows into the images, not into its weights."""
    teacher: Callable[[Tensor], TeacherOutput]
    """From the network's input to what the teacher makes of it."""


Criterion = Callable[[LossInputs], "Tensor"]
"""A loss without its weight: a scalar in FP32."""


class AdversarialCriterion(Protocol):
    """What `build` gives for a loss that needs the discriminator: it trains that too."""

    def __call__(self, inputs: LossInputs) -> Tensor:
        """What the generator minimizes, without its weight: a scalar in FP32."""

    def discriminator_loss(self, real: Tensor, fake: Tensor) -> Tensor:
        """What the discriminator minimizes, a scalar in FP32.

        Args:
            real: logits of originals.
            fake: logits of generated images, which were detached from the generator.
        """


@dataclass(frozen=True)
class Loss(Generic[OptionsT]):
    """Everything that is known of one term. Its curve has the name of its module."""

    title: str
    """Name for people, with its source."""
    options: type[OptionsT]
    """Its section in a recipe. `examples` of a field are what the gradient test tries."""
    build: Callable[[OptionsT, torch.device], Criterion | AdversarialCriterion]
    """The term without its weight; networks of its own are put on the device."""
    needs: frozenset[Need] = frozenset({"original"})
    """What it is computed from beside the generator's output and its input."""
    check_files: Callable[[OptionsT], object] = lambda _options: None
    """Look for the files that `build` will read. Raises InputError, before hours of the stages that come first."""
    flat: bool = False
    """Whether its options are keys of `[loss]` itself."""

    def find_options(self, name: str, recipe: Recipe) -> OptionsT | None:
        """Its options in a recipe; None where the recipe does not have it."""
        section: Any = recipe.loss  # its fields are known when a recipe is read
        found: OptionsT | None = section if self.flat else getattr(section, name)
        return found


@dataclass(frozen=True)
class Term:
    """A loss that a recipe gives a weight above 0."""

    name: str
    """Of the loss, and of its curve."""
    loss: Loss[Any]
    options: LossOptions
    """What the recipe says of it."""

    @property
    def key(self) -> str:
        """Its section, as messages name it."""
        return describe_key(self.name, self.loss)

    @property
    def teacher(self) -> str | None:
        """Of a loss that needs one: the file or folder that the recipe names."""
        return self.options.teacher if isinstance(self.options, TeacherOptions) else None


def _find_modules() -> Mapping[str, str]:
    modules = find_modules("sr_deploy.train.losses", _ENTRY_POINTS, exclude=("registry",))
    wrong = next((name for name in modules if not _NAME.fullmatch(name) or name in OTHER_METRICS), None)
    if wrong is not None:
        raise InputError(
            f"an installed package names a loss {wrong[:64]!r}; a name has small letters, digits and underscores, and "
            f"is none of {', '.join(sorted(OTHER_METRICS))}: rename its entry point of {_ENTRY_POINTS}"
        )
    return modules


def loss_names() -> tuple[str, ...]:
    """Names of all losses, sorted.

    Raises:
        InputError: an installed package brings one whose name is not allowed.
    """
    return tuple(sorted(_find_modules()))


@cache
def get_loss(name: str) -> Loss[Any]:
    """The loss of that name, one of `loss_names()`."""
    loss: Loss[Any] = importlib.import_module(_find_modules()[name]).LOSS
    return loss


def list_losses() -> list[tuple[str, Loss[Any]]]:
    """(name, loss) of all, in the order in which terms are added up: simple ones first, the discriminator's last."""

    def order(one: tuple[str, Loss[Any]]) -> tuple[bool, bool, bool, str]:
        name, loss = one
        return "discriminator" in loss.needs, "teacher" in loss.needs, not loss.flat, name

    return sorted(((name, get_loss(name)) for name in loss_names()), key=order)


def describe_key(name: str, loss: Loss[Any]) -> str:
    """The section of a loss, as in `loss.NAME`."""
    return "loss" if loss.flat else f"loss.{name}"


def find_terms(recipe: Recipe) -> list[Term]:
    """The losses that a recipe gives a weight above 0, in the order of `list_losses`."""
    found = [(name, loss, loss.find_options(name, recipe)) for name, loss in list_losses()]
    return [Term(name, loss, options) for name, loss, options in found if options is not None and options.weight > 0]
