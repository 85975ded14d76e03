"""Callbacks of every run: checkpoints that resume exactly, EMA, random states, previews, predictions, the run folder."""
