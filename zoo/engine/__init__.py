"""Callbacks of every run: exact checkpoints, EMA, random states, previews, predictions, the run folder."""
