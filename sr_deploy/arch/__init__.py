"""Generators: their specs, networks, costs and checkpoints."""
