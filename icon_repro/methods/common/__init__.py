"""What several methods share: NLLs of responses by shards of rows, failures with their reasons."""
