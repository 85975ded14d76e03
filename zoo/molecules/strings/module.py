"""The LightningModule of language models over molecules as strings."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor, nn

from zoo.molecules.chemistry import chem
from zoo.molecules.kept_tokens import KeptTokens
from zoo.molecules.likelihood import sequence_nll, token_mean
from zoo.molecules.strings.generation import canonical, scores, shares
from zoo.molecules.strings.network import GPTLanguageModel, LSTMLanguageModel, nothing_read
from zoo.molecules.strings.report import GeneratedMolecules
from zoo.molecules.tokens import BOS, EOS, PAD, UNK, TokenVocabulary
from zoo.nn.data_fit import DataSizes, check_fit, told
from zoo.nn.decoding import generate
from zoo.nn.optim import with_schedule
from zoo.nn.parallel import refuse_sharding
from zoo.nn.processes import evaluated, gathered, place
from zoo.nn.ranges import CountOrZero, Depth, Many, Positive, Rate, Share, Size, check_ranges
from zoo.nn.settings import settings_of
from zoo.nn.variants import Uses, refuse_unused
from zoo.randomness import generator, global_seed
from zoo.reports import say

Arch = Literal["lstm", "gpt"]
Batch = dict[str, Tensor]
_STREAM = 18_01
_AT_ONCE = 256
_REFERENCE = 2000
_USES: Uses = {"embedding": ("lstm",), "heads": ("gpt",)}
_SIZES: dict[str, dict[str, Any]] = {
    "lstm": {"width": 512, "layers": 3, "dropout": 0.2},
    "gpt": {"width": 256, "layers": 8, "dropout": 0.1},
}


class SmilesLM(LightningModule):
    """A language model of SMILES or SELFIES for de novo design (Segler et al. 2018; MOSES, Polykovskiy et
    al. 2020).

    ``<bos> s <eos>``; the loss is the cross-entropy of the next token, padding ignored, a mean over the
    tokens of the global batch. Molecules are drawn from softmax(logits / temperature) cut to its nucleus of
    ``top_p``; the i-th one is a function of (seed, i), whatever it is drawn together with. Training goes on
    from ``--weights`` on a small set of actives: transfer learning, with the vocabulary of the weights.

    A batch has ``ids`` int64 (B, T) from BOS to EOS, pads on the right, and ``index`` (B,); one to predict
    needs
    ``index`` alone.

    Args:
        arch: ``lstm``, or ``gpt``, whose blocks are those of GPT-2.
        vocab_size: V, with the special tokens.
        embedding: width of the LSTM's embeddings; null is V, one-hot rows at first, as in MOSES.
        width: of the states; null is 512 of an LSTM, 256 of a GPT.
        layers: null is 3 of an LSTM, 8 of a GPT.
        heads: of each attention.
        dropout: null is .2 of an LSTM, .1 of a GPT.
        max_length: most tokens of a molecule, EOS included, also the positions of a GPT.
        temperature: of the draws.
        top_p: nucleus of the draws; 1 takes all.
        samples: molecules that a validation draws for validity, uniqueness and novelty; 0 draws none.
        test_samples: likewise for a test, which scores diversity, scaffolds, QED and SA, too.
        lr_interval: of ``lr_scheduler``: ``step`` or ``epoch``.
        compile: compile the network.
        optimizer: called with the parameters.
        lr_scheduler: called with the optimizer.

    Raises:
        ValueError: for impossible settings.
    """

    data_sizes: ClassVar[DataSizes] = {"vocab_size": "vocab_size"}

    def __init__(
        self,
        arch: Arch = "lstm",
        vocab_size: Size = 64,
        embedding: Size | None = 128,
        width: Size | None = None,
        layers: Depth | None = None,
        heads: Depth = 8,
        dropout: Rate | None = None,
        max_length: Size = 128,
        temperature: Positive = 1.0,
        top_p: Share = 1.0,
        samples: CountOrZero = 200,
        test_samples: Many = 1000,
        lr_interval: Literal["step", "epoch"] = "step",
        compile: bool = False,
        optimizer: OptimizerCallable = lambda p: torch.optim.Adam(p, lr=1e-3),
        lr_scheduler: LRSchedulerCallable | None = None,
    ) -> None:
        check_ranges(SmilesLM, locals())
        super().__init__()
        self.save_hyperparameters(ignore=["optimizer", "lr_scheduler"])
        if arch not in _SIZES:
            raise ValueError(f"model.init_args.arch must be lstm or gpt, got {arch!r}")
        refuse_unused(SmilesLM, self.hparams, "arch", _USES)
        self.optimizer, self.lr_scheduler = optimizer, lr_scheduler
        kind: Any = LSTMLanguageModel if arch == "lstm" else GPTLanguageModel
        sizes = {**settings_of(kind, self.hparams), "vocabulary": vocab_size}
        sizes |= {k: v if sizes[k] is None else sizes[k] for k, v in _SIZES[arch].items()}
        self.network: nn.Module = kind(**sizes)
        self.vocabulary = KeptTokens()
        self._known: frozenset[str] | None = None

    # --- set-up -----------------------------------------------------------------------------------------

    def setup(self, stage: str) -> None:
        refuse_sharding(self)
        chem()
        check_fit(self)
        data = getattr(self.trainer, "datamodule", None)
        self.vocabulary.take(data)
        longest = told(data, "longest")
        if longest is not None and longest + 1 > self.hparams["max_length"]:
            raise ValueError(
                f"data.init_args.longest is {longest}, which with <eos> is more than "
                f"model.init_args.max_length: {self.hparams['max_length']}; lower the one, or raise the other"
            )
        self._known = None
        if self.hparams["compile"]:
            self.network.compile()

    def configure_optimizers(self) -> Any:
        made = self.optimizer(self.network.parameters())
        return with_schedule(made, self.lr_scheduler, self.hparams["lr_interval"])

    @property
    def tokens(self) -> TokenVocabulary:
        """The vocabulary among the weights."""
        return self.vocabulary.tokens

    # --- training ---------------------------------------------------------------------------------------

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        ids = batch["ids"]
        loss = token_mean(self.network(ids[:, :-1]), ids[:, 1:])
        self.log("train/nll", loss.detach(), prog_bar=True, batch_size=len(ids), sync_dist=True)
        return loss

    # --- evaluation -------------------------------------------------------------------------------------

    def _evaluate(self, stage: str, ids: Tensor) -> None:
        labels = ids[:, 1:]
        nll, count = sequence_nll(self.network(ids[:, :-1]), labels), int((labels != PAD).sum())
        self.log(f"{stage}/nll", nll.sum() / count, batch_size=count, sync_dist=True)
        self.log(f"{stage}/nll_molecule", nll.mean(), batch_size=len(ids), sync_dist=True)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        self._evaluate("val", batch["ids"])

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        self._evaluate("test", batch["ids"])

    def on_validation_epoch_end(self) -> None:
        if self.hparams["samples"] and not self.trainer.sanity_checking:
            self._log("val", shares(self._drawn(self.hparams["samples"]), self.known))

    def on_test_epoch_end(self) -> None:
        known = self.known
        drawn = self._drawn(self.hparams["test_samples"])
        self._log("test", scores(drawn, None if known is None else sorted(known)))

    def _log(self, stage: str, found: dict[str, float]) -> None:
        for name, value in found.items():
            if not math.isnan(value):  # a share of nothing
                self.log(f"{stage}/{name}", value, prog_bar=name == "validity", rank_zero_only=False)

    @property
    def known(self) -> frozenset[str] | None:
        """Canonical SMILES of the training set of the data; None without data that know it."""
        if self._known is None:
            data = getattr(getattr(self, "_trainer", None), "datamodule", None)
            given = told(data, "known")
            if given is None:
                return None
            self._known = frozenset(map(canonical, given)) - {""}
        return self._known

    def _drawn(self, count: int) -> list[str]:
        """The molecules 0 to ``count`` - 1 of the seed, each process having drawn its share."""
        rank, world = place()
        own = range(rank, count, world)
        each = gathered(self.drawn([*own], global_seed()))
        found = [""] * count
        for start, texts in enumerate(each):
            found[start::world] = texts
        return found

    @torch.no_grad()
    def drawn(
        self, index: Sequence[int], seed: int, temperature: float | None = None, top_p: float | None = None
    ) -> list[str]:
        """SMILES of the positions ``index``, a function of (seed, position) and the weights alone."""
        h, found = self.hparams, []
        temperature = h["temperature"] if temperature is None else temperature
        top_p, longest = h["top_p"] if top_p is None else top_p, h["max_length"]
        with evaluated(self.network):
            for start in range(0, len(index), _AT_ONCE):
                some = index[start : start + _AT_ONCE]
                draws = [torch.rand(longest, generator=generator(_STREAM, seed, i)) for i in some]
                uniform = torch.stack(draws, dim=1).to(self.device)
                rows = generate(
                    self.network, nothing_read(len(some), self.device), longest, BOS, EOS, PAD, uniform,
                    temperature, top_p=top_p, never=(UNK,),
                )  # fmt: skip
                found += [self._smiles(row) for row in rows.tolist()]
        return found

    def _smiles(self, ids: Sequence[int]) -> str:
        text = self.tokens.text(ids)
        return str(chem("selfies").decoder(text)) if self.tokens.representation == "selfies" else text

    # --- predictions ------------------------------------------------------------------------------------

    def on_predict_start(self) -> None:
        h = self.hparams
        say(f"molecules drawn at temperature {h['temperature']}, top-p {h['top_p']}, seed {global_seed()}")

    def predict_step(self, batch: Batch, batch_idx: int) -> GeneratedMolecules:
        index, known = batch["index"].cpu(), self.known
        given = told(getattr(self.trainer, "datamodule", None), "known") or []
        return GeneratedMolecules(
            self.drawn(index.tolist(), global_seed()),
            index,
            known,
            given[:: max(1, len(given) // _REFERENCE)],
        )

    def sample(
        self, count: int = 10, seed: int = 0, temperature: float | None = None, top_p: float | None = None
    ) -> list[str]:
        """``count`` SMILES as they are drawn, valid or not: ``zoo.load("smiles_lm_blocks").sample(20)``.

        Args:
            count: of molecules.
            seed: the i-th one is a function of (seed, i).
            temperature: null is the module's.
            top_p: likewise.

        Raises:
            ValueError: for fewer than one molecule, a temperature or a nucleus outside of its range.
        """
        heat, nucleus = temperature, top_p
        if (
            count < 1
            or (heat is not None and not 0 < heat < math.inf)
            or (nucleus is not None and not 0 < nucleus <= 1)
        ):
            raise ValueError(
                f"count {count}, temperature {temperature}, top_p {top_p}: needed are a count of at least "
                "1, a temperature above 0 and a top_p above 0 and at most 1"
            )
        return self.drawn([*range(count)], seed, temperature, top_p)

    # --- export -----------------------------------------------------------------------------------------

    dynamic_dims: ClassVar[dict[str, dict[int, str]]] = {"ids": {0: "batch"}}

    def example_inputs(self, batch: int) -> dict[str, Tensor]:
        """Prefixes of eight tokens, whose next ones the network gives logits of."""
        ids = torch.arange(8, device=self.device).remainder(self.hparams["vocab_size"])
        return {"ids": ids.expand(batch, -1).clone()}
