"""What commands take where no model is named."""

from __future__ import annotations

import logging
from pathlib import Path

_LOG = logging.getLogger(__name__)


def find_default_model(instead: str) -> Path:
    """The newest bundle here, or else the newest run. Of either, those that cannot be read are named and left out.

    Args:
        instead: how this command is told of a model, as in `--model MODEL`.

    Raises:
        NothingFoundError: neither is there.
        InputError: there are some, and none can be read.
    """
    from sr_deploy.bundle import find_newest_bundle
    from sr_deploy.errors import InputError, NothingFoundError
    from sr_deploy.train.run import find_newest_run

    failed: InputError | None = None
    try:
        return find_newest_bundle(Path("deployments"))
    except NothingFoundError:
        pass  # no bundle yet: a trained network will do
    except InputError as error:
        failed = error
    try:
        return find_newest_run(Path("runs"))
    except NothingFoundError as error:
        if failed is not None:
            raise failed from error
        raise NothingFoundError(f"no bundle in deployments, and {error}; or give {instead}") from error


def find_upscaling_model() -> Path:
    """The newest bundle here, or else the newest run, or else the network that comes with sr-deploy: that is said.

    Raises:
        InputError: there are bundles or runs, and none can be read: no other network is taken for them.
        BundleError: the installed package is incomplete or was changed.
    """
    from sr_deploy.bundle import open_bundle
    from sr_deploy.errors import NothingFoundError
    from sr_deploy.shipped import DEFAULT_MODEL

    try:
        return find_default_model("--model MODEL")
    except NothingFoundError:
        pass  # nothing of the user's own: upscaling works out of the box
    name, network = DEFAULT_MODEL.name, open_bundle(DEFAULT_MODEL).manifest.arch.title()
    _LOG.info("no bundle in deployments and no run in runs: taking %s, which ships with sr-deploy (%s)", name, network)
    return DEFAULT_MODEL
