"""Language models: loading, token ids and label masks, answer NLL. The only place that masks labels."""
