"""What a person looks at: residues that were found, with how likely they are; predicted properties."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from zoo.language.masked.residues import ALPHABET, MASK
from zoo.reports import json_lines, merged_records, replace_file, write_records

_ON_PAGE = 200
Place = tuple[int, int, int | None, list[tuple[int, float]]]
"""(place from 0, id that the model saw, true id or None, likeliest ids with their probabilities)"""


@dataclass
class FoundResidues:
    """Masked residues and what the model takes them for.

    Attributes:
        names: of the sequences.
        sequences: as they are; ``_`` where nobody knows.
        places: those that were to be found, of each sequence.
        index: of each sequence in the data.
    """

    names: Sequence[str]
    sequences: Sequence[str]
    places: Sequence[Sequence[Place]]
    index: Sequence[int]

    def write(self, folder: Path) -> list[Path]:
        """A part of the files that :meth:`merge` makes."""
        records = []
        for name, text, places, index in zip(
            self.names, self.sequences, self.places, self.index, strict=True
        ):
            found = [
                {
                    "position": at + 1,
                    "shown": "_" if seen == MASK else ALPHABET[seen],
                    "true": None if true is None else ALPHABET[true],
                    "likeliest": {ALPHABET[i]: round(p, 4) for i, p in best},
                }
                for at, seen, true, best in places
            ]
            records.append({"index": index, "name": name, "sequence": text, "found": found})
        write_records(folder, records)
        return []

    @staticmethod
    def merge(folder: Path) -> list[Path]:
        """``residues.jsonl``, all of them, and ``residues.txt`` to read, the first 200 sequences."""
        records = merged_records(folder)
        outputs = [folder / "residues.jsonl", folder / "residues.txt"]
        replace_file(outputs[0], json_lines(records))
        replace_file(outputs[1], page(records))
        return outputs


def page(records: Sequence[dict[str, Any]]) -> str:
    """Each sequence, what the model saw of it, what it takes the hidden residues for, and how sure it is.

    Under ``likeliest`` a capital is right, a small letter is not; ``.`` is not asked.
    """
    lines = [f"{min(len(records), _ON_PAGE):,} of {len(records):,} sequences; small letters are wrong", ""]
    for record in records[:_ON_PAGE]:
        text = record["sequence"]
        seen, found = list(text), ["."] * len(text)
        for place in record["found"]:
            at, (best, _) = place["position"] - 1, next(iter(place["likeliest"].items()))
            seen[at] = place["shown"]
            found[at] = best if place["true"] in (None, best) else best.lower()
        lines += [f">{record['name']}", f"sequence  {text}"]
        if not record["found"]:
            lines += ["nothing was masked", ""]
            continue
        lines += [f"seen      {''.join(seen)}", f"likeliest {''.join(found)}"]
        for place in record["found"]:
            sure = ", ".join(f"{k} {v:.2f}" for k, v in place["likeliest"].items())
            truth = "" if place["true"] is None else f"   true {place['true']}"
            lines.append(f"  {place['position']:4d}: {sure}{truth}")
        lines.append("")
    return "\n".join(lines) + "\n"


@dataclass
class ProteinPredictions:
    """Predicted properties of sequences.

    Attributes:
        names: of the sequences.
        sequences: as they are.
        predicted: (B, T), of classes the probability of 1.
        target: (B, T), NaN where it is not known.
        index: of each in the data.
        targets: names of the T columns.
        task: ``classification`` or ``regression``.
    """

    names: Sequence[str]
    sequences: Sequence[str]
    predicted: Tensor
    target: Tensor
    index: Sequence[int]
    targets: Sequence[str]
    task: str

    def write(self, folder: Path) -> list[Path]:
        """A part of the file that :meth:`merge` makes."""
        records = []
        for row, index in enumerate(self.index):
            record: dict[str, Any] = {
                "index": index, "name": self.names[row], "sequence": self.sequences[row]
            }  # fmt: skip
            for column, name in enumerate(self.targets):
                record[f"predicted {name}"] = round(float(self.predicted[row, column]), 6)
                truth = float(self.target[row, column])
                record[f"true {name}"] = None if math.isnan(truth) else truth
            records.append(record)
        write_records(folder, records)
        return []

    @staticmethod
    def merge(folder: Path) -> list[Path]:
        """``predictions.csv``: name, sequence, and for each target what is predicted and what is true."""
        records = merged_records(folder)
        if not records:
            return []
        text = io.StringIO()
        names = [name for name in records[0] if name != "index"]
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(names)
        writer.writerows(["" if r[n] is None else r[n] for n in names] for r in records)
        path = folder / "predictions.csv"
        replace_file(path, text.getvalue())
        return [path]
