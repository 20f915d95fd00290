"""Starting values of weights."""

from __future__ import annotations

import torch
from torch import nn


def scale_kaiming(module: nn.Module) -> None:
    """Kaiming-normal weights times 0.1 and zero biases for each convolution in `module`.

    Small starting values keep deep residual networks without batch normalization stable (ESRGAN, section 3.1).
    """
    for layer in module.modules():
        # On the meta device there is nothing to set, and torch would load its decompositions for it, for seconds.
        if isinstance(layer, nn.Conv2d) and not layer.weight.is_meta:
            nn.init.kaiming_normal_(layer.weight)
            with torch.no_grad():
                layer.weight.mul_(0.1)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
