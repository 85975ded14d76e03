"""ROUGE of generated texts by Google's ``rouge_score``, with a sentence splitter that needs no download.

torchmetrics' ``ROUGEScore`` asks nltk for a file of the network for rougeLsum; ROUGE-1.5.5 is Perl.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Literal, get_args

import torch
from torch import Tensor
from torchmetrics import Metric

RougeTokenizer = Literal["latin", "words", "characters"]
KEYS = ("rouge1", "rouge2", "rougeLsum")
_SHORT = (
    r"Mr|Mrs|Ms|Dr|Prof|Sr|Jr|St|Gen|Col|Sgt|Lt|Rep|Sen|Gov|Rev|No|vs|etc|al|Fig|Figs|Eq|Eqs|Sec|e\.g|i\.e|cf|approx|"
    r"Jan|Feb|Mar|Apr|Jun|Jul|Aug|Sept|Sep|Oct|Nov|Dec|Inc|Ltd|Co|Corp|[A-Z]"
)
_ENDS = re.compile(
    r"(?<=[.!?])[\"'\u201d\u2019)\]]*\s+(?=[\"'\u201c\u2018(\[]*[^a-z\s])|(?<=[\u3002\uff01\uff1f])"
)
_ABBREVIATED = re.compile(rf"(?:^|[\s(\[\"'])(?:{_SHORT})\.$")


def sentences(text: str) -> list[str]:
    """The sentences of a text: each of its lines is cut behind ``. ! ?`` where no small letter follows and no
    abbreviation ends; Chinese and Japanese ends cut everywhere."""
    found: list[str] = []
    for line in text.splitlines():
        begun = 0
        for match in _ENDS.finditer(line):
            if _ABBREVIATED.search(line[begun : match.start()]):
                continue
            found.append(line[begun : match.end()].strip())
            begun = match.end()
        found.append(line[begun:].strip())
    return [sentence for sentence in found if sentence]


class _Words:
    """Words of any script, in small letters."""

    def tokenize(self, text: str) -> list[str]:
        return re.findall(r"\w+", text.lower())


class _Characters:
    """Letters and digits of any script, one by one."""

    def tokenize(self, text: str) -> list[str]:
        return [c for c in text.lower() if c.isalnum()]


def scorer(tokenizer: RougeTokenizer) -> Any:
    """The ``RougeScorer`` of a tokenizer; ``latin`` is the library's own, with Porter's stemmer.

    Raises:
        ModuleNotFoundError: without the extra ``text``.
    """
    from rouge_score.rouge_scorer import RougeScorer

    own = {"latin": None, "words": _Words(), "characters": _Characters()}
    return RougeScorer(list(KEYS), use_stemmer=True, tokenizer=own[tokenizer])


def check_script(text: str, key: str) -> None:
    """Refuse a text that the ``latin`` tokenizer reads past: to it all Chinese texts are equally empty.

    Raises:
        ValueError: naming ``key``, where most letters are none of a to z.
    """
    letters = [c for c in text.lower() if c.isalpha()]
    if sum(c < "\x80" for c in letters) * 2 < len(letters):
        shown = " ".join(text.split())[:30]
        raise ValueError(
            f"most letters of {shown!r} are none of a to z, and rouge_score reads those alone; set {key}: "
            "characters, or words where blanks divide words, and say so beside the numbers"
        )


class Rouge(Metric):
    """Mean F1 of ROUGE-1, ROUGE-2 and summary-level ROUGE-L (rougeLsum) in [0, 1].

    ``update`` takes generated texts and references, N each; sentences are cut by :func:`sentences`.

    Args:
        tokenizer: ``latin`` (a-z and 0-9 with stemming, as published numbers have it), ``words`` or
            ``characters`` for other scripts, without a stem.
        key: of the option, for the error on texts without Latin letters.
    """

    full_state_update = False
    totals: Tensor
    items: Tensor

    def __init__(
        self, tokenizer: RougeTokenizer = "latin", key: str = "model.init_args.rouge_tokenizer"
    ) -> None:
        super().__init__()
        if tokenizer not in get_args(RougeTokenizer):
            raise ValueError(f"{key} must be {', '.join(get_args(RougeTokenizer))}, got {tokenizer!r}")
        self.tokenizer, self.key = tokenizer, key
        self._scorer: Any = None
        self.add_state("totals", torch.zeros(len(KEYS), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("items", torch.tensor(0), dist_reduce_fx="sum")

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_scorer": None}  # made anew where it is used

    def scores(self, generated: str, reference: str) -> dict[str, float]:
        """F1 of one text."""
        if self._scorer is None:
            self._scorer = scorer(self.tokenizer)
        if self.tokenizer == "latin":
            check_script(reference, self.key)
        found = self._scorer.score("\n".join(sentences(reference)), "\n".join(sentences(generated)))
        return {key: float(found[key].fmeasure) for key in KEYS}

    def update(self, generated: Sequence[str], references: Sequence[str]) -> None:
        for text, reference in zip(generated, references, strict=True):
            found = self.scores(text, reference)
            self.totals += torch.tensor(
                [found[k] for k in KEYS], dtype=torch.float64, device=self.totals.device
            )
            self.items += 1

    def compute(self) -> dict[str, Tensor]:
        """``rouge1``, ``rouge2`` and ``rougeLsum``."""
        means = self.totals / self.items.clamp(min=1)
        return dict(zip(KEYS, means.float(), strict=True))


def protocol(tokenizer: RougeTokenizer) -> str:
    """How the numbers were made, for the row of a table."""
    from importlib.metadata import version

    how = {"latin": "a-z and 0-9, Porter stems", "words": "words of any script, no stems"}
    return (
        f"rouge_score {version('rouge-score')} F1, {how.get(tokenizer, 'characters of any script')}, "
        "rougeLsum over the zoo's regex sentences"
    )
