"""How many threads of the CPU a backend gets. No torch here."""

from __future__ import annotations

import os

from sr_deploy.measure.machine import usable_cores


def default_threads() -> int:
    """One for each core that this process may use, or fewer if OMP_NUM_THREADS says so: the same for every backend."""
    cores = usable_cores()
    asked = os.environ.get("OMP_NUM_THREADS", "")
    return min(cores, int(asked)) if asked.isdecimal() and int(asked) > 0 else cores
