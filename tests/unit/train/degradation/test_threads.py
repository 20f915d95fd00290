from __future__ import annotations

import threading

import torch

from sr_deploy.train.degradation.threads import map_in_threads


def test_items_go_to_threads_in_which_operations_do_not_split():
    before = torch.get_num_threads()
    both = threading.Barrier(2)

    def work(item):
        both.wait(timeout=60)  # passed by two threads at a time only
        matrix = torch.full((300, 300), float(item))
        return float((matrix @ matrix)[0, 0]), torch.get_num_threads()

    try:
        torch.set_num_threads(2)
        assert map_in_threads(work, [1, 2, 3, 4]) == [(300.0, 1), (1200.0, 1), (2700.0, 1), (4800.0, 1)]
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
