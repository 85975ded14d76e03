"""``zoo convert``: weights from one format into another."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from zoo import hub


def convert(
    source: Path, out: Path, method: str | None, to: str, given: Sequence[str], force: bool
) -> Iterator[str]:
    """Convert ``source`` into ``out``; yields the lines to print."""
    if out.exists() and not force:
        raise ValueError(f"{out} exists; choose another --out or add --force")
    weights = hub.read(hub.resolve(source))
    hub.save(hub.build(weights), out, config=weights.config)
    yield f"wrote {out} ({'averaged' if weights.averaged else 'raw'} weights of {weights.class_path})"
