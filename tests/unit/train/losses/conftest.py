from __future__ import annotations

import pytest
import torch

from sr_deploy.arch.vgg import Vgg19Features


@pytest.fixture(scope="session")
def vgg19(tmp_path_factory):
    """A file in torchvision's layout, up to conv3_4, with random weights that keep features alive."""
    torch.manual_seed(19)
    network = Vgg19Features(["conv3_4"])
    for tensor in network.parameters():
        if tensor.ndim == 4:
            torch.nn.init.kaiming_normal_(tensor, nonlinearity="relu")
    path = tmp_path_factory.mktemp("vgg") / "vgg19-dcbc9e9d.pth"
    # The classifier, which is most of the published file, is not needed and must not be in the way.
    torch.save({**network.state_dict(), "classifier.6.bias": torch.zeros(1000)}, path)
    return path
