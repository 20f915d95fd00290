"""What commands take where no model is named."""

from __future__ import annotations

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
