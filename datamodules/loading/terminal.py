"""Lines for the user, beside warnings: what is done, and with which part of the data."""

from __future__ import annotations

from lightning.pytorch.utilities import rank_zero_only


@rank_zero_only
def say(text: str) -> None:
    """One line on the terminal, of the first process alone."""
    print(f"zoo: {text}", flush=True)
