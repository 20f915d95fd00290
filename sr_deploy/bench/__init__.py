"""Benchmarks: PyTorch and every runnable backend on the same photographs, speed beside parity."""
