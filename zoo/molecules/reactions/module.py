"""The LightningModule of reaction prediction: reactants to products, or products to reactants."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor, nn

from zoo.molecules.chemistry import chem
from zoo.molecules.kept_tokens import KeptTokens
from zoo.molecules.likelihood import sequence_nll, token_mean
from zoo.molecules.reactions.report import PredictedReactions
from zoo.molecules.reactions.scoring import copied, hits
from zoo.molecules.strings.generation import canonical
from zoo.molecules.tokens import BOS, EOS, PAD, UNK, TokenVocabulary, tokenised
from zoo.nn.data_fit import DataSizes, check_fit
from zoo.nn.decoding import beam_search
from zoo.nn.encoder_decoder import Transformer
from zoo.nn.optim import Noam, with_schedule
from zoo.nn.parallel import refuse_sharding
from zoo.nn.processes import evaluated, total
from zoo.nn.ranges import CountOrZero, Depth, NonNegative, Rate, Size, check_ranges
from zoo.nn.variants import Uses, refuse_unused

Arch = Literal["transformer", "copy"]
_TRANSFORMER = ("transformer",)
_USES: Uses = dict.fromkeys(
    ("width", "layers", "heads", "hidden", "dropout", "tied", "label_smoothing", "length_penalty"),
    _TRANSFORMER,
)
_KS = (1, 2, 3, 5, 10)


def _adam(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.Adam(parameters, lr=1.0, betas=(0.9, 0.998), eps=1e-9)


class _Copy(nn.Module):
    """Learns nothing; one number, so that a training has something to step on."""

    def __init__(self) -> None:
        super().__init__()
        self.anchor = nn.Parameter(torch.zeros(()))

    def forward(self, source: Tensor, prefix: Tensor) -> Tensor:
        return self.anchor.expand(len(source))


class _Predictor(Transformer):
    """The encoder-decoder as one call, for the export."""

    def forward(self, source: Tensor, prefix: Tensor) -> Tensor:
        """Logits (B, T, V) of the token after each of ``prefix``."""
        return self.decode(prefix, self.encode(source))


class ReactionTransformer(LightningModule):
    """The Molecular Transformer (Schwaller et al. 2019): SMILES of reactants to those of the product, or
    back.

    A pre-norm encoder-decoder with shared embeddings (:class:`zoo.nn.encoder_decoder.Transformer`); lr = 2
    d^-.5 min(k^-.5, k 8000^-1.5), Adam betas (.9, .998), no label smoothing, batches of 4,096 tokens, four of
    them a step, beam 5. The weights of the checkpoints that a run keeps are averaged by ``zoo convert
    runs/.../checkpoints --method reactions --out FILE`` (:mod:`zoo.molecules.reactions.weights`).

    A batch has ``source`` int64 (B, S) and ``target`` (B, T) from BOS to EOS, pads on the right, and
    ``index``; evaluation adds the texts ``source_text``, ``target_text`` and ``kind``. A prediction needs no
    target.

    Args:
        arch: ``transformer``, or ``copy``, a baseline that answers with the molecules of the source.
        vocab_size: V, with the special tokens.
        direction: ``forward``, or ``retro``, from the product to reactants.
        width: d.
        layers: of encoder and decoder each.
        heads: of each attention.
        hidden: width of the feed-forward layers.
        dropout: rate.
        tied: one table of source tokens, target tokens and the generator.
        label_smoothing: eps.
        beams: of the search, and candidates of each source.
        length_penalty: scores are log p / length^penalty.
        max_length: most tokens of a prediction, EOS included.
        generate_batches: of a validation, whose batches are answered by beam search; null answers all.
        round_trip: of ``retro``: name or file of forward weights, which have to find the product again from
            the first candidate of a test.
        compile: compile encoder and decoder layers.
        optimizer: called with the parameters.
        lr_scheduler: called with the optimizer, stepped every optimiser step; null is the rate above.

    Raises:
        ValueError: for impossible settings.
    """

    data_sizes: ClassVar[DataSizes] = {"vocab_size": "vocab_size", "direction": "direction"}
    answers_untrained: ClassVar[Mapping[str, Sequence[str]]] = {"arch": ("copy",)}

    def __init__(
        self,
        arch: Arch = "transformer",
        vocab_size: Size = 64,
        direction: Literal["forward", "retro"] = "forward",
        width: Size = 256,
        layers: Depth = 4,
        heads: Depth = 8,
        hidden: Size = 2048,
        dropout: Rate = 0.1,
        tied: bool = True,
        label_smoothing: Rate = 0.0,
        beams: Depth = 5,
        length_penalty: NonNegative = 0.0,
        max_length: Size = 200,
        generate_batches: CountOrZero | None = 5,
        round_trip: str | None = None,
        compile: bool = False,
        optimizer: OptimizerCallable = _adam,
        lr_scheduler: LRSchedulerCallable | None = None,
    ) -> None:
        check_ranges(ReactionTransformer, locals())
        super().__init__()
        self.save_hyperparameters(ignore=["optimizer", "lr_scheduler"])
        if arch not in ("transformer", "copy"):
            raise ValueError(f"model.init_args.arch must be transformer or copy, got {arch!r}")
        refuse_unused(ReactionTransformer, self.hparams, "arch", _USES)
        refuse_unused(ReactionTransformer, self.hparams, "direction", {"round_trip": ("retro",)})
        self.optimizer, self.lr_scheduler = optimizer, lr_scheduler
        self.network: Any = (
            _Copy()
            if arch == "copy"
            else _Predictor(vocab_size, width, layers, heads, hidden, dropout, PAD, tied)
        )
        self.vocabulary = KeptTokens()
        self._sums: dict[str, float] = {}
        self._forward: list[ReactionTransformer] = []  # in a list it is no submodule

    # --- set-up -----------------------------------------------------------------------------------------

    def setup(self, stage: str) -> None:
        refuse_sharding(self)
        chem()
        check_fit(self)
        data = getattr(self.trainer, "datamodule", None)
        self.vocabulary.take(data)
        if self.hparams["compile"] and self.hparams["arch"] == "transformer":
            for layer in (*self.network.encoder, *self.network.decoder):
                layer.compile()

    def configure_optimizers(self) -> Any:
        width = self.hparams["width"]
        default = None if self.hparams["arch"] == "copy" else lambda o: Noam(o, width, 2.0, 8000)
        return with_schedule(self.optimizer(self.network.parameters()), self.lr_scheduler or default)

    @property
    def tokens(self) -> TokenVocabulary:
        """The vocabulary among the weights."""
        return self.vocabulary.tokens

    # --- training ---------------------------------------------------------------------------------------

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        source, target = batch["source"], batch["target"]
        if self.hparams["arch"] == "copy":
            loss: Tensor = 0 * self.network(source, target).mean()
        else:
            logits = self.network(source, target[:, :-1])
            loss = token_mean(logits, target[:, 1:], self.hparams["label_smoothing"])
        self.log("train/loss", loss.detach(), prog_bar=True, batch_size=len(source), sync_dist=True)
        return loss

    # --- evaluation -------------------------------------------------------------------------------------

    def on_validation_epoch_start(self) -> None:
        self._sums = {}

    def on_test_epoch_start(self) -> None:
        self._sums = {}

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        limit = self.hparams["generate_batches"]
        self._evaluate("val", batch, limit is None or batch_idx < limit)

    def test_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        self._evaluate("test", batch, True)

    def _evaluate(self, stage: str, batch: dict[str, Any], answers: bool) -> None:
        if self.hparams["arch"] == "transformer":
            source, target = batch["source"], batch["target"]
            nll, count = (
                sequence_nll(self.network(source, target[:, :-1]), target[:, 1:]),
                target[:, 1:] != PAD,
            )
            self.log(f"{stage}/nll", nll.sum() / count.sum(), batch_size=int(count.sum()), sync_dist=True)
        if not answers:
            return
        candidates, _ = self.answers(batch["source"], batch["source_text"])
        found = hits(candidates, batch["target_text"], [k for k in _KS if k <= self.hparams["beams"]])
        if stage == "test" and self.hparams["round_trip"] is not None:
            found["round_trip"] = self._returned(candidates, batch["source_text"])
        for name, value in {**found, "count": float(len(candidates))}.items():
            self._sums[name] = self._sums.get(name, 0.0) + value

    def _returned(self, candidates: Sequence[Sequence[str]], products: Sequence[str]) -> float:
        """Of how many products the forward weights find the product again from the first candidate."""
        forward = self._forward_weights()
        firsts = [canonical(beams[0]) if beams else "" for beams in candidates]
        asked = [(first, product) for first, product in zip(firsts, products, strict=True) if first]
        made = forward.react([first for first, _ in asked], 1) if asked else []
        found = (canonical(m[0]["smiles"]) == canonical(p) for m, (_, p) in zip(made, asked, strict=True))
        return float(sum(found))

    def _forward_weights(self) -> ReactionTransformer:
        """Those of ``round_trip``, no part of this module's own.

        Raises:
            ValueError: for weights of another kind.
        """
        if not self._forward:
            import zoo

            found = zoo.load(self.hparams["round_trip"])
            if not isinstance(found, ReactionTransformer) or found.hparams["direction"] != "forward":
                raise ValueError(
                    f"model.init_args.round_trip: {self.hparams['round_trip']} are no forward weights of a "
                    "ReactionTransformer"
                )
            self._forward.append(found.to(self.device))
        return self._forward[0]

    def on_validation_epoch_end(self) -> None:
        self._log("val")

    def on_test_epoch_end(self) -> None:
        self._log("test")

    def _log(self, stage: str) -> None:
        names = sorted(self._sums)
        if not names:
            return
        sums = total(
            torch.tensor([self._sums[n] for n in names], dtype=torch.float64, device="cpu").to(self.device)
        )
        found = dict(zip(names, sums.tolist(), strict=True))
        count = found.pop("count")
        for name, value in found.items():
            self.log(f"{stage}/{name}", value / count, prog_bar=name == "top1")

    # --- predictions ------------------------------------------------------------------------------------

    @torch.no_grad()
    def answers(
        self, source: Tensor, texts: Sequence[str], count: int | None = None
    ) -> tuple[list[list[str]], list[list[float]]]:
        """Candidates of each source, best first, and their log p; a beam that never ended has -inf."""
        h = self.hparams
        if h["arch"] == "copy":
            return [copied(text, count or h["beams"]) for text in texts], []
        beams = max(h["beams"], count or 1)
        with evaluated(self.network):
            encoded = self.network.encode(source)
            rows, scores = beam_search(
                self.network, encoded, beams, h["max_length"], BOS, EOS, PAD, h["length_penalty"], (UNK,)
            )
        kept = count or h["beams"]
        found = [[self.tokens.text(row) for row in beam[:kept]] for beam in rows.tolist()]
        return found, [row[:kept] for row in scores.tolist()]

    def predict_step(self, batch: dict[str, Any], batch_idx: int) -> PredictedReactions:
        candidates, log_p = self.answers(batch["source"], batch["source_text"])
        return PredictedReactions(
            batch["source_text"], batch.get("target_text", []), candidates, log_p, batch["index"].cpu(),
            batch.get("kind", []),
        )  # fmt: skip

    def react(
        self, sources: str | Sequence[str], count: int = 1, batch_size: int = 32
    ) -> list[list[dict[str, Any]]]:
        """Products of reactants, or, of retro weights, reactants of products: ``count`` of each, best first.

        ``zoo.load("reactions_templates").react("CC(=O)O.CN")``

        Args:
            sources: SMILES, those of several molecules joined by dots; made canonical first.
            count: of candidates.
            batch_size: sources at a time.

        Returns:
            for each source, candidates with ``smiles``, ``valid`` and ``log_p`` (None of the copy baseline).

        Raises:
            ValueError: for what is no molecule, in one line.
        """
        given = [sources] if isinstance(sources, str) else [*sources]
        texts = []
        for text in given:
            sides = [[canonical(part) for part in side.split(".")] for side in text.split(">")]
            if not all(all(side) for side in sides):
                raise ValueError(f"{text!r} is no molecule, or mixture, that rdkit can read")
            texts.append(">".join(".".join(sorted(side)) for side in sides))
        found: list[list[dict[str, Any]]] = []
        for start in range(0, len(texts), batch_size):
            some = texts[start : start + batch_size]
            rows = (
                [self.tokens.encoded(tokenised(t)) for t in some] if self.hparams["arch"] != "copy" else [[0]]
            )
            padded = torch.nn.utils.rnn.pad_sequence(
                [torch.tensor(row) for row in rows], batch_first=True, padding_value=PAD
            )
            candidates, log_p = self.answers(padded.to(self.device), some, count)
            scores: list[Any] = log_p or [[None] * len(beams) for beams in candidates]
            for beams, numbers in zip(candidates, scores, strict=True):
                pairs = zip(beams, numbers, strict=True)
                found.append([{"smiles": s, "valid": bool(canonical(s)), "log_p": p} for s, p in pairs])
        return found

    # --- export -----------------------------------------------------------------------------------------

    dynamic_dims: ClassVar[dict[str, dict[int, str]]] = {"source": {0: "batch"}, "prefix": {0: "batch"}}

    def example_inputs(self, batch: int) -> dict[str, Tensor]:
        """Sources and prefixes of eight tokens for the network, which gives logits (batch, 8, V).

        Raises:
            ValueError: for the copy baseline.
        """
        if self.hparams["arch"] == "copy":
            raise ValueError("arch: copy computes nothing: there is no network to export")
        ids = torch.arange(8, device=self.device).add(4).remainder(self.hparams["vocab_size"])
        return {"source": ids.expand(batch, -1).clone(), "prefix": ids.expand(batch, -1).clone()}
