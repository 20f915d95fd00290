"""Training: recipe, data, losses, the loop, and the run folder that it leaves."""
