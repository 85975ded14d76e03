"""Tables that a test prints for the docs, kept in the results manifest when asked to."""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

from zoo.engine.run import versions
from zoo.evidence import manifest


def show(file: str, values: dict[str, Any]) -> None:
    """Print ``values`` and, with ``--manifest FILE``, keep them with the command that made them."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--manifest", type=Path)
    results = parser.parse_args().manifest
    print(*values.values(), sep="\n")
    if results is None:
        return
    path = Path(file).resolve().relative_to(Path(__file__).resolve().parents[1])
    shared = {
        "seeds": [0],
        "command": f"python {path}",
        "versions": versions(),
        "date": time.strftime("%Y-%m-%d"),
    }
    manifest.update(results, [{"metric": k, "value": v, **shared} for k, v in values.items()])
