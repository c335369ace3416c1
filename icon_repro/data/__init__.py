"""Read, filter and sample rows of text, and plan the steps that do so."""
