"""From documents to summaries: beam search, its settings in words, and texts or files of them."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from zoo.hub.foreign import parse_json, read_lines
from zoo.metrics.rouge import protocol
from zoo.nn.given_texts import given_count, given_texts, whole_text
from zoo.nn.kept_tokenizer import KeptTokenizer
from zoo.reports import say
from zoo.seqco import backbones
from zoo.seqco.network import SeqCoNetwork
from zoo.seqco.sampling import Special, WordsOnce, bare_generation, evaluating, ordinary, wrapped

_FIELD = "document"
_NO_TEXTS = (".csv", ".tsv", ".json", ".parquet", ".xlsx", ".xml", ".html", ".pdf", ".docx", ".gz", ".zip")


class Summariser:
    """Generation with the settings of a module.

    Args:
        network: whose backbone generates.
        settings: hyperparameters of the module.
        special: ids of the tokens that are no text.
        vocabulary: the tokenizer among the weights.
    """

    def __init__(
        self,
        network: SeqCoNetwork,
        settings: Mapping[str, Any],
        special: Special,
        vocabulary: KeptTokenizer,
    ) -> None:
        self.network, self.settings, self.special, self.vocabulary = network, settings, special, vocabulary

    def generation_config(self, candidates: int = 1) -> Any:
        """transformers' settings of the evaluation, which a plain folder gets, too.

        ``no_repeat_ngram: 1`` is not among them: see :class:`zoo.seqco.sampling.WordsOnce`.
        """
        from transformers import GenerationConfig

        h, special = self.settings, self.special
        several = {} if candidates == 1 else {"num_return_sequences": candidates}
        return GenerationConfig(
            num_beams=h["beams"],
            length_penalty=h["length_penalty"] if h["beams"] > 1 else None,
            early_stopping=True if h["beams"] > 1 else None,
            min_length=h["min_length"],
            max_length=h["max_length"],
            no_repeat_ngram_size=0 if h["no_repeat_ngram"] == 1 else h["no_repeat_ngram"],
            forced_bos_token_id=special.bos if h["force_bos"] else None,
            forced_eos_token_id=special.eos,
            decoder_start_token_id=special.start,
            pad_token_id=special.pad,
            eos_token_id=special.eos,
            bos_token_id=special.bos,
            **several,
        )

    @torch.no_grad()
    def generate(self, source: Tensor, mask: Tensor, candidates: int = 1) -> Tensor:
        """Summaries by beam search (B * candidates, T), the start token first.

        Args:
            source: documents (B, S) as ``<s> tokens </s>``.
            mask: of their real tokens.
            candidates: best ones of each.
        """
        from transformers import LogitsProcessorList

        once = [WordsOnce(self.special)] if self.settings["no_repeat_ngram"] == 1 else []
        with evaluating(self.network), bare_generation(self.network.backbone):
            found: Tensor = self.network.backbone.generate(
                source,
                attention_mask=mask.long(),
                generation_config=self.generation_config(candidates),
                logits_processor=LogitsProcessorList(once),
            )
        return found

    @property
    def protocol(self) -> str:
        """How summaries are generated and scored, for the row of a table."""
        h = self.settings
        search = f"{h['beams']} beams, length penalty {h['length_penalty']:g}" if h["beams"] > 1 else "greedy"
        repeat = f", no {h['no_repeat_ngram']}-gram twice" if h["no_repeat_ngram"] else ""
        lengths = f"{h['min_length']} to {h['max_length']} tokens with the start token"
        return f"{protocol(h['rouge_tokenizer'])}; {search}, {lengths}{repeat}"

    def texts(self, ids: Tensor) -> list[str]:
        """Generated ids as texts."""
        rows = ordinary(ids, self.special)
        return [" ".join(text.split()) for text in self.vocabulary.texts(rows)]

    def summarize(self, documents: str | Path | Sequence[str], batch_size: int = 8) -> list[str]:
        """See :meth:`zoo.SeqCo.summarize`."""
        batch_size = given_count(batch_size, "batch_size")
        named = documents_of(documents)
        tokens = self.vocabulary.ids([text for _, text in named]) if named else []
        for (name, _), row in zip(named, tokens, strict=True):
            if not row:
                raise ValueError(f"{name} has no token of these weights: there is nothing to summarise")
        unknown = getattr(self.vocabulary.tokenizer, "unk_token_id", None)
        strange = sum(all(token == unknown for token in row) for row in tokens)
        if strange:
            say(f"{strange:,} of {len(tokens):,} documents have no word that these weights know")
        positions = backbones.positions_of(self.network.backbone.config)
        room = None if positions is None else positions - self.special.fewest
        cut = 0 if room is None else sum(len(row) > room for row in tokens)
        if cut:
            say(f"{cut:,} of {len(tokens):,} documents have more than the {room:,} tokens that are read, cut")
        found: list[str] = []
        device = next(self.network.parameters()).device
        for start in range(0, len(tokens), batch_size):
            rows = [row[:room] for row in tokens[start : start + batch_size]]
            ids, mask = wrapped(rows, self.special)
            found += self.texts(self.generate(ids.to(device), mask.to(device)))
        return found


def documents_of(documents: str | Path | Sequence[str]) -> list[tuple[str, str]]:
    """(what to call it, text) of each document: texts, or lines of a file.

    Raises:
        FileNotFoundError, OSError, ValueError: one line; see :meth:`zoo.SeqCo.summarize`.
    """
    if isinstance(documents, Path):
        return _of_file(documents)
    if isinstance(documents, str) and len(documents) < 256 and os.path.isfile(documents):
        # no document is the name of a file that is there
        raise ValueError(
            f"{documents!r} is a file; a string is a document, so give pathlib.Path({documents!r})"
        )
    found: list[tuple[str, str]] = []
    for number, text in enumerate(given_texts(documents, "document"), 1):
        if not text.strip():
            raise ValueError(f"document {number} is empty: there is nothing to summarise")
        found.append((f"document {number}", text))
    return found


def _of_file(path: Path) -> list[tuple[str, str]]:
    if path.suffix.lower() in _NO_TEXTS:
        raise ValueError(f"{path} is a {path.suffix}: read are a text with a document a line, and .jsonl")
    found: list[tuple[str, str]] = []
    for number, text in read_lines(path):
        place = f"{path}, line {number}"
        if path.suffix == ".jsonl":
            record = parse_json(text, path, f"line {number}")
            if not isinstance(record, dict) or not isinstance(record.get(_FIELD), str):
                raise ValueError(f"{place}: no object with a text under {_FIELD!r}")
            text = record[_FIELD]
            if not text.strip():
                raise ValueError(f"{place}: its document is empty: there is nothing to summarise")
        found.append((place, whole_text(text, place)))
    if not found:
        raise ValueError(f"{path} holds no documents: one a line is read, or .jsonl")
    if blank := number - len(found):
        say(f"{path}: {blank:,} blank lines are left out")
    return found
