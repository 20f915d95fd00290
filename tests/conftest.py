"""No test reads or writes the user's own cache."""

from __future__ import annotations

from collections.abc import Iterator

import pytest


@pytest.fixture(scope="session", autouse=True)
def session_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """One cache for all tests of a process and what they start: `--backend auto` measures a network once."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SR_DEPLOY_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield
