"""Compose, load and check the configuration."""
