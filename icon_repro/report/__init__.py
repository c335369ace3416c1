"""Make tables and figures, from stored results only."""
