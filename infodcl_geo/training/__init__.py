"""Batches, optimizers and the loop that selects the epoch on validation."""
