"""Causal language models: each token from those before it."""
