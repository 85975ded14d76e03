"""Masked language models of proteins, and what they tell of properties."""
