"""Evaluate a tuned model: benchmarks, held-out likelihood and judges."""
