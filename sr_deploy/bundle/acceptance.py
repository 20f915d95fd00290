"""Findings that a person accepted: written into the certificate for all to see, counted for that person alone.

A certificate comes with its bundle, and whoever made the bundle may have written anything into it. So an acceptance
counts where the same user gave it, which a note in the user's cache folder says; elsewhere it is only shown.
"""

from __future__ import annotations

import getpass
import os
import socket

from sr_deploy.bundle.certificate import Acceptance
from sr_deploy.bundle.store import utc_now
from sr_deploy.cache import keep, key_of, read_kept
from sr_deploy.errors import OutputError

_KIND = "acceptance"


def accept_finding(name: str, sha256: str | None, lines: tuple[str, ...]) -> Acceptance:
    """Accept a finding for this user.

    Args:
        name: as the verdict names it.
        sha256: of the file that it is about.
        lines: what is wrong with it.

    Raises:
        OutputError: it cannot be noted, so it would not count.
    """
    by = f"{_name_user()} on {socket.gethostname()}"
    acceptance = Acceptance(name=name, sha256=sha256, what=lines, by=by, accepted_at=utc_now())
    note = keep(_KIND, _key(acceptance), acceptance)
    if note:
        raise OutputError(f"{name} cannot be accepted: {note}")
    return acceptance


def counts_here(acceptance: Acceptance) -> bool:
    """Whether this user gave it."""
    kept, _ = read_kept(_KIND, _key(acceptance), Acceptance)
    return kept is not None and _key(kept) == _key(acceptance)


def _key(acceptance: Acceptance) -> str:
    return key_of([acceptance.name, acceptance.sha256, sorted(acceptance.what)])


def _name_user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user without a name
        return f"user {os.getuid()}"
