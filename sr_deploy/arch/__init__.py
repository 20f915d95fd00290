"""Networks: generators, discriminators and what judges pictures; their specs, costs and checkpoints."""
