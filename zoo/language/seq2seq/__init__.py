"""Sequence-to-sequence models of texts: translation."""
