"""Likelihoods of real pairs, and replies with what the backward networks say of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, get_args

import torch
from torch import Tensor

from zoo.ami.evaluation import Evaluation
from zoo.ami.information import cut_at_eos, sequence_nll, token_nll
from zoo.ami.network import AMINetwork
from zoo.ami.recovery import no_reply, recovery_logits, recovery_nll
from zoo.ami.replies import Decoding, Replies
from zoo.ami.report import GeneratedReplies
from zoo.ami.turns import batch_of
from zoo.ami.vocabulary import Vocabulary
from zoo.nn.given_texts import given_count, given_texts
from zoo.nn.processes import evaluated

Batch = Mapping[str, Any]
_MOST = 10_000


class Scoring:
    """Evaluation and prediction with the settings of a module.

    Args:
        network: the pair.
        vocabulary: of the weights.
        settings: hyperparameters of the module.
    """

    def __init__(self, network: AMINetwork, vocabulary: Vocabulary, settings: Mapping[str, Any]) -> None:
        self.network, self.vocabulary, self.settings = network, vocabulary, settings
        self.replies = Replies(network, settings)

    @torch.no_grad()
    def evaluate(self, evaluation: Evaluation, batch: Batch, judge: Any, source: Any) -> None:
        """Take a batch into the scores of a stage.

        Args:
            evaluation: of the stage.
            batch: of the data.
            judge: a second backward network, or none.
            source: a model of S alone, or none.
        """
        h, pad = self.settings, self.settings["pad_id"]
        evaluation.read(batch)
        labels, recover = batch["target"][:, 1:], batch["recover"][:, 1:]
        nll = token_nll(self.network(batch["source"], batch["target"][:, :-1]), labels, pad)
        evaluation.likelihood("forward_nll", nll.sum(), (labels != pad).sum())
        gold = cut_at_eos(labels, h["eos_id"], pad)[1]
        nll = token_nll(recovery_logits(self.network.backward_network, batch, gold, pad), recover, pad)
        evaluation.likelihood("backward_nll", nll.sum(), (recover != pad).sum())
        if source is not None:
            nll = recovery_nll(source, batch, no_reply(batch), pad)
            evaluation.likelihood("source_nll", nll.sum(), (recover != pad).sum())
            evaluation.entropy(nll)
        if "candidates" in batch:
            evaluation.hits(self._best_candidate(batch) == batch["gold"])
        table = self.network.forward_network.word_table()
        for decoding in evaluation.decodings:
            random = self.replies.generator(batch["index"], evaluation.stage)
            reply = self.replies.ranked(batch["source"], decoding, 1, random)[0][:, 0]
            evaluation.replies(decoding, batch, reply, *self._log_q(batch, reply, judge), table)
        for name, answer in evaluation.baselines_of().items():
            texts = answer(batch["history"])
            reply = self._ids(texts, labels.device)
            evaluation.replies(name, batch, reply, *self._log_q(batch, reply, judge), table, texts)

    def _ids(self, texts: Sequence[str], device: torch.device) -> Tensor:
        """Texts as padded ids (B, T), at most ``max_length`` of them."""
        rows = [ids[: self.settings["max_length"]] for ids in self.vocabulary.ids(texts)]
        out = torch.full((len(rows), max([1, *map(len, rows)])), self.settings["pad_id"])
        for place, ids in enumerate(rows):
            out[place, : len(ids)] = torch.tensor(ids, dtype=torch.long)
        return out.to(device)

    def _log_q(self, batch: Batch, reply: Tensor, judge: Any) -> tuple[Tensor, Tensor | None, Tensor]:
        """log q(S|T') (B,) by phi and by the judge, in nats, and the tokens of S."""
        pad = self.settings["pad_id"]
        found = -recovery_nll(self.network.backward_network, batch, reply, pad)
        judged = None if judge is None else -recovery_nll(judge, batch, reply, pad)
        return found, judged, (batch["recover"][:, 1:] != pad).sum(dim=1)

    def _best_candidate(self, batch: Batch) -> Tensor:
        """Which of the candidates (B, N, L) is the likeliest, by its mean log-likelihood a token, (B,)."""
        candidates, pad = batch["candidates"], self.settings["pad_id"]
        count = candidates.shape[1]
        encoded = self.network.forward_network.encode(batch["source"]).repeated(count)
        rows = candidates.flatten(0, 1)
        logits = self.network.forward_network.decode(rows[:, :-1], encoded)
        nll = sequence_nll(logits, rows[:, 1:], pad).view(-1, count)
        empty = (candidates[:, :, 1:] == pad).all(dim=2)
        return nll.masked_fill(empty, float("inf")).argmin(dim=1)

    @property
    def protocol(self) -> str:
        """How a prediction's replies are made and ordered."""
        h = self.settings
        return self.replies.protocol(h["decoding"]) + (", ordered by log q" if h["rerank"] else "")

    @torch.no_grad()
    def predict(self, batch: Batch) -> GeneratedReplies:
        """Replies to each history with their scores, best first."""
        h = self.settings
        random = self.replies.generator(batch["index"], "predict")
        rows, forward = self.replies.ranked(batch["source"], h["decoding"], h["replies"], random)
        network = self.network.backward_network
        scores = [-recovery_nll(network, batch, row, h["pad_id"]) for row in rows.unbind(1)]
        backward = torch.stack(scores, dim=1)
        order = (backward if h["rerank"] else forward).argsort(dim=1, descending=True, stable=True)
        rows = rows.gather(1, order[:, :, None].expand_as(rows))
        return GeneratedReplies(
            histories=list(batch.get("history", [])) or self.vocabulary.texts(batch["source"]),
            references=list(batch.get("reference", [])),
            replies=[self.vocabulary.texts(row) for row in rows.unbind(0)],
            forward=forward.gather(1, order).cpu(),
            backward=backward.gather(1, order).cpu(),
            index=batch["index"].cpu(),
            protocol=self.protocol,
            told={key: list(batch[key]) for key in ("row", "unread", "cut", "persona") if key in batch},
        )

    @torch.no_grad()
    def answer(
        self,
        history: Any,
        count: Any,
        decoding: Any,
        device: torch.device,
        persona: Any = (),
    ) -> list[dict[str, Any]]:
        """Replies to one history, best first: ``text``, ``log_p`` and ``log_q`` of each.

        Raises:
            ValueError: for a decoding with fewer replies or of another name, what is no text, and a history
                without a word.
        """
        h = self.settings
        if not isinstance(decoding, str) or decoding not in get_args(Decoding):
            raise ValueError(f"decoding is one of {', '.join(get_args(Decoding))}, not {decoding!r:.60}")
        count, utterances = given_count(count, "count"), given_texts(history, "utterance")
        if isinstance(persona, str):
            raise ValueError(f"a persona is a list of sentences, not {persona!r:.60}")
        persona = given_texts(persona, "sentence of the persona")
        if count > _MOST:
            raise ValueError(f"count is {count:,}; ask for at most {_MOST:,} replies at a time")
        if count > (h["beam"] if decoding == "beam" else 1 if decoding == "greedy" else count):
            raise ValueError(
                f"decoding: {decoding} has fewer than {count} replies; take sample, or a wider beam"
            )
        found = batch_of(self.vocabulary, utterances, h["bos_id"], h["eos_id"], persona)
        batch = {k: v.to(device) for k, v in found.items()}
        with evaluated(self.network):
            random = self.replies.generator(torch.zeros(1, dtype=torch.long), "reply")
            rows, forward = self.replies.ranked(batch["source"], decoding, count, random)
            nll = recovery_nll(self.network.backward_network, batch, rows[0], h["pad_id"], count)
        texts, log_p, log_q = self.vocabulary.texts(rows[0]), forward[0].tolist(), (-nll).tolist()
        replies = [
            {"text": text, "log_p": p, "log_q": q} for text, p, q in zip(texts, log_p, log_q, strict=True)
        ]
        return sorted(replies, key=lambda r: -r["log_q" if h["rerank"] else "log_p"])
