"""The networks of a training, their optimizers and the terms of the loss, as a recipe has them."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn

from sr_deploy.arch.discriminators import build_discriminator, check_discriminator, read_discriminator
from sr_deploy.arch.registry import build_network
from sr_deploy.arch.spec import DiscriminatorSpec
from sr_deploy.arch.transfer import find_misfit, transfer_weights
from sr_deploy.errors import TrainingError
from sr_deploy.files import require_file, sha256_of
from sr_deploy.measure.machine import memory_bytes
from sr_deploy.model import open_model
from sr_deploy.train.dropout import LastDropout, find_last_convolution
from sr_deploy.train.ema import MovingAverage
from sr_deploy.train.frozen import freeze_parts, freeze_statistics
from sr_deploy.train.losses.registry import AdversarialCriterion, Criterion, LossInputs, find_terms
from sr_deploy.train.paired import training_files, validation_files
from sr_deploy.train.precision import PrecisionChoice
from sr_deploy.train.processes import Processes
from sr_deploy.train.recipe import DiscriminatorRecipe, Recipe
from sr_deploy.train.run import StartingPoint
from sr_deploy.train.sinks import check_wandb
from sr_deploy.train.state import DiscriminatorState, TrainingState
from sr_deploy.train.teacher import Teacher, TeacherNetwork, open_teacher
from sr_deploy.train.update import Criteria, Updater

_LOG = logging.getLogger(__name__)


def build_generator(recipe: Recipe, start_from: Path | None, *, resume: bool) -> tuple[nn.Module, StartingPoint | None]:
    """The recipe's generator from its seed, or with the weights of `start_from`; frozen parts get no gradient.

    Raises:
        TrainingError: it needs weights to start from, nothing of those given fits, or it is larger than the memory.
        RecipeError: what is to be frozen is no part of it, or all of it, or it has no place for dropout.
    """
    if start_from is None and recipe.init_from is not None and not resume:
        raise TrainingError(
            f"recipe {recipe.name} starts from a generator of recipe {recipe.init_from}; "
            "train that first and give its run with --from"
        )
    require_room(partial(build_network, recipe.arch_spec()), recipe.arch_spec().title())
    with torch.random.fork_rng(devices=[]):  # the caller's random numbers stay as they were
        torch.manual_seed(recipe.seed)
        network = build_network(recipe.arch_spec())
    _prepare_parts(network, recipe)
    if start_from is None:
        return network, None
    model = open_model(start_from)
    wanted = recipe.arch_spec()
    misfit = find_misfit(model.arch, wanted) if model.arch is not None else "no known network"
    if model.arch is None or misfit is not None:
        there = model.arch.title() if model.arch else "a graph without weights"
        raise TrainingError(
            f"cannot start from {start_from}: it holds {there}, and recipe {recipe.name} trains {wanted.title()}: no "
            f"weights fit ({misfit}); give weights of that network, of any scale and any number of blocks, or change "
            "the recipe's network with --set"
        )
    transfer = transfer_weights(model.load_network().state_dict(), model.arch, network, wanted)
    _LOG.info("starts from %s, %s: %s", start_from, model.arch.title(), transfer.title())
    weights = model.weights_path or model.path
    return network, StartingPoint(path=str(start_from), sha256=sha256_of(weights), transfer=transfer.title())


def _prepare_parts(network: nn.Module, recipe: Recipe) -> None:
    freeze_parts(network, recipe.optimizer.frozen)
    if recipe.optimizer.dropout:
        find_last_convolution(network)


def require_room(build: Callable[[], nn.Module], title: str) -> None:
    """Refuse a network whose weights and their average alone are larger than the machine's memory.

    Args:
        build: makes it; called where it takes no memory.
        title: what it is, for the message.

    Raises:
        TrainingError: it is.
    """
    with torch.device("meta"):
        try:
            needed = 2 * sum(weights.numel() * weights.element_size() for weights in build().parameters())
        except RuntimeError as error:  # a size that no 64 bits hold
            raise TrainingError(
                f"{title} is larger than any memory ({error}); take fewer features or blocks"
            ) from error
    if 0 < memory_bytes() < needed:
        raise TrainingError(
            f"{title} takes {needed / 2**30:.0f} GiB for its weights and their average, and this machine has "
            f"{memory_bytes() / 2**30:.0f} GiB of memory; take fewer features or blocks"
        )


def check_inputs(recipe: Recipe, *, resume: bool = False) -> None:
    """Check what a recipe needs that can be checked at once: before hours of the stages that come first.

    Args:
        recipe: what is to be trained.
        resume: whether a run goes on, which keeps its teacher.

    Raises:
        InputError: a file or folder is missing, or the patches do not suit the discriminator.
        TrainingError: it trains for INT8, and no network is given.
        RecipeError: an unknown bundled photograph; frozen parts that are none, or all, of the network; dropout where
            it has no place.
        MissingDependencyError: a package that the recipe asks for is not installed.
    """
    check_wandb(recipe.run.wandb)
    if recipe.optimizer.frozen or recipe.optimizer.dropout:
        with torch.device("meta"):
            _prepare_parts(build_network(recipe.arch_spec()), recipe)
    training_files(recipe)
    validation_files(recipe)
    if recipe.quantization is not None and not recipe.quantization.input_steps:
        raise TrainingError(f"recipe {recipe.name} trains a network for INT8; give it with --qat CHECKPOINT")
    for term in find_terms(recipe):
        term.loss.check_files(term.options)
        if term.teacher is not None and not resume:
            open_teacher(recipe, term)
    discriminator = recipe.discriminator
    if discriminator is not None:
        check_discriminator(_discriminator_spec(recipe, discriminator))
        if discriminator.weights is not None:
            require_file(Path(discriminator.weights), "a discriminator's weights")


def build_criteria(recipe: Recipe, device: torch.device) -> Criteria:
    """What the networks of a recipe minimize; losses of weight 0 are left out.

    Raises:
        InputError: a file that a loss needs is missing, or not what it should be.
    """
    built = [(term, term.loss.build(term.options, device)) for term in find_terms(recipe)]
    adversarial = [criterion for term, criterion in built if "discriminator" in term.loss.needs]
    return Criteria(
        terms={term.name: _weigh(term.options.weight, criterion) for term, criterion in built},
        discriminator_loss=cast(AdversarialCriterion, adversarial[0]).discriminator_loss if adversarial else None,
    )


def _weigh(weight: float, criterion: Criterion) -> Criterion:
    def weighed(inputs: LossInputs) -> Tensor:
        return weight * criterion(inputs)

    return weighed


def build_discriminator_state(recipe: Recipe, device: torch.device, *, resume: bool) -> DiscriminatorState | None:
    """The recipe's discriminator with its optimizer, from its seed or from the weights that the recipe names.

    Raises:
        InputError: the patch size does not suit it.
        CheckpointError, TrainingError: the weights cannot be used.
    """
    settings = recipe.discriminator
    if settings is None:
        return None
    spec = _discriminator_spec(recipe, settings)
    # Spectral norm adds next to nothing, and takes seconds to make on the meta device.
    require_room(partial(build_discriminator, spec.model_copy(update={"spectral_norm": False})), spec.title())
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed + 1)  # not the numbers of the generator's weights
        network = build_discriminator(spec)
    if settings.weights is not None and not resume:
        found, state = read_discriminator(Path(settings.weights))
        if found.model_copy(update={"patch_size": spec.patch_size}) != spec or not _same_shapes(network, state):
            raise TrainingError(
                f"cannot start from {settings.weights}: it holds {found.title()}, and the recipe trains "
                f"{spec.title()}; give weights of that discriminator, or leave discriminator.weights out"
            )
        network.load_state_dict(state)
    network.to(device)
    rate = settings.learning_rate or recipe.optimizer.learning_rate
    optimizer = torch.optim.Adam(network.parameters(), lr=rate, betas=recipe.optimizer.betas, fused=True)
    return DiscriminatorState(network, spec, optimizer, rate_factor=rate / recipe.optimizer.learning_rate)


def build_state(
    recipe: Recipe,
    network: nn.Module,
    discriminator: DiscriminatorState | None,
    precision: PrecisionChoice,
    device: torch.device,
) -> TrainingState:
    """Networks in the layout that was chosen, ready to train from step 0."""
    for one in (network, discriminator.network if discriminator is not None else None):
        if one is not None:
            one.train().to(memory_format=precision.memory_format())  # type: ignore[call-overload]
    freeze_statistics(network)
    # Frozen weights are among the optimizer's, which passes over what has no gradient: a run may freeze others later.
    optimizer = torch.optim.Adam(
        network.parameters(), lr=recipe.optimizer.learning_rate, betas=recipe.optimizer.betas, fused=True
    )
    return TrainingState(
        network=network,
        average=MovingAverage(network, recipe.ema),
        optimizer=optimizer,
        scaler=torch.amp.GradScaler(device.type, enabled=precision.autocast == "fp16"),
        discriminator=discriminator,
    )


def build_updater(
    recipe: Recipe,
    state: TrainingState,
    criteria: Criteria,
    *,
    teacher: TeacherNetwork | None = None,
    precision: PrecisionChoice,
    device: torch.device,
    processes: Processes,
) -> Updater:
    """What makes the updates; networks are compiled and shared between processes as due."""
    if teacher is not None:
        teacher.network.to(device, memory_format=precision.memory_format())  # type: ignore[call-overload]
    probability = recipe.optimizer.dropout
    dropout = LastDropout(state.network, probability, recipe.seed) if probability else None
    called = torch.compile(state.network) if recipe.precision.compile else state.network
    assert isinstance(called, nn.Module)
    judged = state.discriminator.network if state.discriminator is not None else None
    return Updater(
        state=state,
        generator=processes.share_gradients(called, device, share_buffers=True),
        # Two passes before one backward: buffers sent in between would spoil the first.
        discriminator=processes.share_gradients(judged, device, share_buffers=False) if judged is not None else None,
        teacher=None if teacher is None else Teacher(teacher, state.network, recipe.arch_spec()),
        criteria=criteria,
        precision=precision,
        device=device,
        accumulate=recipe.optimizer.accumulate,
        clip_norm=recipe.optimizer.clip_norm,
        dropout=dropout,
        processes=processes,
    )


def _discriminator_spec(recipe: Recipe, settings: DiscriminatorRecipe) -> DiscriminatorSpec:
    return DiscriminatorSpec(
        architecture=settings.architecture,
        features=settings.features,
        patch_size=recipe.data.patch_size,
        channels=recipe.channels,
        spectral_norm=settings.spectral_norm and settings.architecture == "unet",
    )


def _same_shapes(network: torch.nn.Module, state: dict[str, torch.Tensor]) -> bool:
    return {key: one.shape for key, one in network.state_dict().items()} == {
        key: one.shape for key, one in state.items()
    }
