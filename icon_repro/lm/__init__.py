"""Load and call language models: token ids, label masks, answer NLL. The only place that masks labels."""
