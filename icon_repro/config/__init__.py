"""The configuration: loaded, checked and made typed."""
