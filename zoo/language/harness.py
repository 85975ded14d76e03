"""Causal language models for lm-evaluation-harness (Gao et al. 2024), by its own Python API.

    import lm_eval
    from zoo.language.harness import ZooLM
    lm_eval.simple_evaluate(model=ZooLM("causal_lm_stdlib"), tasks=["arc_easy"])

Texts are read as ``zoo test`` reads them: the start token once, before the first window; of a choice the
tokens that stand behind those of its question; of a long text windows of the model's context, each after the
first beginning with the last token of the one before. Nothing but the text is scored.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from zoo.language.causal.module import CausalLM
from zoo.language.likelihood import token_nll
from zoo.nn.processes import evaluated

try:
    from lm_eval.api.model import LM
except ImportError:
    raise ImportError("lm-evaluation-harness is missing: pip install lm-eval") from None

Row = tuple[list[int], int]
"""Token ids, and how many of the last are scored."""
_SAMPLED = ("temperature", "top_k", "top_p")
_NEW_TOKENS = 256  # the harness's own default


class ZooLM(LM):
    """What lm-evaluation-harness asks of a model.

    Args:
        model: a module, or what ``zoo.load`` takes.
        batch_size: rows at a time.
        context: tokens of a row; null is the model's.
        device: where it runs; null leaves a module where it is.

    Raises:
        ValueError: for weights of another method, without a tokenizer, or a context that they have not.
    """

    def __init__(
        self,
        model: CausalLM | str | Path,
        batch_size: int = 16,
        context: int | None = None,
        device: str | None = None,
    ) -> None:
        super().__init__()
        import zoo

        module = zoo.load(model) if isinstance(model, str | Path) else model
        if not isinstance(module, CausalLM):
            raise ValueError(
                f"{model}: these are weights of zoo.{type(module).__name__}, not of zoo.CausalLM"
            )
        self.module = module if device is None else module.to(device)
        self.tokenizer = self.module.vocabulary.tokenizer
        self.batch_size = batch_size
        self.context = self.module.network.context if context is None else context
        if not 2 <= self.context <= self.module.network.context:
            raise ValueError(
                f"context is {context}; the model reads from 2 to {self.module.network.context} tokens"
            )
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}")

    @property
    def tokenizer_name(self) -> str:
        """A fingerprint of the tokenizer, for the harness's caches."""
        name: str = self.module.vocabulary.described()["sha256"]
        return name

    # --- scores ---------------------------------------------------------------------------------------------

    def loglikelihood(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        """log p of each continuation after its context, and whether greedy decoding gives it.

        A context that is too long loses its beginning.

        Raises:
            ValueError: for a continuation that is empty or longer than the model's context.
        """
        rows = [self._pair(*request.args) for request in requests]
        found = self._scored(rows)
        for request, result in zip(requests, found, strict=True):
            self.cache_hook.add_partial("loglikelihood", request.args, result)
        return found

    def loglikelihood_rolling(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[float]:
        """log p of each whole text; of the empty one 0."""
        owners: list[int] = []
        rows: list[Row] = []
        for place, request in enumerate(requests):
            for row in self._windows(self._ids(request.args[0])):
                owners.append(place)
                rows.append(row)
        sums = [0.0] * len(requests)
        for place, (value, _) in zip(owners, self._scored(rows), strict=True):
            sums[place] += value
        for request, value in zip(requests, sums, strict=True):
            self.cache_hook.add_partial("loglikelihood_rolling", request.args, value)
        return sums

    def _ids(self, text: str) -> list[int]:
        """With the start token."""
        return self.module._prompted([text])[0]

    def _pair(self, context: str, continuation: str) -> Row:
        before, whole = self._ids(context), self._ids(context + continuation)
        scored = len(whole) - len(before)
        if not 0 < scored < self.context:
            raise ValueError(
                f"the continuation {continuation[:40]!r} has {scored:,} tokens; the model reads "
                f"{self.context - 1:,} behind the start"
            )
        start, rest = whole[:1], whole[1:]
        return start + rest[-(self.context - 1) :], scored

    def _windows(self, ids: list[int]) -> Iterator[Row]:
        at, done = 0, 1
        while done < len(ids):
            end = min(at + self.context, len(ids))
            yield ids[at:end], end - done
            at, done = at + self.context - 1, end

    @torch.no_grad()
    def _scored(self, rows: Sequence[Row]) -> list[tuple[float, bool]]:
        order = sorted(range(len(rows)), key=lambda i: -len(rows[i][0]))
        found: list[tuple[float, bool]] = [(0.0, True)] * len(rows)
        with evaluated(self.module.network):
            for start in range(0, len(order), self.batch_size):
                places = order[start : start + self.batch_size]
                for place, result in zip(places, self._batch([rows[i] for i in places]), strict=True):
                    found[place] = result
        return found

    def _batch(self, rows: Sequence[Row]) -> list[tuple[float, bool]]:
        width = max(len(ids) for ids, _ in rows)
        ids = torch.zeros(len(rows), width, dtype=torch.long)
        labels, documents = torch.full_like(ids, -100), torch.zeros_like(ids)
        for i, (row, scored) in enumerate(rows):
            ids[i, : len(row)] = torch.tensor(row)
            documents[i, : len(row)] = 1
            labels[i, len(row) - scored : len(row)] = torch.tensor(row[-scored:])
        ids, labels, documents = (x.to(self.module.device) for x in (ids, labels, documents))
        logits: Tensor = self.module(ids, None, documents)
        nll = token_nll(logits, labels).double().sum(dim=1)
        likeliest, wanted = logits[:, :-1].argmax(dim=-1), labels[:, 1:]
        greedy = ((likeliest == wanted) | (wanted == -100)).all(dim=1)
        return [(-float(n), bool(g)) for n, g in zip(nll, greedy, strict=True)]

    # --- texts ----------------------------------------------------------------------------------------------

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
        """What follows each context, up to the first of its stop texts or the end of the document.

        The i-th request's draws, if it asks for any, are a function of i.
        """
        found = []
        for start, request in enumerate(requests):
            context, settings = request.args
            text = self._until(context, dict(settings), start)
            self.cache_hook.add_partial("generate_until", request.args, text)
            found.append(text)
        return found

    def _until(self, context: str, settings: dict[str, Any], seed: int) -> str:
        stops = settings.pop("until", None) or []
        stops = [stops] if isinstance(stops, str) else list(stops)
        asked = settings.pop("max_gen_toks", settings.pop("max_new_tokens", _NEW_TOKENS))
        most = max(1, min(int(asked), self.context - 2))
        sampled = bool(settings.pop("do_sample", False)) and settings.get("temperature", 1.0) != 0
        draws = {k: settings.pop(k) for k in _SAMPLED if k in settings}
        if settings:
            raise ValueError(f"{next(iter(settings))!r} is no setting of a generation here")
        how: dict[str, Any] = {"decoding": "sample", **draws} if sampled else {"decoding": "greedy"}
        text = self.module.generate(context, most, seed, **how)[0]
        ends = [at for stop in stops if stop and (at := text.find(stop)) >= 0]
        return text[: min(ends)] if ends else text
