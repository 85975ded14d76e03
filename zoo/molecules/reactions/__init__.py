"""Reaction prediction as translation."""
