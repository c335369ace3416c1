"""Tune a model on selected rows."""
