"""What was measured once and is kept for the next time, in a folder of the user's. Nothing is lost with it.

What cannot be read is measured again, and what cannot be written is not kept; a note says so, never an error.
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import TypeVar

from platformdirs import user_cache_path
from pydantic import BaseModel, ValidationError

from sr_deploy.errors import OutputError
from sr_deploy.files import write_text

Kept = TypeVar("Kept", bound=BaseModel)


def cache_folder() -> Path:
    r"""`$SR_DEPLOY_CACHE`, else where the system keeps such folders. It may not be there yet.

    `$XDG_CACHE_HOME/sr-deploy` or `~/.cache/sr-deploy` on Linux, `~/Library/Caches/sr-deploy` on macOS,
    `%LOCALAPPDATA%\sr-deploy\Cache` on Windows.

    Raises:
        OutputError: the user has no home, as a container's user without a name. No folder that others share takes its
            place: what lies here is trusted.
    """
    own = os.environ.get("SR_DEPLOY_CACHE", "")
    try:
        return Path(own) if own else user_cache_path("sr-deploy", appauthor=False)
    except RuntimeError as error:
        raise OutputError(
            "this user has no home folder to keep it in; set HOME, or SR_DEPLOY_CACHE to a folder of yours"
        ) from error


def key_of(document: object) -> str:
    """SHA-256 of everything that a measurement depends on, as plain JSON."""
    return hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()


def read_kept(kind: str, key: str, model: type[Kept]) -> tuple[Kept | None, str]:
    """What is kept under that key, and a note for people: empty, or why a file that is there is not used.

    Args:
        kind: what it is, in one word; the folder's name too.
        key: of `key_of`.
        model: what it was before it was written.
    """
    try:
        path = kept_path(kind, key)
        text = path.read_text(encoding="utf-8")
    except (FileNotFoundError, OutputError):
        return None, ""
    except (OSError, UnicodeDecodeError):
        return None, f"the kept {kind} {path} cannot be read; measured again"
    try:
        return model.model_validate_json(text), ""
    except ValidationError:
        return None, f"the kept {kind} {path} is damaged; measured again"


def keep(kind: str, key: str, document: BaseModel) -> str:
    """Keep it; returns a note for people: empty, or why it could not be kept."""
    try:
        write_text(kept_path(kind, key), document.model_dump_json() + "\n")
    except OutputError as error:
        return f"the {kind} is not kept for the next time: {error}"
    return ""


def count_kept(kind: str) -> int:
    """How many of that kind are kept."""
    try:
        return sum(1 for _ in (cache_folder() / kind).glob("*.json"))
    except OutputError:
        return 0


def kept_path(kind: str, key: str) -> Path:
    """Where it lies, or would.

    Raises:
        OutputError: as `cache_folder`.
    """
    return cache_folder() / kind / f"{key}.json"
