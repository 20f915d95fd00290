"""Parts of a generator that keep their weights, as where only the tail is fine-tuned."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from sr_deploy.errors import RecipeError

_NAMED = 20


def freeze_parts(network: nn.Module, parts: Sequence[str]) -> None:
    """Let the parameters of some modules get no gradient, so that no optimizer changes them.

    Args:
        network: the generator.
        parts: names of modules or parameters, the beginning of names in the state dict up to a dot: `body.1` has
            `body.1.weight`, not `body.10.weight`.

    Raises:
        RecipeError: one names nothing, or all together leave nothing to train.
    """
    parameters = dict(network.named_parameters())
    for part in parts:
        found = [one for name, one in parameters.items() if f"{name}.".startswith(f"{part}.")]
        if not found:
            depth = part.count(".") + 1
            known = list(dict.fromkeys(".".join(name.split(".")[:depth]) for name in parameters))
            more = f" and {len(known) - _NAMED} more" if len(known) > _NAMED else ""
            raise RecipeError(
                f"optimizer.frozen names {part!r}, which is no part of the network; there are "
                f"{', '.join(known[:_NAMED])}{more}"
            )
        for one in found:
            one.requires_grad_(False)
    if not any(one.requires_grad for one in parameters.values()):
        raise RecipeError(
            f"optimizer.frozen = {list(parts)} freezes all of the network; leave out a part, which is then trained"
        )


def freeze_statistics(network: nn.Module) -> None:
    """Let frozen batch normalizations use the statistics that they have, and keep them; call it after `train()`."""
    for module in network.modules():
        own = list(module.parameters(recurse=False))
        if own and not any(one.requires_grad for one in own):
            module.training = False  # not eval(), which would reach modules inside that are trained
