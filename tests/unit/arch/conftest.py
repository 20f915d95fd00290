import pytest
import torch

from sr_deploy.arch.registry import build_network
from sr_deploy.arch.weights import read_checkpoint
from sr_deploy.errors import CheckpointError


@pytest.fixture
def weights_of():
    """Gives the state dict of a network of the spec, the same each time; no tensor of it is zero."""

    def make(spec):
        torch.manual_seed(spec.scale)
        network = build_network(spec)
        for tensor in network.state_dict().values():
            if tensor.is_floating_point():
                tensor.uniform_(0.1, 1)
        return network.state_dict()

    return make


@pytest.fixture
def change_shapes():
    """Gives a state dict with tensors of other shapes, and without those whose shape is None."""

    def change(state, shapes):
        kept = {key: tensor for key, tensor in state.items() if shapes.get(key, ()) is not None}
        return kept | {key: torch.ones(shape) for key, shape in shapes.items() if shape is not None}

    return change


@pytest.fixture
def read():
    """What `assert_refused` reads with; for a file's tests to replace."""
    return read_checkpoint


@pytest.fixture
def assert_refused(read):
    """Reads a file, which must end in one line that names the file and holds all the words."""

    def check(path, *words):
        with pytest.raises(CheckpointError) as caught:
            read(path)
        message = str(caught.value)
        assert message.startswith(f"{path}: ")
        assert "\n" not in message
        for word in words:
            assert word in message, message

    return check
