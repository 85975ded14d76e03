"""The LightningModule of masked language models of proteins, and of properties predicted from them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor

from zoo.language.masked.contacts import features, fitted
from zoo.language.masked.network import SHAPES, SIZES, MaskedNetwork, Model
from zoo.language.masked.probes import probe_scores, write_probes
from zoo.language.masked.report import FoundResidues, ProteinPredictions
from zoo.language.masked.residues import BLANK, CLS, EOS, FIRST, MASK, PAD, STANDARD, cleaned, encoded
from zoo.language.masked.scores import TokenScores, property_loss, property_scores, token_nll
from zoo.language.updates import TokenMean, decay_groups
from zoo.metrics.properties import Collected
from zoo.nn.data_fit import DataSizes, check_fit, told
from zoo.nn.optim import with_schedule
from zoo.nn.parallel import refuse_sharding
from zoo.nn.processes import evaluated, several
from zoo.nn.ranges import Depth, Rate, Size, check_ranges
from zoo.nn.variants import Uses, refuse_unused
from zoo.reports import say

Batch = dict[str, Any]
Task = Literal["masked", "classification", "regression"]
_PROPERTIES = ("classification", "regression")
_AT_ONCE = 32
_SHOWN = 3
_USES_OF_TASK: Uses = dict.fromkeys(("targets", "probes", "freeze"), _PROPERTIES)
_ESM = tuple(name for name, (arch, _) in SHAPES.items() if arch == "esm")


class MaskedLM(LightningModule):
    """A masked language model (ESM-2, Lin et al. 2023; BERT, Devlin et al. 2019), and properties from it.

    ``task: masked``: cross-entropy of the chosen tokens alone, a mean over those of the optimiser step, all
    micro-batches and processes. Otherwise a head on the mean state of the residues predicts the columns of
    the data: cross-entropy of 0 and 1, or squared error of targets standardised by the training set. It
    begins from a masked model with ``pretrained``, or by ``--weights X --weights_fit partial``.

    For batches see :class:`datamodules.Proteins`. The mask's id is the last of the vocabulary.

    Args:
        model: whose sizes are taken where the next five are null: ``esm2-8m``, ``35m``, ``150m``, ``650m``,
            ``3b`` (rotary positions, pre-norm), ``bert-base`` (learned positions, post-norm).
        width: of the states.
        layers: blocks.
        heads: of each attention.
        hidden: inner width of the feed-forward layers.
        context: tokens, both ends included.
        vocab_size: V.
        dropout: of states, attention and head.
        token_dropout: of ESM, whose embeddings of masks are 0 and the others scaled up for it.
        task: ``masked``, ``classification`` or ``regression``.
        targets: columns that are predicted; the data know them.
        pretrained: where a fresh ``fit`` begins: a folder of transformers' EsmForMaskedLM (safetensors),
            whose sizes are taken, too; the name of bundled weights, or a ``.safetensors`` of this class.
        freeze: train the head alone.
        probes: whether ``test`` fits a linear probe to the mean state of each layer (``probes.csv``).
        compile: compile the network.
        optimizer: called with the parameters; biases, norms have no weight decay.
        lr_scheduler: called with the optimizer, every step.

    Raises:
        ValueError: for impossible settings.
    """

    data_sizes: ClassVar[DataSizes] = {"vocab_size": "vocab_size", "task": "task", "targets": "targets"}
    divides_gradients: ClassVar[bool] = True
    centre: Tensor
    scale: Tensor

    def __init__(
        self,
        model: Model = "esm2-8m",
        width: Size | None = None,
        layers: Depth | None = None,
        heads: Depth | None = None,
        hidden: Size | None = None,
        context: Size | None = None,
        vocab_size: Size = 33,
        dropout: Rate = 0.0,
        token_dropout: bool = True,
        task: Task = "masked",
        targets: list[str] | None = None,
        pretrained: str | None = None,
        freeze: bool = False,
        probes: bool = False,
        compile: bool = False,
        optimizer: OptimizerCallable = lambda p: torch.optim.AdamW(p, lr=4e-4, betas=(0.9, 0.98)),
        lr_scheduler: LRSchedulerCallable | None = None,
    ) -> None:
        check_ranges(MaskedLM, locals())
        super().__init__()
        targets = targets or None  # data without any say []
        self.save_hyperparameters(ignore=["optimizer", "lr_scheduler"])
        if model not in SHAPES:
            raise ValueError(f"model.init_args.model must be one of {', '.join(SHAPES)}, got {model!r}")
        if task not in ("masked", *_PROPERTIES):
            raise ValueError(
                f"model.init_args.task must be masked, classification or regression, got {task!r}"
            )
        refuse_unused(MaskedLM, self.hparams, "task", _USES_OF_TASK)
        refuse_unused(MaskedLM, self.hparams, "model", {"token_dropout": _ESM})
        self._pretrained = self._start_of(pretrained)
        h = self.hparams
        arch, known = SHAPES[h["model"]]
        sizes = {k: n if h[k] is None else h[k] for k, n in zip(SIZES, known, strict=True)}
        if sizes["width"] % sizes["heads"] or (arch == "esm" and sizes["width"] // sizes["heads"] % 2):
            raise ValueError(
                f"model.init_args.width is {sizes['width']}, which {sizes['heads']} heads do not divide "
                f"into {'even ' if arch == 'esm' else ''}widths: choose other model.init_args.heads"
            )
        if vocab_size <= FIRST + 1:
            raise ValueError(
                f"model.init_args.vocab_size is {vocab_size}: {FIRST} tokens and a mask are special"
            )
        self.sizes = sizes
        self.optimizer, self.lr_scheduler = optimizer, lr_scheduler
        names = list(targets or ["target"]) if task != "masked" else []
        outputs = len(names) or None
        self.network = MaskedNetwork(arch, h["vocab_size"], sizes, dropout, token_dropout, outputs)
        for name, value in (("centre", 0.0), ("scale", 1.0)):
            self.register_buffer(name, torch.full((max(1, len(names)),), value))
        if freeze:
            self.network.model.requires_grad_(False)
        self.update = TokenMean()
        self.token_scores = TokenScores()
        self.collected = Collected(len(names))

    def _start_of(self, pretrained: str | None) -> str | None:
        """What a fresh training begins with; its sizes become those of the module, which then no longer needs
        it to be built."""
        if pretrained is None:
            return None
        from zoo.language.masked.weights import sizes_of

        for key, value in sizes_of(pretrained).items():
            given = self.hparams[key]
            if key in SIZES and given is not None and given != value:
                raise ValueError(
                    f"model.init_args.{key} is {given}, but {pretrained} has {value}: leave it out"
                )
            self.hparams[key] = value
        self.hparams["pretrained"] = None
        return pretrained

    # --- set-up -----------------------------------------------------------------------------------------

    def setup(self, stage: str) -> None:
        refuse_sharding(self)
        check_fit(self, targets=lambda own, found: (own or []) == found)
        data = getattr(self.trainer, "datamodule", None)
        longest = told(data, "longest")
        if longest is not None and longest + 2 > self.sizes["context"]:
            raise ValueError(
                f"data.init_args.longest is {longest}, which with both ends is more than the context of "
                f"{self.sizes['context']} (model.init_args.context): lower the one, or raise the other"
            )
        if stage == "fit" and self.trainer.ckpt_path is None:
            if self._pretrained is not None and not getattr(self, "_given_weights", False):
                from zoo.language.masked.weights import start_from

                say(f"starts from {start_from(self.network, self._pretrained)}")
            self._standardise(data)
        if self.hparams["compile"]:
            self.network.compile()

    def load_state_dict(self, *args: Any, **kwargs: Any) -> Any:
        self._given_weights = True  # a fine-tuning starts from these, not from `pretrained`
        return super().load_state_dict(*args, **kwargs)

    def _standardise(self, data: Any) -> None:
        """Mean and standard deviation of the training targets."""
        if self.hparams["task"] != "regression":
            return
        targets = np.asarray(data.train_set.targets, dtype=np.float64)
        mean, spread = np.nanmean(targets, axis=0), np.nanstd(targets, axis=0)
        self.centre.copy_(torch.from_numpy(np.nan_to_num(mean)))
        self.scale.copy_(torch.from_numpy(np.where(np.nan_to_num(spread) > 0, spread, 1.0)))

    def configure_optimizers(self) -> Any:
        made = self.optimizer(decay_groups(self.network))
        return with_schedule(made, self.lr_scheduler)

    # --- training ---------------------------------------------------------------------------------------

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        out = self.network(batch["ids"])
        if self.hparams["task"] == "masked":
            summed, _ = token_nll(out, batch["labels"])
            count = (batch["labels"] != -100).sum()
        else:
            summed, count = property_loss(self.hparams["task"], out, self._standard(batch["target"]))
        # a batch without a mask has a loss of 0, with a gradient of 0
        return self.update.add(self, summed.float() + 0.0 * out.float().sum(), count)

    def on_before_optimizer_step(self, optimizer: Any) -> None:
        loss, count = self.update.divide(self)
        self.log("train/loss", loss, prog_bar=True, batch_size=1)
        self.log("train/count", count, batch_size=1)

    def _standard(self, target: Tensor) -> Tensor:
        return (target - self.centre) / self.scale if self.hparams["task"] == "regression" else target

    # --- evaluation -------------------------------------------------------------------------------------

    def _evaluate(self, batch: Batch) -> None:
        out = self.network(batch["ids"])
        if self.hparams["task"] == "masked":
            self.token_scores.update(out, batch["labels"])
            return
        answer = self._answer(out)
        self.collected.update(answer, torch.zeros_like(answer), batch["target"])

    def _answer(self, out: Tensor) -> Tensor:
        """Probabilities, or numbers in the units of the data."""
        return out.sigmoid() if self.hparams["task"] == "classification" else out * self.scale + self.centre

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        self._evaluate(batch)

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        self._evaluate(batch)

    def on_validation_epoch_end(self) -> None:
        self._report("val")

    def on_test_epoch_end(self) -> None:
        self._report("test")
        if self.hparams["probes"]:
            self._probe()

    def _report(self, stage: str) -> None:
        if self.hparams["task"] == "masked":
            found = {k: float(v) for k, v in self.token_scores.compute().items()}
            self.token_scores.reset()
        else:
            predicted, _, target = self.collected.compute().cpu().numpy()
            self.collected.reset()
            found = property_scores(self.hparams["task"], predicted, target) if len(target) else {}
        shown = {"perplexity", "roc_auc", "rmse"}
        for name, value in found.items():
            if np.isfinite(value):  # of no masked token, of one class alone
                self.log(f"{stage}/{name}", value, prog_bar=name in shown, rank_zero_only=False)

    # --- what the layers know ---------------------------------------------------------------------------

    def _probe(self) -> None:
        if several():
            raise ValueError("model.init_args.probes are fitted in one process: give --trainer.devices 1")
        data: Any = self.trainer.datamodule  # type: ignore[attr-defined]
        sides = [(self.layer_states(s.sequences), s.targets) for s in (data.train_set, data.test_set)]
        found = probe_scores(self.hparams["task"], *sides[0], *sides[1])
        for layer, value in enumerate(found):
            if np.isfinite(value):
                self.log(f"test/probe_layer_{layer}", value)
        if self.trainer.log_dir is not None:
            write_probes(Path(self.trainer.log_dir) / "probes.csv", self.hparams["task"], found)

    def _batches(self, sequences: Sequence[str]) -> Any:
        longest = self.sizes["context"] - 2
        for start in range(0, len(sequences), _AT_ONCE):
            rows = [encoded(s[:longest]) for s in sequences[start : start + _AT_ONCE]]
            ids = torch.full((len(rows), max(map(len, rows)) + 2), PAD)
            for row, found in zip(ids, rows, strict=True):
                row[0], row[len(found) + 1] = CLS, EOS
                row[1 : len(found) + 1] = torch.from_numpy(found)
            yield ids.to(self.device)

    @torch.no_grad()
    def layer_states(self, sequences: Sequence[str]) -> Any:
        """Mean states of the residues, float32 (N, layers + 1, hidden): embeddings first, then each layer."""
        with evaluated(self.network):
            parts = [
                torch.stack([self.network.pooled(s, ids) for s in self.network.states(ids)], dim=1).float()
                for ids in self._batches(sequences)
            ]
        return torch.cat(parts).cpu().numpy()

    def embed(self, sequences: Sequence[str]) -> Any:
        """One vector a sequence, float32 (N, hidden): the mean of the last layer's states of its residues.

        ``zoo.load("masked_lm_peptides").embed(["GIGKFLHSAKKFGKAFVGEIMNS"])``

        Raises:
            ValueError: for a letter that is no residue.
        """
        return self.layer_states([cleaned(s) for s in sequences])[:, -1]

    def fit_contacts(self, sequences: Sequence[str], contacts: Sequence[Any]) -> None:
        """Fit the contact head: an L1 logistic regression on corrected attention maps.

        Args:
            sequences: a few, 20 in the paper.
            contacts: (L, L) of 0 and 1 of each, NaN where it is not known.

        Raises:
            ValueError: for a model without attention maps of ESM, or maps that do not fit.
        """
        maps = [self._features(s) for s in sequences]
        weights, bias = fitted(maps, contacts)
        regression = self.network.trunk.contact_head.regression
        with torch.no_grad():
            regression.weight.copy_(torch.from_numpy(weights)[None])
            regression.bias.fill_(bias)

    def predict_contacts(self, sequence: str) -> Any:
        """Probabilities (L, L) that two residues touch, by the contact head, which ``fit_contacts`` or
        official weights have filled."""
        with torch.no_grad():
            logits = self.network.trunk.contact_head.regression(self._features(sequence))
        return logits.squeeze(-1).sigmoid().cpu().numpy()

    def _features(self, sequence: str) -> Tensor:
        if self.network.arch != "esm":
            raise ValueError(f"contacts are read from ESM's attention, but model is {self.hparams['model']}")
        with evaluated(self.network):
            return features(self.network.attentions(next(self._batches([cleaned(sequence)])))[0])

    # --- predictions ------------------------------------------------------------------------------------

    def predict_step(self, batch: Batch, batch_idx: int) -> FoundResidues | ProteinPredictions:
        h, index = self.hparams, batch["index"].tolist()
        out = self.network(batch["ids"])
        if h["task"] != "masked":
            answer, names = self._answer(out).float().cpu(), list(h["targets"] or ["target"])
            return ProteinPredictions(
                batch["name"], batch["sequence"], answer, batch["target"].cpu(), index, names, h["task"]
            )
        probability = out.float().softmax(dim=-1)
        wanted, places = batch["labels"], []
        for row in range(len(index)):
            found = []
            for at in (wanted[row] != -100).nonzero().flatten().tolist():
                top = probability[row, at, FIRST : FIRST + STANDARD].topk(_SHOWN)
                best = [
                    (FIRST + i, p) for i, p in zip(top.indices.tolist(), top.values.tolist(), strict=True)
                ]
                truth = int(wanted[row, at])
                found.append((at - 1, int(batch["ids"][row, at]), None if truth == MASK else truth, best))
            places.append(found)
        return FoundResidues(batch["name"], batch["sequence"], places, index)

    def fill(self, sequence: str) -> list[dict[str, float]]:
        """For each ``_`` of a sequence the probabilities of the 20 residues, likeliest first.

        ``zoo.load("masked_lm_peptides").fill("GIGKFLHS_KKFGKAF_GEIMNS")``

        Raises:
            ValueError: for a sequence without ``_``, or another letter that is no residue.
        """
        text = cleaned(sequence, blanks=True)
        if self.hparams["task"] != "masked":
            raise ValueError(f"these weights predict {', '.join(self.hparams['targets'] or [])}, no residues")
        if BLANK not in text:
            raise ValueError("write _ for each residue that is to be found")
        ids = next(self._batches([text]))
        with torch.no_grad(), evaluated(self.network):
            logits = self.network(ids)[0][ids[0] == MASK][:, FIRST : FIRST + STANDARD]
        return [ranked(row) for row in logits.float().softmax(dim=-1)]

    # --- export -----------------------------------------------------------------------------------------

    dynamic_dims: ClassVar[Mapping[str, Mapping[int, str]]] = {"ids": {0: "batch"}}

    def example_inputs(self, batch: int) -> dict[str, Tensor]:
        """Sequences of eight residues."""
        ids = torch.arange(FIRST, FIRST + 8, device=self.device) % (self.hparams["vocab_size"] - 1)
        row = torch.cat([ids.new_tensor([CLS]), ids, ids.new_tensor([EOS])])
        return {"ids": row.expand(batch, -1).clone()}


def ranked(probability: Tensor) -> dict[str, float]:
    """Residues by their probability (20,), largest first."""
    from zoo.language.masked.residues import ALPHABET

    order = probability.argsort(descending=True, stable=True).tolist()
    return {ALPHABET[FIRST + i]: float(probability[i]) for i in order}
