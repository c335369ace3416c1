"""ICon, in-context contribution (arXiv 2505.05327): zero-shot baseline, shards of the pair matrices, aggregation."""
