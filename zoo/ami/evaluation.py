"""What validation and test measure of replies, for each decoding and each baseline."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch import distributed as dist
from torchmetrics import MeanMetric, SumMetric
from torchmetrics.aggregation import CatMetric

from zoo.ami.baselines import Baseline, ConstantReply, Retrieval, adversarial_success
from zoo.ami.information import plug_in_information
from zoo.ami.vocabulary import Vocabulary
from zoo.metrics.bleu import ORDERS, CorpusBLEU
from zoo.metrics.diversity import Diversity, check_comparable, repeats, text_number, unigram_f1
from zoo.metrics.embedding_similarity import similarities
from zoo.nn.data_fit import told

_MEANS = (
    "log_q", "log_q_token", "judge_log_q", "judge_log_q_token", "f1", "repeats", "embedding_average",
    "embedding_extrema", "embedding_greedy", "embedding_known", "generic", "right_topic",
)  # fmt: skip


class ReplyScores(nn.Module):
    """Scores of one kind of replies.

    Args:
        bleu: what the data ask for: ``translation``, ``dialogue``, or none.
        lowercase: of BLEU.
    """

    def __init__(self, bleu: str | None, lowercase: bool) -> None:
        super().__init__()
        self.diversity = Diversity()
        self.means: Any = nn.ModuleDict({name: MeanMetric(nan_strategy="error") for name in _MEANS})
        self.bleu = CorpusBLEU(lowercase) if bleu else None
        self.dialogue = bleu == "dialogue"
        self.pairs = CatMetric(nan_strategy="error")
        self.seen: set[str] = set()
        self.texts: list[tuple[int, str, str, str]] = []

    def add(self, name: str, value: Tensor, weight: Tensor | float = 1.0) -> None:
        """Take values into a mean."""
        if value.numel():
            self.seen.add(name)
            self.means[name].update(value, weight)

    def compute(self, source_entropy: float | None) -> dict[str, Tensor]:
        """All scores by name."""
        found = {name: self.means[name].compute() for name in _MEANS if name in self.seen}
        found |= self.diversity.compute()
        if source_entropy is not None:
            for name in ("", "judge_"):
                if f"{name}log_q" in found:
                    found[f"{name}bound"] = source_entropy + found[f"{name}log_q"]
        if self.bleu is not None:
            found["bleu"] = self.bleu.compute()
            found |= {f"bleu_{n}": self.bleu.of_order(n) for n in ORDERS if self.dialogue}
        if "right_topic" in self.seen:
            found["information"] = plug_in_information(self.pairs.compute().long().view(-1, 2))
        return found


class Evaluation(nn.Module):
    """Scores of one stage.

    Args:
        settings: of the module.
        stage: ``val`` or ``test``.
    """

    def __init__(self, settings: Mapping[str, Any], stage: str) -> None:
        super().__init__()
        self.settings, self.stage = settings, stage
        decodings = settings["table"] if stage == "test" else [settings["decoding"]]
        self.decodings = list(dict.fromkeys(decodings))
        self.scores: Any = nn.ModuleDict()
        names = ("forward_nll", "backward_nll", "source_nll", "source_entropy", "hits_at_1")
        self.whole: Any = nn.ModuleDict({name: MeanMetric(nan_strategy="error") for name in names})
        self.baselines: dict[str, Baseline] = {}
        self.source_entropy: float | None = None
        self._texts: Callable[[Tensor], list[str]] | None = None
        self._vectors: Any = None
        self.cut = SumMetric()
        self._seen: set[str] = set()

    def prepare(self, data: Any, vocabulary: Vocabulary) -> None:
        """Learn from the data what is measured."""
        self._texts = vocabulary.texts  # the vocabulary itself would become part of this one's state
        self.source_entropy = told(data, "source_entropy")
        self._vectors = told(data, "word_vectors")
        pairs = told(data, "training_pairs") if self.stage == "test" else None
        self._pairs: Callable[[], Sequence[tuple[str, str]]] | None = pairs if callable(pairs) else None
        bleu = told(data, "bleu") if self.stage == "test" else None
        rows = [*self.decodings, *(["constant", "retrieval"] if self._pairs else [])]
        lowercase = bool(told(data, "lowercase"))
        self.scores = nn.ModuleDict({name: ReplyScores(bleu, lowercase) for name in rows})
        self.baselines = {}

    def baselines_of(self) -> dict[str, Baseline]:
        """Those of a test, made at its first batch: they need the training split."""
        if self._pairs is not None and not self.baselines:
            histories, replies = zip(*self._pairs(), strict=True)
            self.baselines = {"constant": ConstantReply(replies), "retrieval": Retrieval(histories, replies)}
        return self.baselines

    def likelihood(self, name: str, total: Tensor, count: Tensor) -> None:
        """Add a sum over so many tokens to a mean over all tokens."""
        self._seen.add(name)
        self.whole[name].update(total / count.clamp(min=1), count.float())

    def entropy(self, nll: Tensor) -> None:
        """Add -log p(S) of each pair (B,), in nats summed over tokens, by a model of S: their mean is a
        cross-entropy, which is at least H(S)."""
        self._seen.add("source_entropy")
        self.whole["source_entropy"].update(nll)

    def _entropy(self) -> float | None:
        """H(S) in nats: what the data know, else what the model of S says, else nothing."""
        if self.source_entropy is None and "source_entropy" in self._seen:
            return float(self.whole["source_entropy"].compute())
        return self.source_entropy

    def read(self, batch: Mapping[str, Any]) -> None:
        """Count the pairs of a batch whose texts are longer than what is read of them."""
        self.cut.update(float(sum(batch.get("cut", ()))))

    def hits(self, right: Tensor) -> None:
        """Whether the gold candidate was the likeliest, (B,)."""
        self._seen.add("hits_at_1")
        self.whole["hits_at_1"].update(right.float())

    def replies(
        self,
        name: str,
        batch: Mapping[str, Any],
        reply: Tensor,
        log_q: Tensor,
        judge_log_q: Tensor | None,
        tokens: Tensor,
        table: Tensor,
        texts: Sequence[str] | None = None,
    ) -> None:
        """Scores of one reply (B, T) to each source.

        Args:
            name: of the decoding or baseline.
            batch: of the data.
            reply: ids without EOS.
            log_q: log q(S|T') of the backward network, (B,).
            judge_log_q: of the judge.
            tokens: of S, (B,).
            table: word embeddings (V, d).
            texts: of the replies, where they are not what the ids give.
        """
        scores: Any = self.scores[name]
        assert self._texts is not None
        texts = self._texts(reply) if texts is None else list(texts)
        scores.diversity.update(texts)
        for prefix, values in (("", log_q), ("judge_", judge_log_q)):
            if values is not None:
                scores.add(f"{prefix}log_q", values)
                scores.add(f"{prefix}log_q_token", values / tokens.clamp(min=1), tokens.float())
        if references := batch.get("reference"):
            self._against_references(scores, batch, texts, references, reply, table)
        if words := batch.get("topic_word"):
            right = [word in text.split() for word, text in zip(words, texts, strict=True)]
            generic = [text == other for text, other in zip(texts, batch["generic"], strict=True)]
            scores.add("right_topic", torch.tensor(right, dtype=torch.float))
            scores.add("generic", torch.tensor(generic, dtype=torch.float))
            said = [text_number(text) % 2**22 for text in texts]  # exact in float32
            scores.pairs.update(torch.stack([batch["topic"].cpu(), torch.tensor(said)], 1).flatten().float())

    def _against_references(
        self,
        scores: Any,
        batch: Mapping[str, Any],
        texts: list[str],
        references: Any,
        reply: Tensor,
        table: Tensor,
    ) -> None:
        pad, eos, histories = self.settings["pad_id"], self.settings["eos_id"], batch["history"]
        both = list(zip(texts, references, strict=True))
        scores.add("f1", torch.tensor([unigram_f1(*pair) for pair in both]))
        scores.add("repeats", torch.tensor([repeats(t, s) for t, s in zip(texts, histories, strict=True)]))
        if self._vectors is not None:
            found = [(self._vectors(text), self._vectors(gold)) for text, gold in both]
            similar = [similarities(a, b) for (a, _), (b, _) in found]
            words = torch.tensor([float(n + m) for (_, n), (_, m) in found])
            known = torch.tensor([float(len(a) + len(b)) for (a, _), (b, _) in found])
            scores.add("embedding_known", known / words.clamp(min=1), words)
        else:
            gold = batch["target"][:, 1:]
            similar = [
                similarities(table[a[a != pad]], table[b[(b != pad) & (b != eos)]])
                for a, b in zip(reply, gold, strict=True)
            ]
        for name, column in zip(("average", "extrema", "greedy"), torch.stack(similar).T, strict=True):
            scores.add(f"embedding_{name}", column)
        if scores.bleu is not None:
            scores.bleu.update(texts, references)
            rows = zip(batch["index"].tolist(), histories, references, texts, strict=True)
            scores.texts += [tuple(row) for row in rows]

    def log(self, module: Any) -> None:
        """Log all and begin anew.

        Raises:
            ValueError: for decodings with unequal numbers of replies.
        """
        # not in the order of the set, which is another one in each process: computing is a collective
        found = {name: metric.compute() for name, metric in self.whole.items() if name in self._seen}
        entropy = self._entropy()
        names = [n for n in self.scores if int(self.scores[n].diversity.replies)]
        check_comparable({n: self.scores[n].diversity for n in names})
        for name in names:
            scores: Any = self.scores[name]
            computed = scores.compute(entropy)
            success = self._adversarial(scores)
            if success is not None:
                computed["adversarial_success"] = torch.tensor(success)
            prefix = f"{name}/" if self.stage == "test" else ""
            found |= {f"{prefix}{key}": value for key, value in computed.items()}
        for key, value in found.items():
            # compute() speaks for all ranks; without sync_dist Lightning warns that it might not
            value = torch.as_tensor(value, dtype=torch.float32, device=module.device)
            module.log(f"{self.stage}/{key}", value, sync_dist=True)
        self._reset()

    def _adversarial(self, scores: Any) -> float | None:
        rows = scores.texts
        if dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
            parts: list[Any] = [None] * dist.get_world_size()
            dist.all_gather_object(parts, rows)
            rows = [row for part in parts for row in part]
        if not rows:
            return None
        _, histories, references, texts = zip(*sorted(rows), strict=True)
        return adversarial_success(histories, references, texts)

    def _reset(self) -> None:
        for metric in (*self.whole.values(), self.cut):
            metric.reset()
        self._seen = set()
        for scores in self.scores.values():
            for metric in scores.modules():
                if hasattr(metric, "compute") and hasattr(metric, "update"):
                    metric.reset()
            scores.seen, scores.texts = set(), []

    def rows(self, decodings: Mapping[str, str]) -> dict[str, dict[str, Any]]:
        """How each row of the table was made: replies, decoding, scorers.

        Args:
            decodings: how each decoding makes replies.
        """
        made = {
            "constant": "the most frequent reply of the training split",
            "retrieval": "the reply to the training history of largest TF-IDF cosine",
        }
        found: dict[str, dict[str, Any]] = {}
        cut = int(self.cut.compute())
        entropy, known = self._entropy(), self.source_entropy is not None
        how = "known" if known else "cross-entropy of the model of S on these pairs, at least H(S)"
        of_source = "not known" if entropy is None else f"{entropy:.4f} nats, {how}"
        for name, scores in self.scores.items():
            count = scores.diversity.replies.clone()
            if dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
                dist.all_reduce(count)
            row = {"replies": int(count), "generation": {**made, **decodings}[name]}
            if scores.bleu is not None:
                row["bleu"] = scores.bleu.signature
            found[name] = {
                **row,
                "words": "separated by white space",
                "truncated_pairs": cut,
                "entropy": "natural logarithm",
                "embeddings": "the forward network's" if self._vectors is None else self._vectors.name,
                "source_entropy": of_source,
            }
        return found
