"""Weights trained here become the package's: a file in ``files/`` and an entry in ``registry.yaml``."""

from __future__ import annotations

import hashlib
import json
import math
import re
import shlex
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from zoo.hub import catalog, weights
from zoo.hub.yaml_files import read_yaml
from zoo.locks import changing

MOST_BYTES, MOST_IN_ALL = 3_000_000, 20_000_000


def register(
    name: str,
    source: str | Path,
    summary: str | Path,
    *,
    licence: str,
    metrics: Sequence[str] = (),
    folder: str | Path = Path(__file__).parent,
) -> dict[str, Any]:
    """Write the weights into the package's files and say in the registry what they are worth.

    The summary tells the config and the command; a test of the zoo runs that command again and compares.

    Args:
        name: to register, ``dtr_dit_digits``; an entry of this name is replaced where it stands.
        source: ``.ckpt``, of which the averaged weights count where it has some, or ``.safetensors``.
        summary: what ``zoo test`` or ``zoo validate`` left: ``runs/NAME/version_1/summary_test.json``.
        licence: of the weights, which that of the data may decide.
        metrics: those worth registering; by default all that were measured.
        folder: that holds ``registry.yaml`` and ``files/``.

    Returns:
        The entry.

    Raises:
        FileNotFoundError, ValueError: one line on what is missing or does not fit; nothing is written then.
    """
    folder = Path(folder)
    if not (catalog.config_folder().parent / "pyproject.toml").is_file():
        raise ValueError(
            f"{folder} is an installed package, which the next update overwrites: register weights in a "
            f"checkout, or use the file as it is with --weights {source}"
        )
    if not re.fullmatch(r"\w+", name):
        raise ValueError(f"a registered name is letters, digits and underscores, got {name!r}")
    config, verb, measured = _measured(Path(summary), metrics)
    found = weights.read(weights.resolve(source))
    if found.class_path is None:
        raise ValueError(f"{source} does not name its class; it was not written by the zoo")
    wanted = read_yaml(catalog.config_folder() / f"{config}.yaml")["model"]["class_path"]
    if wanted != found.class_path:
        raise ValueError(f"{source} holds a {found.class_path}, but config {config} is of {wanted}")
    with changing(folder / "registry.yaml"):
        entries = read_yaml(folder / "registry.yaml") or {}
        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            path = weights.save(
                weights.build(found),
                Path(scratch) / f"{name}.safetensors",
                config=config,
                licence=licence,
                data=found.data,
            )
            content = path.read_bytes()
            others = sum(entry["bytes"] for other, entry in entries.items() if other != name)
            if len(content) > MOST_BYTES or others + len(content) > MOST_IN_ALL:
                raise ValueError(
                    f"{source} takes {len(content):,} bytes and the other files {others:,}; the package has "
                    f"room for {MOST_BYTES:,} a file and {MOST_IN_ALL:,} in all"
                )
            path.replace(folder / "files" / path.name)
        entry = {
            "method": found.class_path,
            "config": config,
            "file": path.name,
            "sha256": hashlib.sha256(content).hexdigest(),
            "bytes": len(content),
            "licence": licence,
            "made_with": [
                f"zoo fit --config {config}",
                shlex.join(["zoo", "convert", str(source), "--out", path.name]),
            ],
            "command": f"zoo {verb} --config {config} --weights {name}",
            "metrics": measured,
        }
        _write_entry(folder / "registry.yaml", name, entry)
    return entry


def _measured(path: Path, metrics: Sequence[str]) -> tuple[str, str, dict[str, float]]:
    """Config, verb and metrics of a summary."""
    if not path.is_file():
        raise FileNotFoundError(
            f"no file {path}; `zoo test --config NAME --weights FILE` leaves summary_test.json"
        )
    try:
        summary = json.loads(path.read_text())
        config, final, verb = summary["config"], summary["final"], shlex.split(summary["command"])[1]
    except (ValueError, KeyError, TypeError, IndexError) as error:
        raise ValueError(f"{path} is no summary of a run ({error})") from error
    if verb not in ("test", "validate"):
        raise ValueError(f"{path} is of zoo {verb}, which measures no weights; give that of `zoo test`")
    if config not in catalog.config_names():
        raise ValueError(f"{path} is of config {config!r}, which is no shipped one: it belongs in configs/")
    if missing := [m for m in metrics or ["of any name"][: not final] if m not in final]:
        raise ValueError(f"{path} has no metric {missing[0]}; it has {', '.join(final) or 'none'}")
    measured = {m: round(float(final[m]), 6) for m in metrics or final}
    if not all(map(math.isfinite, measured.values())):
        raise ValueError(f"{path} has a metric that is no number: {measured}")
    return config, verb, measured


def _write_entry(path: Path, name: str, entry: dict[str, Any]) -> None:
    """Replace the entry where it stands, or append it; the other lines stay as they are."""
    new = yaml.safe_dump({name: entry}, sort_keys=False, width=1000)
    text = path.read_text()
    # up to the next line that is not indented
    old = re.search(rf"^{name}:.*\n(?:[ \t].*\n|\n)*", text, flags=re.M)
    temporary = path.with_suffix(".tmp")
    temporary.write_text(
        text[: old.start()] + new + text[old.end() :] if old else text.rstrip("\n") + "\n" + new
    )
    temporary.replace(path)
