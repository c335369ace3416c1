"""Rows of text: sources, filters, samples, contamination counts."""
