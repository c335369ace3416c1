"""Figures of an experiment, made from stored results only."""
