"""The SeqCo LightningModule: its arguments, an update with the target network after it, what is logged."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor

from zoo.metrics.rouge import RougeTokenizer
from zoo.nn.data_fit import DataSizes, check_fit, told
from zoo.nn.kept_tokenizer import KeptTokenizer
from zoo.nn.optim import with_schedule
from zoo.nn.parallel import refuse_sharding
from zoo.nn.ranges import (
    Count,
    CountOrZero,
    Depth,
    DepthOrZero,
    Finite,
    Fraction,
    NonNegative,
    Positive,
    Range,
    Rate,
    Share,
    Size,
    SizeOrZero,
    check_ranges,
)
from zoo.nn.settings import settings_of
from zoo.reports import say, write_protocol
from zoo.seqco import backbones
from zoo.seqco.evaluation import Evaluation
from zoo.seqco.network import SeqCoNetwork, Similarity
from zoo.seqco.objective import Objective, contrasted, weights_of
from zoo.seqco.report import GeneratedSummaries
from zoo.seqco.settings import check, check_lengths, check_policy, check_positions, special_tokens
from zoo.seqco.summariser import Summariser
from zoo.seqco.update import Collapse, Update
from zoo.seqco.views import Comparison, Representation, ViewFormat
from zoo.seqco.weighting import schedule, targets_of

TokenOrNone = Annotated[int, Range(-1, 10**6)]
"""An id, or -1 where the tokenizer has no such token."""


class SeqCo(LightningModule):
    """Sequence-level contrastive learning for summarisation (Xu et al., AAAI 2022), on any encoder-decoder.

    L = L_NLL + w_xy L_sim(x, y) + w_xyhat L_sim(x, yhat) + w_yyhat L_sim(y, yhat): document, gold summary
    and one that the model draws are views of one meaning, made alike without negatives (BYOL). With all
    weights 0 nothing is built and nothing drawn: plain fine-tuning, to the bit.

    The target network xi is no average that :class:`zoo.engine.ema.EMA` could keep: it takes part in every
    forward pass of the training, and that callback's shadow exists outside of the network and is swapped in
    for evaluation. It follows here, after each optimiser step, and is part of the state dict. ``ema.decay``
    may average the summariser besides.

    A batch is a dict with ``source`` and ``target``, int64 (B, S) and (B, T) as ``<s> tokens </s>``, their
    ``source_mask`` and ``target_mask``, bool, and ``index``; ``yhat`` and ``yhat_mask`` where summaries are
    cached; in evaluation the texts ``document``, ``summary`` and ``name``, lists of B, and ``truncated``,
    bool (B,). A prediction needs no target.

    Args:
        backbone: hub id, local folder of transformers, or ``bart``, ``pegasus``, ``t5`` or ``led``.
        sizes: entries of its config that are otherwise: ``{d_model: 64, encoder_layers: 2}``.
        pretrained: weights that a fresh training starts from: hub id, folder, or fairseq's ``model.pt``.
        vocab_size: of the tokenizer; with its ids below taken from the data.
        pad_token_id: of ``<pad>``.
        eos_token_id: of ``</s>``.
        bos_token_id: of ``<s>``; -1 for none (T5, PEGASUS).
        special_ids: further ids that are no text.
        decoder_start: what a decoder begins with; null is ``eos`` for BART and LED, else ``pad``.
        weight_xy: of document and gold summary: a number, or ``step:value,step:value``.
        weight_xyhat: of document and generated summary.
        weight_yyhat: of gold and generated summary.
        weight_policy: of the policy gradient, an option of the official code: where summaries are drawn, the
            tokens that are like the document become likelier.
        policy_baseline: ``mean`` subtracts the mean reward of the micro-batch.
        contrast_reduction: ``token_sum``: L_NLL is a sum over target tokens and each L_sim a mean of a
            micro-batch, all divided by tokens plus sequences (official); ``mean``: added to the token mean.
        symmetrical: both directions of a pair, summed.
        similarity: ``cross_attention``, ``cls`` (first token and a predictor), ``queue`` (MoCo: first token
            against keys of earlier updates, an option of the official code) or ``in_batch`` (InfoNCE over the
            micro-batch, an ablation).
        temperature: of ``in_batch`` and ``queue``; 1 in the official queue.
        queue_size: keys of each view.
        representation: ``encoder``, or ``decoder``: y and yhat are represented by decoder states over x.
        mask_padding: false takes pads for tokens of the similarity, as the official code does.
        view_format: ``natural`` or ``shifted`` (official: views in the form of decoder inputs).
        target_dropout: dropout in the target network, as in the official code.
        ema_decay: beta of the target network; 0 is the stop-gradient siamese network.
        detach_encoder: L_sim trains g and omega alone, the control.
        monitor: build and report the similarities though all weights are 0; nothing of them is trained.
        reuse_source: the encoder states of the NLL pass serve as those of x, too: one pass less.
        restart_at: update up to which the NLL alone is trained; there xi = theta, the optimiser's moments
            start anew, and schedules count from there.
        generated: ``online``, drawn by the current model; ``cached``, the data's column ``yhat``.
        sample_every: updates between those that draw; the others leave pairs with yhat out.
        sample_length: tokens of a drawn summary, the start token included (``gen_sum_len``).
        sample_top_p: nucleus; 1 is the full softmax.
        sample_beams: more than 1 searches instead of drawing.
        label_smoothing: eps.
        beams: of the evaluation; those of CNN/DailyMail are the defaults.
        length_penalty: likewise.
        min_length: with the start token.
        max_length: with the start token.
        no_repeat_ngram: 0 allows repetition.
        force_bos: the first token is ``<s>``.
        candidates: summaries of each document that a prediction writes, at most ``beams``.
        generate_batches: of a validation, for which summaries are generated; null is all of them.
        rouge_tokenizer: ``latin``, ``words`` or ``characters``.
        bertscore: folder of an encoder of transformers, or a hub id, for BERTScore in tests.
        bertscore_layer: of its states, see :class:`zoo.metrics.bertscore.BertScore`; null is the last.
        gradient_checkpointing: recompute layers in the backward pass.
        compile: compile the backbone's encoder and decoder.
        optimizer: called with the parameters that are trained.
        lr_scheduler: called with the optimizer, stepped every optimiser step.

    Raises:
        ValueError: for impossible settings.
    """

    data_sizes: ClassVar[DataSizes] = {
        "vocab_size": "vocab_size",
        "pad_token_id": "pad_token_id",
        "eos_token_id": "eos_token_id",
        "bos_token_id": "bos_token_id",
        "special_ids": "special_ids",
    }
    divides_gradients = True
    first_spread: Tensor
    reference: Tensor

    def __init__(
        self,
        backbone: str = "facebook/bart-large",
        sizes: dict[str, Any] | None = None,
        pretrained: str | None = None,
        vocab_size: Size = 50265,
        pad_token_id: SizeOrZero = 1,
        eos_token_id: SizeOrZero = 2,
        bos_token_id: TokenOrNone = 0,
        special_ids: Sequence[SizeOrZero] = (3, 50264),
        decoder_start: Literal["eos", "pad", "bos"] | None = None,
        weight_xy: NonNegative | str = 0.0,
        weight_xyhat: NonNegative | str = 0.5,
        weight_yyhat: NonNegative | str = 0.0,
        weight_policy: NonNegative | str = 0.0,
        policy_baseline: Literal["none", "mean"] = "none",
        contrast_reduction: Literal["token_sum", "mean"] = "token_sum",
        symmetrical: bool = True,
        similarity: Similarity = "cross_attention",
        temperature: Positive = 0.1,
        queue_size: Size = 10_000,
        representation: Representation = "encoder",
        mask_padding: bool = True,
        view_format: ViewFormat = "natural",
        target_dropout: bool = False,
        ema_decay: Fraction = 0.99,
        detach_encoder: bool = False,
        monitor: bool = False,
        reuse_source: bool = False,
        restart_at: CountOrZero = 0,
        generated: Literal["online", "cached"] = "online",
        sample_every: Count = 1,
        sample_length: Size = 140,
        sample_top_p: Share = 1.0,
        sample_beams: Depth = 1,
        label_smoothing: Rate = 0.1,
        beams: Depth = 4,
        length_penalty: Finite = 2.0,
        min_length: SizeOrZero = 56,
        max_length: Size = 142,
        no_repeat_ngram: DepthOrZero = 3,
        force_bos: bool = True,
        candidates: Depth = 1,
        generate_batches: CountOrZero | None = None,
        rouge_tokenizer: RougeTokenizer = "latin",
        bertscore: str | None = None,
        bertscore_layer: DepthOrZero | None = None,
        gradient_checkpointing: bool = False,
        compile: bool = False,
        optimizer: OptimizerCallable = lambda p: torch.optim.AdamW(p, lr=4e-5, weight_decay=0.01),
        lr_scheduler: LRSchedulerCallable | None = None,
    ) -> None:
        check_ranges(SeqCo, locals())
        super().__init__()
        special_ids = list(special_ids)
        settings = backbones.settings(backbone, sizes)
        if backbone not in backbones.FAMILIES:
            # a checkpoint is built again without the folder or the hub
            backbone, sizes = settings["model_type"], {k: v for k, v in settings.items() if k != "model_type"}
        self.save_hyperparameters(ignore=["optimizer", "lr_scheduler"])
        self.hparams["backbone"], self.hparams["sizes"] = backbone, sizes
        self.optimizer, self.lr_scheduler = optimizer, lr_scheduler
        weights = weights_of(self.hparams)
        self.contrasted = contrasted(weights)
        check(SeqCo, self.hparams, weights)
        check_policy(self.hparams, weights, schedule(weight_policy, "model.init_args.weight_policy"))
        self.special = special_tokens(self.hparams, settings["model_type"])
        how = Comparison(self.special, **settings_of(Comparison, self.hparams))
        ids = {key: self.hparams[key] for key in ("vocab_size", "pad_token_id", "eos_token_id")}
        ids |= {"bos_token_id": self.special.bos, "decoder_start_token_id": self.special.start}
        queued = targets_of(weights, symmetrical), queue_size
        self.network = SeqCoNetwork(
            settings, ids, self.contrasted or monitor, similarity, representation == "decoder",
            target_dropout, queued=queued,
        )  # fmt: skip
        if monitor and not self.contrasted:
            self.network.freeze_compared()
        draws = self.contrasted and not all(weights[p].is_zero for p in ("xyhat", "yyhat"))
        check_positions(self.hparams, self.network.backbone.config, draws and generated == "online")
        if gradient_checkpointing:
            self.network.backbone.gradient_checkpointing_enable({"use_reentrant": False})
        self.vocabulary = KeptTokenizer()
        self.summariser = Summariser(self.network, self.hparams, self.special, self.vocabulary)
        # of the features at the first contrastive step; loss, spread of states and of features at the switch
        self.register_buffer("first_spread", torch.zeros(()))
        self.register_buffer("reference", torch.zeros(3))
        self.update, self.collapse = Update(), Collapse()
        self.objective = Objective(self.network, how, self.hparams)
        self.evaluation = Evaluation(self.objective, self.summariser, self.hparams)

    # --- what the data decide -------------------------------------------------------------------------------

    def setup(self, stage: str) -> None:
        refuse_sharding(self)
        data = getattr(self.trainer, "datamodule", None)
        check_fit(self)
        self.vocabulary.take(data)
        lengths = {key: told(data, key) for key in ("max_source", "max_target")}
        check_lengths(lengths, self.network.backbone.config)
        if stage == "fit" and self.trainer.ckpt_path is None:
            self._start_fresh()
        if self.hparams["compile"]:
            for part in (self.network.backbone.get_encoder(), self.network.backbone.get_decoder()):
                part.compile()

    def _start_fresh(self) -> None:
        """Pretrained weights, then xi = theta: a target made before would be a random one."""
        source = self.hparams["pretrained"]
        if source and not getattr(self, "_given_weights", False):
            from zoo.seqco.weights import start_from

            self.print(f"zoo: starts from {start_from(self.network.backbone, source)}")
        if self.network.compared:
            self.network.reset_target()

    def load_state_dict(self, *args: Any, **kwargs: Any) -> Any:
        self._given_weights = True  # a fine-tuning starts from these, not from `pretrained`
        return super().load_state_dict(*args, **kwargs)

    def configure_optimizers(self) -> Any:
        trained = [p for p in self.network.parameters() if p.requires_grad]
        return with_schedule(self.optimizer(trained), self.lr_scheduler)

    # --- training -------------------------------------------------------------------------------------------

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        rows, found = len(batch["source"]), self.objective(batch, self.trainer.global_step)
        self.log("train/nll", found.nll, prog_bar=True, batch_size=rows, sync_dist=True)
        for pair, loss in found.pairs.items():
            self.log(f"train/loss_{pair}", loss, batch_size=rows, sync_dist=True)
        if found.policy is not None:
            for name, value in zip(("policy", "reward"), found.policy, strict=True):
                self.log(f"train/{name}", value, batch_size=rows, sync_dist=True)
        if found.spreads is not None:
            self.collapse.watch(self, *found.spreads, rows)
        self.update.add(found)
        return found.loss * self.trainer.accumulate_grad_batches

    def on_before_optimizer_step(self, optimizer: Any) -> None:
        """Divide the summed gradients by what this update has seen, over all micro-batches and ranks."""
        self.update.divide(self)

    def optimizer_step(
        self, epoch: int, batch_idx: int, optimizer: Any, optimizer_closure: Any = None
    ) -> None:
        """The step, then xi = beta xi + (1 - beta) theta, before anything is saved."""
        super().optimizer_step(epoch, batch_idx, optimizer, optimizer_closure)
        self.update.finish(self, optimizer)

    # --- evaluation -----------------------------------------------------------------------------------------

    def generate(self, source: Tensor, mask: Tensor, candidates: int = 1) -> Tensor:
        """See :meth:`zoo.seqco.summariser.Summariser.generate`."""
        return self.summariser.generate(source, mask, candidates)

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        limit = self.hparams["generate_batches"]
        self.evaluation.update(batch, limit is None or batch_idx < limit)

    def test_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        self.evaluation.update(batch, True, tests=True)

    def on_validation_epoch_end(self) -> None:
        self.evaluation.log(self, "val")

    def on_test_epoch_end(self) -> None:
        folder, row = self.trainer.log_dir, self.evaluation.row()  # both ask all processes
        self.evaluation.log(self, "test")
        say(f"numbers by {self.evaluation.protocol}")
        write_protocol(folder, {"generated": row})

    # --- predictions ----------------------------------------------------------------------------------------

    def predict_step(self, batch: dict[str, Any], batch_idx: int) -> GeneratedSummaries:
        return self.evaluation.report(batch)

    def summarize(self, documents: str | Path | Sequence[str], batch_size: int = 8) -> list[str]:
        """A summary of each document, best first of the module's search.

        ``zoo.load("seqco_procedural").summarize(["on rose tulip painting had ..."])``. What a document has
        beyond the model's positions is cut off, which is said.

        Args:
            documents: texts; a single string is one document. A ``pathlib.Path`` is a file in UTF-8: one
                document a line, blank lines left out, or ``.jsonl`` with a text under ``document``.
            batch_size: documents at a time.

        Returns:
            as many summaries as there are documents.

        Raises:
            FileNotFoundError, OSError: for a file that cannot be read.
            ValueError: for an empty document, a file that is huge or no text in UTF-8, a string that names a
                file, weights without a tokenizer.
        """
        return self.summariser.summarize(documents, batch_size)

    # --- export ---------------------------------------------------------------------------------------------

    dynamic_dims: ClassVar[dict[str, dict[int, str]]] = {
        "input_ids": {0: "batch"},
        "attention_mask": {0: "batch"},
        "decoder_input_ids": {0: "batch"},
    }

    def example_inputs(self, batch: int) -> dict[str, Tensor]:
        """Random documents and decoder inputs."""
        shape, size = (batch, 16), self.hparams["vocab_size"]
        ids = torch.randint(size, shape, device=self.device)
        return {
            "input_ids": ids,
            "attention_mask": torch.ones(shape, dtype=torch.bool, device=self.device),
            "decoder_input_ids": torch.randint(size, (batch, 8), device=self.device),
        }
