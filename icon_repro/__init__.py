"""Reproduce "ICon: In-Context Contribution for Automatic Data Selection" and compare data-selection methods."""

__version__ = "0.1.0"
