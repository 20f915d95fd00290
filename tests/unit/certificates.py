"""What forgers of certificates share."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from sr_deploy.bundle import Bundle


def edit_certificate(bundle: Bundle, change: Callable[[dict[str, Any]], object]) -> None:
    """Change `certificate.json` of a bundle in place."""
    path = bundle.path / "certificate.json"
    document = json.loads(path.read_text())
    change(document)
    path.write_text(json.dumps(document))
