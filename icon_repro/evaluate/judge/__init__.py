"""Pairwise judging: answers of two models to the same prompts, judged in both orders."""
