"""Benchmarks, held-out likelihood and judges of a tuned model."""
