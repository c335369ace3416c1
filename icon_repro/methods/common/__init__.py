"""Hold what several methods share: NLLs and embeddings by shards of rows, failures with their reasons."""
