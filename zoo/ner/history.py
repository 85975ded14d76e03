"""What is kept and told of the rounds of a run: numbers, the audit trail, seconds."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from zoo.ner.curves import area_under, words_to_reach


def summary(
    rows_of_run: Sequence[Mapping[str, Any]], budget: float | None, target: float | None
) -> dict[str, float]:
    """Numbers of the run so far.

    Args:
        rows_of_run: of each round; where they tell a ``cost``, F1 is over it instead of over words.
        budget: words (or cost) of a query: the range of the area ends at the seed set and so many more for
            each round, which every arm of a comparison reaches. None ends it at the last round.
        target: F1 whose cost in words is asked for.
    """
    rows = [r for r in rows_of_run if r["f1"] is not None]
    axis = "cost" if "cost" in rows_of_run[-1] else "words"
    found: dict[str, float] = {k: rows_of_run[-1][k] for k in ("words", "sentences", axis)}
    first = next((r for r in rows_of_run if "asked" in r), None)
    if first is not None:
        found["first_asked_words"] = first["asked_words"]
        found["first_pool_words"] = first["pool_words"]
        if "asked_with_entity" in first:
            found["first_asked_with_entity"] = first["asked_with_entity"]
    if rows_of_run[-1].get("agreement") is not None:
        found["agreement"] = rows_of_run[-1]["agreement"]
    if not rows:
        return found
    words, f1 = [r[axis] for r in rows], [r["f1"] for r in rows]
    passed = rows[-1]["round"] - rows[0]["round"]
    end = words[0] + budget * passed if budget is not None else None
    area = area_under(words, f1, end)
    if math.isfinite(area):
        found["area"] = area
    if target is not None:
        reached = words_to_reach(words, f1, target)
        found["target_reached"] = float(math.isfinite(reached))
        found[f"{axis}_to_target"] = min(reached, float(end or words[-1]))
    return found


def rows_of_arms(folder: Path) -> dict[str, list[list[dict[str, Any]]]]:
    """What ``zoo compare`` leaves of its runs: arm -> seeds -> rows of the newest ``rounds.jsonl``.

    Args:
        folder: of the comparison, ``runs/compare/ner_ncbi_disease`` for instance.

    Raises:
        FileNotFoundError: for a folder without rounds.
    """
    found: dict[str, list[list[dict[str, Any]]]] = {}
    for seed in sorted(
        (folder / "runs").glob("*/seed_*"), key=lambda p: (p.parent.name, len(p.name), p.name)
    ):
        versions = sorted(seed.glob("*/version_*/rounds.jsonl"), key=lambda p: (len(str(p)), str(p)))
        if versions:
            lines = versions[-1].read_text().splitlines()
            found.setdefault(seed.parent.name, []).append([json.loads(line) for line in lines])
    if not found:
        raise FileNotFoundError(f"{folder} has no runs/<arm>/seed_<n>/<config>/version_<n>/rounds.jsonl")
    return found


def seconds_of(path: Path) -> dict[int, float]:
    """Seconds of the rounds that a run had before it was resumed: a clock's, hence in no checkpoint."""
    found: dict[int, float] = {}
    if not path.is_file():
        return found
    for line in path.read_text().splitlines():
        try:
            row = json.loads(line)
            found[int(row["round"])] = float(row["seconds"])
        except (ValueError, KeyError, TypeError):
            continue
    return found


def audit(rows: Sequence[Mapping[str, Any]], data: Any, hparams: Mapping[str, Any]) -> str:
    """A line for each sentence that was ever asked: when, in which place, why, and what became of it."""
    lines = []
    for row in rows:
        scored = bool(row.get("scores"))
        for place, index in enumerate(row.get("indices", ())):
            pool = data.pool
            status = "labelled" if index in pool.rounds else "skipped" if index in pool.skipped else "waiting"
            if status == "waiting" and index not in pool.waiting:
                status = "not answered"
            words = data.sets["train"][index].words
            record = {
                "asked_after_round": row["round"],
                "place": place,
                "index": index,
                # checkpoints of before rows said it: the run's
                "acquisition": row.get("acquisition", hparams["acquisition"]),
                "score": row["scores"][place] if scored else None,
                "words": len(words),
                "status": status,
            }
            if index in pool.drafts and index in pool.answers:
                record["as_drafted"] = pool.answers[index] == pool.drafts[index]
            lines.append(json.dumps({**record, "text": " ".join(words)}, ensure_ascii=False))
    return "\n".join(lines) + "\n" if lines else ""
