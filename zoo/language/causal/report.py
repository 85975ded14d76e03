"""Generated text beside its prompt, as files that a person opens."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from zoo.reports import json_lines, merged_records, replace_file, write_records

_RULE = "-" * 80


@dataclass
class GeneratedText:
    """What a language model wrote behind prompts.

    ``generated.jsonl`` has ``index, prompt, generated`` and ``reference`` where the data have one, a line
    each; ``generated.txt`` the same to read, generated text behind ``>>>``.

    Attributes:
        prompts: B texts.
        texts: B texts that follow them.
        index: (B,) positions.
        references: B texts that really follow, or None.
    """

    prompts: list[str]
    texts: list[str]
    index: Tensor
    references: list[str] | None = None

    def write(self, folder: Path) -> list[Path]:
        """A part of the files that :meth:`merge` makes."""
        rows = []
        for place, number in enumerate(self.index.tolist()):
            row: dict[str, Any] = {"index": number, "prompt": self.prompts[place]}
            row["generated"] = self.texts[place]
            if self.references is not None and self.references[place]:
                row["reference"] = self.references[place]
            rows.append(row)
        write_records(folder, rows)
        return []

    @staticmethod
    def merge(folder: Path) -> list[Path]:
        """``generated.jsonl`` and ``generated.txt``."""
        records = merged_records(folder)
        if not records:
            return []
        outputs = [folder / "generated.jsonl", folder / "generated.txt"]
        replace_file(outputs[0], json_lines(records))
        replace_file(outputs[1], "\n".join(map(readable, records)))
        return outputs


def readable(row: dict[str, Any]) -> str:
    """A prompt and what follows it, for a person."""
    lines = [f"{_RULE}\n{row['index']}\n{_RULE}", f"{row['prompt']}>>>{row['generated']}"]
    if "reference" in row:
        lines.append(f"\nreference >>>{row['reference']}")
    return "\n".join(lines) + "\n"
