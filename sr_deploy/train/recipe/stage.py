"""A recipe: one stage of training, complete."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import ConfigDict, Field, SerializeAsAny, model_validator

from sr_deploy.arch.spec import ArchSpec
from sr_deploy.train.losses.registry import describe_key, find_terms, list_losses
from sr_deploy.train.recipe.data import DataRecipe
from sr_deploy.train.recipe.degradation import DegradationRecipe
from sr_deploy.train.recipe.loss import DiscriminatorRecipe, LossRecipe
from sr_deploy.train.recipe.optimizer import EmaRecipe, OptimizerRecipe, PrecisionRecipe
from sr_deploy.train.section import Section, Steps

_TIES = {"original", "teacher"}
"""What the result may be held to: without any of them it could be anything."""


class NetworkRecipe(Section):
    """The generator, apart from its scale (stated once, at the top of the recipe), with its architecture's options."""

    model_config = ConfigDict(extra="allow")  # what they may be says the architecture, when a recipe is read

    architecture: str = Field(max_length=64)
    """Name of a module of `sr_deploy.arch.networks`."""


class QuantizationRecipe(Section):
    """Weights learn to live with the rounding of INT8, which the forward pass then has (quantization-aware training).

    `train --qat` measures the steps on the training photographs and begins with the weights that it is given.
    """

    input_steps: dict[str, Annotated[float, Field(gt=0, le=1e6)]] = Field(default={}, max_length=10_000)
    """Step of the data input of each convolution that is INT8, by name of its module."""
    checkpoint: str | None = None
    """What `--qat` was given, for people."""
    checkpoint_sha256: str | None = None


class RunRecipe(Section):
    """How long, and what is written when."""

    steps: Steps
    """Updates of the weights."""
    log_every: Steps = 20
    """Steps between two lines of metrics."""
    validate_every: Steps = 1000
    """Steps between two validations; the last step is always validated."""
    checkpoint_every: Steps = 1000
    """Steps between two checkpoints; the last step always has one."""
    keep_checkpoints: int = Field(default=3, ge=1, le=10**6)
    """Checkpoints kept, the newest ones."""
    keep_best: bool = True
    """Keep the checkpoint of the best validation too; a validation that beats all before has one."""
    best_by: Literal["psnr_y", "ssim_y", "psnr_rgb", "ssim_rgb", "niqe", "lpips"] = "psnr_y"
    """Mean over the held-out photographs by which validations are compared; the highest is best, of NIQE and LPIPS the
    lowest."""
    lpips: tuple[str, str] | None = None
    """Weight files of LPIPS, to validate by it too: torchvision's AlexNet or VGG16, and LPIPS v0.1's alex.pth or
    vgg.pth; left out: it is not computed."""
    patience: int = Field(default=0, ge=0, le=10**9)
    """Steps without a better validation after which the training ends; 0: it goes on to `steps`."""
    bad_steps: int = Field(default=20, ge=0, le=10**9)
    """Steps in a row with a non-finite loss or gradient, which are skipped, before the training gives up."""
    preview_every: Steps = 1000
    """Steps between two preview pictures; the last step always has one."""
    wandb: str = Field(default="", pattern=r"^[^/\\#?%:]*$", max_length=128)
    """Project at Weights & Biases that figures and previews are sent to; empty: nothing is sent."""

    @model_validator(mode="after")
    def _check_lpips(self) -> Self:
        if self.best_by == "lpips" and self.lpips is None:
            raise ValueError(
                'best_by = \'lpips\' needs LPIPS\'s weights: give run.lpips = ["alexnet-owt-7be5be79.pth", "alex.pth"]'
            )
        return self


class Recipe(Section):
    """One stage of training, complete: with the data and the machine it decides every bit of the result."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=100)
    """Name of the recipe and, with a number behind if taken, of the run's folder."""
    description: str = ""
    """What it is for, in a sentence."""
    scale: int = Field(ge=1, le=16)
    """Output pixels per input pixel, along each side."""
    channels: Literal[1, 3] = 3
    """Of the images, in and out: 3 (RGB), or 1 (gray; of originals in color the luma is taken)."""
    seed: int = Field(default=0, ge=0, lt=2**63)
    """Where all random draws begin."""
    init_from: str | None = None
    """Recipe of the stage before, from whose averaged generator this one starts. It is trained first where it is not
    there yet, or --from gives the weights."""
    network: NetworkRecipe
    data: DataRecipe
    degradation: DegradationRecipe | None = None
    """How low resolution is made; left out: the papers' bicubic."""
    loss: SerializeAsAny[LossRecipe] = Field(default_factory=lambda: LossRecipe.model_validate({}))
    optimizer: OptimizerRecipe
    discriminator: DiscriminatorRecipe | None = None
    """Needed by a loss that asks for it, and by nothing else."""
    quantization: QuantizationRecipe | None = None
    """What is computed in INT8; left out: nothing."""
    ema: EmaRecipe = EmaRecipe()
    """The average of the weights."""
    precision: PrecisionRecipe = PrecisionRecipe()
    """Number formats and memory layout."""
    run: RunRecipe

    @model_validator(mode="after")
    def _check_patch(self) -> Self:
        if self.data.patch_size % self.scale:
            raise ValueError(f"data.patch_size = {self.data.patch_size} is not a multiple of scale = {self.scale}")
        if self.degradation is not None:
            if self.data.lr_folder is not None:
                raise ValueError(
                    f"data.lr_folder = {self.data.lr_folder!r} has low resolution, and [degradation] makes it; give one"
                )
            canvas = self.degradation.canvas
            if canvas % self.scale or canvas < self.data.patch_size:
                raise ValueError(
                    f"degradation.canvas = {canvas} must be a multiple of scale = {self.scale} and at least "
                    f"data.patch_size = {self.data.patch_size}"
                )
        if self.data.batch % self.optimizer.accumulate:
            raise ValueError(
                f"data.batch = {self.data.batch} does not divide into optimizer.accumulate = "
                f"{self.optimizer.accumulate} parts"
            )
        return self

    @model_validator(mode="after")
    def _check_losses(self) -> Self:
        terms = find_terms(self)
        if not any(_TIES & term.loss.needs for term in terms):
            keys = [describe_key(name, loss) for name, loss in list_losses() if _TIES & loss.needs]
            raise ValueError(
                "nothing ties the result to an original or a teacher: of "
                f"{', '.join(f'{key}.weight' for key in keys)} at least one must be above 0"
            )
        asked = {term.key: term.teacher for term in terms if "teacher" in term.loss.needs}
        if None in asked.values() and self.quantization is None:
            key = next(key for key, teacher in asked.items() if teacher is None)
            raise ValueError(
                f"{key} asks for a teacher; name a checkpoint, run or bundle as {key}.teacher (only with a "
                "[quantization] it may be left out: the network as it begins)"
            )
        if len(set(asked.values())) > 1:
            raise ValueError(f"{' and '.join(asked)} have different teachers; give them the same")
        adversarial = [term.key for term in terms if "discriminator" in term.loss.needs]
        if len(adversarial) > 1:
            raise ValueError(f"{' and '.join(adversarial)} would both train the discriminator; give one of them")
        if adversarial and self.discriminator is None:
            raise ValueError(f"{adversarial[0]} needs a [discriminator]")
        if self.discriminator is not None and not adversarial:
            keys = [describe_key(name, loss) for name, loss in list_losses() if "discriminator" in loss.needs]
            raise ValueError(f"[discriminator] is there for a loss that needs it ([{'], ['.join(keys)}]): give one")
        return self

    def arch_spec(self) -> ArchSpec:
        """The generator's full description."""
        return ArchSpec(scale=self.scale, channels=self.channels, **self.network.model_dump())
