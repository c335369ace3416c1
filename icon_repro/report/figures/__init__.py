"""Draw the figures of an experiment, from stored results only."""
