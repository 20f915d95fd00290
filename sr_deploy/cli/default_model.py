"""What commands take where no model is named."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path


def find_default_model(instead: str) -> Path:
    """The newest bundle here, or else the newest run.

    Args:
        instead: how this command is told of a model, as in `--model MODEL`.

    Raises:
        InputError: neither is there.
    """
    from sr_deploy.bundle import find_newest_bundle
    from sr_deploy.errors import BundleError, InputError
    from sr_deploy.train.run import find_newest_run

    try:
        return find_newest_bundle(Path("deployments"))
    except BundleError:
        pass  # no bundle yet: a trained network will do
    try:
        return find_newest_run(Path("runs"))
    except InputError as error:
        raise InputError(f"no bundle in deployments, and {error}; or give {instead}") from error


def find_upscaling_model(tell: Callable[[str], None]) -> Path:
    """The newest bundle here, or else the newest run, or else the network that comes with sr-deploy.

    Args:
        tell: told in one line if it is the last.

    Raises:
        BundleError: the installed package is incomplete or was changed.
    """
    from sr_deploy.bundle import open_bundle
    from sr_deploy.errors import InputError
    from sr_deploy.shipped import DEFAULT_MODEL

    try:
        return find_default_model("--model MODEL")
    except InputError:
        pass  # nothing of the user's own: upscaling works out of the box
    name, network = DEFAULT_MODEL.name, open_bundle(DEFAULT_MODEL).manifest.arch.title()
    tell(f"no bundle in deployments and no run in runs: taking {name}, which ships with sr-deploy ({network})")
    return DEFAULT_MODEL
