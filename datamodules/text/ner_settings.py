"""Settings of a pool of sentences that exclude each other, as :class:`datamodules.NER` gets them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from datamodules.text.ner_files import FILE_LAYOUT

_BUDGET, _PASSES = 2.0, 50  # defaults of the constructor


def check_settings(given: Mapping[str, Any]) -> None:
    """What ranges and tables of variants cannot say.

    Args:
        given: arguments of the constructor by name.

    Raises:
        ValueError: naming the argument and what to do.
    """
    _check_budgets(given)
    if given["oracle"] == "human" and given["name"] != "files":
        raise ValueError(
            "oracle: human asks for labels of your own sentences: set data.init_args.name: files and "
            f"root to a folder with {FILE_LAYOUT}"
        )
    rounds, seed_updates, round_updates = (given[k] for k in ("rounds", "seed_updates", "round_updates"))
    for key, default in (("budget", _BUDGET), ("round_updates", None)):
        if rounds == 0 and given[key] != default:
            raise ValueError(
                f"data.init_args.{key} is {given[key]}, which rounds: 0 does not use: no query follows the "
                f"seed set; leave it out (its default is {default or 'null'}) or set data.init_args.rounds"
            )
    told = seed_updates is not None and (rounds == 0 or round_updates is not None)
    if told and given["passes"] != _PASSES:
        raise ValueError(
            f"data.init_args.passes is {given['passes']}, but seed_updates and round_updates say how long "
            "rounds are; leave one of them out"
        )


def _check_budgets(given: Mapping[str, Any]) -> None:
    unit = given["unit"]
    for key in ("seed_budget", "budget"):
        value, shown = given[key], f"data.init_args.{key}"
        if unit == "percent" and value > 100:
            raise ValueError(f"{shown} is {value} percent of the training words")
        if unit in ("words", "sentences") and value != int(value):
            raise ValueError(f"{shown} is {value}, but whole {unit} are labelled")
    if unit == "cost" and not (given["sentence_cost"] or given["word_cost"]):
        raise ValueError(
            "data.init_args.sentence_cost and data.init_args.word_cost are both 0: labels that cost "
            "nothing reach no budget"
        )
