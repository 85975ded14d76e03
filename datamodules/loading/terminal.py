"""Lines for the user. A data module that does otherwise than asked says so in every run."""

from __future__ import annotations

from lightning.pytorch.utilities import rank_zero_only


@rank_zero_only
def say(text: str) -> None:
    """One line, of the first process alone."""
    print(f"zoo: {text}", flush=True)
