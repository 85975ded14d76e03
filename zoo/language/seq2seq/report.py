"""Translations as files: one JSON object a source, and a text that a person reads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zoo.reports import json_lines, merged_records, replace_file, write_records

_SHOWN = 500


@dataclass
class Translations:
    """Sources with what the model makes of them.

    ``translations.jsonl`` has a line for each: ``index``, ``source``, ``output``, ``log_p`` (nats, summed
    over tokens) and, where there is one, ``reference``; ``translations.txt`` shows the first 500.

    Attributes:
        sources: B texts.
        outputs: B texts.
        log_p: of each output.
        references: B texts, or none.
        index: position of each in the whole set.
        protocol: how they were made.
    """

    sources: Sequence[str]
    outputs: Sequence[str]
    log_p: Sequence[float]
    references: Sequence[str]
    index: Sequence[int]
    protocol: str

    def write(self, folder: Path) -> list[Path]:
        """A part of the files that :meth:`merge` makes."""
        records = []
        for row, number in enumerate(self.index):
            record: dict[str, Any] = {
                "index": number, "source": self.sources[row], "output": self.outputs[row],
                "log_p": round(self.log_p[row], 4),
            }  # fmt: skip
            if self.references:
                record["reference"] = self.references[row]
            records.append({**record, "protocol": self.protocol})
        write_records(folder, records)
        return []

    @staticmethod
    def merge(folder: Path) -> list[Path]:
        """``translations.jsonl`` and ``translations.txt``."""
        records = merged_records(folder)
        if not records:
            return []
        outputs = [folder / "translations.jsonl", folder / "translations.txt"]
        replace_file(outputs[0], json_lines(records))
        replace_file(outputs[1], page(records))
        return outputs


def page(records: Sequence[dict[str, Any]]) -> str:
    """Source, output and reference under one another."""
    lines = [f"{min(len(records), _SHOWN):,} of {len(records):,}; {records[0]['protocol']}", ""]
    for record in records[:_SHOWN]:
        lines += [f"source     {record['source']}", f"output     {record['output']}"]
        if "reference" in record:
            lines.append(f"reference  {record['reference']}")
        lines.append("")
    return "\n".join(lines) + "\n"
