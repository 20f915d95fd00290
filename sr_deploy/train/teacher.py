"""The network that another learns from: found, kept with the run, and asked."""

from __future__ import annotations

import os
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from sr_deploy.arch.registry import build_network, get_architecture
from sr_deploy.arch.spec import ArchSpec
from sr_deploy.arch.weights import read_checkpoint, save_generator
from sr_deploy.errors import InputError, TrainingError
from sr_deploy.model import Model, open_model
from sr_deploy.run_folder import TEACHER_NAME
from sr_deploy.train.losses.registry import TeacherOutput, Term, find_terms
from sr_deploy.train.recipe import Recipe


@dataclass(frozen=True)
class TeacherNetwork:
    """A network with its weights, and what it is."""

    network: nn.Module
    arch: ArchSpec
    is_kept: bool = False
    """Whether the run has a copy already."""

    def keep(self, run: Path) -> None:
        """Copy it into the run's folder, which then needs no other file to go on.

        Raises:
            OutputError: it cannot be written.
        """
        if not self.is_kept:
            save_generator(run / TEACHER_NAME, self.network.state_dict(), self.arch)


class Teacher:
    """A frozen network, and the feature maps of it and of the one that learns from it."""

    def __init__(self, teacher: TeacherNetwork, student: nn.Module, arch: ArchSpec) -> None:
        """Take both.

        Args:
            teacher: on the device, in the layout of the generator.
            student: the generator that learns; its feature map of the latest forward pass is remembered.
            arch: what it is.
        """
        self._network = teacher.network.eval().requires_grad_(False)
        self._maps: dict[str, Tensor] = {}
        layers = {
            key: (network, get_architecture(spec.architecture).last_features(spec))
            for key, network, spec in (("student", student, arch), ("teacher", self._network, teacher.arch))
        }
        self._has_features = all(layer is not None for _, layer in layers.values())
        if self._has_features:
            for key, (network, layer) in layers.items():
                network.get_submodule(layer or "").register_forward_hook(partial(self._remember, key))

    def _remember(self, key: str, _module: nn.Module, _inputs: object, features: Tensor) -> None:
        self._maps[key] = features

    def __call__(self, lr_NCHW: Tensor) -> TeacherOutput:
        """What it makes of the batch that the student has just seen."""
        with torch.no_grad():
            sr_NCHW: Tensor = self._network(lr_NCHW)
        # Given away, so that no step's feature maps outlive it.
        features = (self._maps.pop("student"), self._maps.pop("teacher")) if self._has_features else None
        return TeacherOutput(sr_NCHW, features)


def find_teacher(
    recipe: Recipe, began_as: nn.Module | None, run: Path | None, changed: AbstractSet[str]
) -> TeacherNetwork | None:
    """The network that the losses of a recipe ask for; None where none does.

    Args:
        recipe: what is trained.
        began_as: with [quantization], the FP32 network that training begins with.
        run: the run that goes on, which keeps its teacher; None: a new one.
        changed: keys of the recipe that are others than in the run.

    Raises:
        InputError, CheckpointError: what the recipe names is missing or no network, or the run's copy is damaged.
        TrainingError: it has another scale or other channels.
    """
    term = next((term for term in find_terms(recipe) if "teacher" in term.loss.needs), None)
    if term is None:
        return None
    new = run is None or not changed.isdisjoint({term.key, f"{term.key}.teacher"})
    if run is not None and (term.teacher is None or (not new and os.path.lexists(run / TEACHER_NAME))):
        kept = read_checkpoint(run / TEACHER_NAME)
        network = build_network(kept.spec)
        network.load_state_dict(kept.state)
        return TeacherNetwork(network, kept.spec, is_kept=True)
    if term.teacher is not None:
        model = open_teacher(recipe, term)
        assert model.arch is not None
        return TeacherNetwork(model.load_network(), model.arch)
    assert began_as is not None  # a recipe without either is refused
    return TeacherNetwork(began_as, recipe.arch_spec())


def open_teacher(recipe: Recipe, term: Term) -> Model:
    """What the recipe names as teacher, checked but for its weights.

    Raises:
        InputError, CheckpointError: it is missing, or no network.
        TrainingError: it has no weights, or another scale or other channels.
    """
    assert term.teacher is not None
    path = Path(term.teacher).expanduser()
    if not path.exists():
        raise InputError(
            f"{term.key}.teacher = {term.teacher!r} does not exist; name a checkpoint, run or bundle with --set "
            f"{term.key}.teacher=FILE"
        )
    model = open_model(path)
    arch = model.arch
    if arch is None:
        raise TrainingError(f"{term.key}.teacher = {term.teacher!r} is a graph without weights; give a checkpoint")
    if (arch.scale, arch.channels) != (recipe.scale, recipe.channels):
        raise TrainingError(
            f"{term.key}.teacher = {term.teacher!r} enlarges x{arch.scale} with {arch.channels} channels, and recipe "
            f"{recipe.name} trains x{recipe.scale} with {recipe.channels}; give a teacher like the network"
        )
    return model
