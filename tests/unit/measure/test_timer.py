from __future__ import annotations

import gc
import subprocess
import sys
import time

import numpy as np

from sr_deploy.measure.timer import time_call, time_turn


def test_times_a_call() -> None:
    assert 0.02 <= time_call(lambda: time.sleep(0.02)) < 0.5


def test_a_turn_times_what_it_says_with_the_collector_at_rest() -> None:
    collecting: list[bool] = []
    assert len(time_turn(lambda: collecting.append(gc.isenabled()), 3, primed=False)) == 3
    assert len(time_turn(lambda: collecting.append(gc.isenabled()), 3, primed=True)) == 3
    assert collecting == [False] * 7
    assert gc.isenabled()


# In a process of its own: what other tests have left behind may be freed, or taken for the block, in between.
_COME_AND_GO = """
import numpy as np
from sr_deploy.measure.timer import resident_mib
before = resident_mib("now")
block = np.ones(96 * 2**20, np.uint8)
with_block = resident_mib("now")
del block
print(before, with_block, resident_mib("now"), resident_mib("peak"))
"""


def test_memory_sees_an_allocation_come_and_go() -> None:
    answer = subprocess.run(
        [sys.executable, "-c", _COME_AND_GO], capture_output=True, text=True, check=True, timeout=60
    )
    before, with_block, after, peak = map(float, answer.stdout.split())
    assert with_block - before > 80
    assert with_block - after > 80
    assert peak > with_block - 1  # Linux brings its counters up to date in batches


def test_peak_memory_is_of_this_process_alone() -> None:
    block = np.ones(256 * 2**20, np.uint8)
    program = "from sr_deploy.measure.timer import resident_mib; print(resident_mib('peak'))"
    answer = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    assert 5 < float(answer.stdout) < block.nbytes / 2**20
