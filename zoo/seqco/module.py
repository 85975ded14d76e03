"""The SeqCo LightningModule: losses and their weights, online summaries, the target network, evaluation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, get_args

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor
from torchmetrics import MeanMetric, Metric, SumMetric

from zoo.metrics.epoch_end import log_and_reset
from zoo.metrics.rouge import Rouge, RougeTokenizer
from zoo.metrics.spread import Spread
from zoo.metrics.summaries import SummaryStatistics
from zoo.nn.data_fit import DataSizes, check_fit, told
from zoo.nn.kept_tokenizer import KeptTokenizer
from zoo.nn.optim import with_schedule
from zoo.nn.parallel import refuse_sharding
from zoo.nn.precision import ExactModuleDict
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
from zoo.nn.variants import Uses, refuse_unused
from zoo.randomness import global_seed
from zoo.reports import say
from zoo.seqco import backbones
from zoo.seqco.network import SeqCoNetwork, Similarity, View
from zoo.seqco.report import GeneratedSummaries
from zoo.seqco.sampling import Special, ordinary, sample, uniform_draws, wrapped
from zoo.seqco.similarity import mean_token_loss, spread
from zoo.seqco.summariser import Summariser
from zoo.seqco.views import Comparison, Representation, ViewFormat, Views
from zoo.seqco.weighting import PAIRS, Pair, directions, schedule

TokenOrNone = Annotated[int, Range(-1, 10**6)]
"""An id, or -1 where the tokenizer has no such token."""
_COLLAPSED = 0.1  # of the first spread
_USES: dict[str, Uses] = {
    "similarity": {"temperature": ("in_batch",), "mask_padding": ("cross_attention", "in_batch")},
    "generated": {
        "sample_every": ("online",),
        "sample_beams": ("online",),
        "sample_top_p": ("online",),
    },
}


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
        contrast_reduction: ``token_sum``: L_NLL is a sum over target tokens and each L_sim a mean of a
            micro-batch, all divided by tokens plus sequences (official); ``mean``: added to the token mean.
        symmetrical: both directions of a pair, summed.
        similarity: ``cross_attention``, ``cls`` (first token and a predictor) or ``in_batch`` (InfoNCE over
            the micro-batch, an ablation).
        temperature: of ``in_batch``.
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
        contrast_reduction: Literal["token_sum", "mean"] = "token_sum",
        symmetrical: bool = True,
        similarity: Similarity = "cross_attention",
        temperature: Positive = 0.1,
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
        self._check()
        self.optimizer, self.lr_scheduler = optimizer, lr_scheduler
        self.weights = {
            p: schedule(self.hparams[f"weight_{p}"], f"model.init_args.weight_{p}") for p in PAIRS
        }
        self.contrasted = any(not w.is_zero for w in self.weights.values())
        if representation == "decoder" and self.weights["yyhat"].is_zero:
            raise ValueError(
                "model.init_args.representation is decoder, which is for y and yhat where they are compared; "
                "set model.init_args.weight_yyhat, or leave it out"
            )
        self.special = self._special(settings["model_type"])
        self.how = Comparison(
            self.special, symmetrical, similarity, mask_padding, view_format, representation, temperature,
            detach_encoder,
        )  # fmt: skip
        ids = {key: self.hparams[key] for key in ("vocab_size", "pad_token_id", "eos_token_id")}
        ids |= {"bos_token_id": self.special.bos, "decoder_start_token_id": self.special.start}
        self.network = SeqCoNetwork(
            settings, ids, self.contrasted or monitor, similarity, representation == "decoder", target_dropout
        )
        if monitor and not self.contrasted:
            for part in ("head", "attention", "predictor"):
                if hasattr(self.network, part):
                    getattr(self.network, part).requires_grad_(False)
        self._check_positions()
        if gradient_checkpointing:
            self.network.backbone.gradient_checkpointing_enable({"use_reentrant": False})
        self.vocabulary = KeptTokenizer()
        self.summariser = Summariser(self.network, self.hparams, self.special, self.vocabulary)
        # of the features at the first contrastive step; loss, spread of states and of features at the switch
        self.register_buffer("first_spread", torch.zeros(()))
        self.register_buffer("reference", torch.zeros(3))
        self._seen = 0.0  # tokens and sequences of this update
        self._parts = 0
        self._warned = False
        self._make_metrics()

    def _check(self) -> None:
        h = self.hparams
        for choice, uses in _USES.items():
            refuse_unused(SeqCo, h, choice, uses)
        words = {"similarity": Similarity, "representation": Representation, "view_format": ViewFormat}
        for key, choices in words.items():
            if h[key] not in get_args(choices):
                raise ValueError(f"{key} must be one of {', '.join(get_args(choices))}, got {h[key]!r}")
        pairs = {"contrast_reduction": ("token_sum", "mean"), "generated": ("online", "cached")}
        for key, allowed in pairs.items():
            if h[key] not in allowed:
                raise ValueError(f"{key} must be one of {', '.join(allowed)}, got {h[key]!r}")
        if h["decoder_start"] not in (None, "eos", "pad", "bos"):
            raise ValueError(f"decoder_start must be null, eos, pad or bos, got {h['decoder_start']!r}")
        if h["min_length"] > h["max_length"]:
            raise ValueError(
                f"model.init_args.min_length is {h['min_length']}, more than max_length {h['max_length']}"
            )
        if h["candidates"] > h["beams"]:
            raise ValueError(f"model.init_args.candidates is {h['candidates']}, more than beams {h['beams']}")
        if h["sample_length"] < 2:
            raise ValueError("model.init_args.sample_length must be at least 2: the start token and one more")
        if h["representation"] == "decoder" and h["view_format"] == "shifted":
            raise ValueError(
                "view_format: shifted is a form of encoder inputs; leave it out with representation: decoder"
            )

    def _special(self, kind: str) -> Special:
        h = self.hparams
        ids = [h["pad_token_id"], h["eos_token_id"], *h["special_ids"], h["bos_token_id"]]
        if max(ids) >= h["vocab_size"]:
            raise ValueError(
                f"model.init_args.vocab_size is {h['vocab_size']}, but a special token has the id {max(ids)}"
            )
        start = h["decoder_start"] or ("eos" if kind in ("bart", "led", "mbart") else "pad")
        if h["bos_token_id"] < 0 and start == "bos":
            raise ValueError("decoder_start: bos needs a bos_token_id, which is -1")
        bos = None if h["bos_token_id"] < 0 else h["bos_token_id"]
        return Special(
            h["pad_token_id"], h["eos_token_id"], bos, h[f"{start}_token_id"], tuple(h["special_ids"])
        )

    def _check_positions(self) -> None:
        config = self.network.backbone.config
        longest = backbones.target_positions_of(config)
        sampled = self.contrasted and not all(self.weights[p].is_zero for p in ("xyhat", "yyhat"))
        for key in ("max_length", *["sample_length"] * (sampled and self.hparams["generated"] == "online")):
            if longest is not None and self.hparams[key] > longest:
                raise ValueError(
                    f"model.init_args.{key} is {self.hparams[key]}, but the decoder has {longest} positions"
                )

    def _make_metrics(self) -> None:
        width = backbones.width_of(self.network.backbone.config)
        parts: dict[str, Metric] = {"nll": MeanMetric()}
        if self.network.compared:
            parts |= {f"loss_{pair}": MeanMetric() for pair in PAIRS}
            parts |= {"encoder_spread": Spread(width), "feature_spread": Spread(width)}
        self.eval_metrics: Any = ExactModuleDict(parts)
        self.text_metrics: Any = ExactModuleDict(
            {
                "rouge": Rouge(self.hparams["rouge_tokenizer"]),
                "statistics": SummaryStatistics(),
                "truncated_sources": SumMetric(),
            }
        )

    # --- what the data decide -------------------------------------------------------------------------------

    def setup(self, stage: str) -> None:
        refuse_sharding(self)
        data = getattr(self.trainer, "datamodule", None)
        check_fit(self)
        self.vocabulary.take(data)
        for key, positions in (
            ("max_source", backbones.positions_of(self.network.backbone.config)),
            ("max_target", backbones.target_positions_of(self.network.backbone.config)),
        ):
            found = told(data, key)
            if found is not None and positions is not None and found > positions:
                raise ValueError(
                    f"data.init_args.{key} is {found}, but the model has {positions} positions; set "
                    f"data.init_args.{key}: {positions}, or model.init_args.sizes to a model with more"
                )
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

    def _views_of(self, batch: Mapping[str, Any], yhat: View | None, states: Tensor | None) -> Views:
        given = {"x": View(batch["source"], batch["source_mask"])}
        if "target" in batch:
            given["y"] = View(batch["target"], batch["target_mask"])
        if yhat is not None:
            given["yhat"] = yhat
        return Views(self.network, self.how, given, states)

    def _weights_now(self) -> dict[Pair, float]:
        """Weights of the pairs in use at this update; those at 0 are not."""
        update = self.trainer.global_step - self.hparams["restart_at"]
        if not self.contrasted or update < 0:
            return {}
        found = {pair: weight(update) for pair, weight in self.weights.items()}
        if self.hparams["generated"] == "online" and update % self.hparams["sample_every"]:
            found = {"xy": found["xy"]}
        return {pair: value for pair, value in found.items() if value}

    def _decoder_inputs(self, target: Tensor) -> Tensor:
        start = torch.full_like(target[:, :1], self.special.start)
        return torch.cat([start, target[:, :-1]], dim=1)

    def _yhat(self, batch: Mapping[str, Any]) -> View:
        """Generated summaries of a micro-batch: drawn for this update and document, or the data's own."""
        h, width = self.hparams, 0 if self.how.mask_padding else self.hparams["sample_length"]
        if h["generated"] == "cached":
            if "yhat" not in batch:
                raise ValueError(
                    "model.init_args.generated is cached, but the data have no column yhat: jsonl with such "
                    "a field (data.init_args.yhat_field), or generated: online"
                )
            return View(
                batch["yhat"], batch["yhat_mask"], batch["yhat_mask"].sum(dim=1) > self.special.fewest
            )
        uniform = uniform_draws(
            global_seed(), self.trainer.global_step, batch["index"].tolist(), h["sample_length"] - 1
        )
        drawn = sample(
            self.network.backbone, batch["source"], batch["source_mask"], self.special, uniform,
            h["sample_top_p"], h["sample_beams"],
        )  # fmt: skip
        return self._view_of(drawn, width)

    def _view_of(self, drawn: Tensor, width: int = 0) -> View:
        rows = ordinary(drawn, self.special)
        ids, mask = (t.to(drawn.device) for t in wrapped(rows, self.special, width))
        return View(ids, mask, torch.tensor([bool(row) for row in rows], device=drawn.device))

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        labels = batch["target"].masked_fill(~batch["target_mask"], -100)
        logits, states = self.network.logits_and_states(
            batch["source"], batch["source_mask"], self._decoder_inputs(batch["target"])
        )
        total, tokens = mean_token_loss(logits, labels, self.hparams["label_smoothing"])
        weights, rows = self._weights_now(), len(labels)
        self.log("train/nll", (total / tokens).detach(), prog_bar=True, batch_size=rows, sync_dist=True)
        loss, counted = total, float(tokens)
        if weights:
            contrast, sequences = self._contrast(batch, weights, states)
            if self.hparams["contrast_reduction"] == "token_sum":
                loss, counted = loss + contrast, counted + sequences
            else:  # so that the division by all tokens of the update leaves the weighted mean of L_sim
                loss = loss + contrast * counted
        elif self.contrasted:
            # DDP waits for a gradient of every parameter
            others = [
                p for n, p in self.network.named_parameters() if p.requires_grad and "backbone" not in n
            ]
            loss = loss + 0.0 * torch.stack([p.sum() for p in others]).sum()
        self._seen += counted
        self._parts += 1
        return loss * self.trainer.accumulate_grad_batches

    def _contrast(
        self, batch: Mapping[str, Any], weights: Mapping[Pair, float], states: Tensor
    ) -> tuple[Tensor, int]:
        """Weighted sum of L_sim over the pairs in use, and sequences counted once per direction."""
        rows = len(batch["source"])
        yhat = self._yhat(batch) if "xyhat" in weights or "yyhat" in weights else None
        reuse = self.hparams["reuse_source"] or self.how.representation == "decoder"
        views = self._views_of(batch, yhat, states if reuse else None)
        total, sequences = batch["source"].new_zeros((), dtype=torch.float32), 0
        for pair, weight in weights.items():
            found = views.loss(pair)
            self.log(f"train/loss_{pair}", found.detach(), batch_size=rows, sync_dist=True)
            total = total + weight * found
            sequences += rows * len(directions(pair, self.how.symmetrical))
        self._watch(views, rows)
        return total, sequences

    def _watch(self, views: Views, rows: int) -> None:
        """Log how far the features are spread, of summaries where there are any; say when they collapse."""
        forms = sorted(views.online_forms, reverse=True)
        if rows < 2 or not forms:
            return
        states, features = map(spread, views.monitored(forms[0]))
        self.log("train/encoder_spread", states, batch_size=rows, sync_dist=True)
        self.log("train/feature_spread", features, batch_size=rows, sync_dist=True)
        if not self.first_spread:
            self.first_spread.copy_(features)
        elif features < _COLLAPSED * self.first_spread and not self._warned:
            self._warned = True
            say(
                f"the features collapse: their spread is {float(features):.2g} at step "
                f"{self.trainer.global_step}, {float(self.first_spread):.2g} at the first contrastive one"
            )

    def on_before_optimizer_step(self, optimizer: Any) -> None:
        """Divide the summed gradients by what this update has seen, over all micro-batches and ranks."""
        seen = torch.tensor([self._seen, float(self._parts)], dtype=torch.float64, device="cpu")
        both = self.trainer.strategy.reduce(seen.float().to(self.device), reduce_op="sum")
        count, parts = both.tolist() if isinstance(both, Tensor) else seen.tolist()
        factor = self.trainer.world_size / max(count, 1.0)
        for parameter in self.network.parameters():
            if parameter.grad is not None:
                parameter.grad.mul_(factor)
        summed = self.hparams["contrast_reduction"] == "token_sum"
        self.log("train/tokens", count)
        for pair, weight in self._weights_now().items():
            self.log(f"train/weight_{pair}", weight)
            self.log(f"train/effective_weight_{pair}", weight * parts / count if summed else weight)
        self._seen, self._parts = 0.0, 0

    def optimizer_step(
        self, epoch: int, batch_idx: int, optimizer: Any, optimizer_closure: Any = None
    ) -> None:
        """The step, then xi = beta xi + (1 - beta) theta, before anything is saved."""
        super().optimizer_step(epoch, batch_idx, optimizer, optimizer_closure)
        done, restart = self.trainer.global_step + 1, self.hparams["restart_at"]
        if self.network.compared and done > restart:
            self.network.move_target(self.hparams["ema_decay"])
        if restart and done == restart:
            getattr(optimizer, "optimizer", optimizer).state.clear()
            if self.network.compared:
                self.network.reset_target()

    # --- evaluation -----------------------------------------------------------------------------------------

    def generate(self, source: Tensor, mask: Tensor, candidates: int = 1) -> Tensor:
        """See :meth:`zoo.seqco.summariser.Summariser.generate`."""
        return self.summariser.generate(source, mask, candidates)

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        limit = self.hparams["generate_batches"]
        self._evaluate(batch, limit is None or batch_idx < limit)

    def test_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        self._evaluate(batch, True)

    def _evaluate(self, batch: dict[str, Any], generates: bool) -> None:
        labels = batch["target"].masked_fill(~batch["target_mask"], -100)
        logits, states = self.network.logits_and_states(
            batch["source"], batch["source_mask"], self._decoder_inputs(batch["target"])
        )
        total, tokens = mean_token_loss(logits, labels, 0.0)
        self.eval_metrics["nll"].update((total / tokens).float(), tokens)
        drawn = None
        if generates:
            drawn = self.generate(batch["source"], batch["source_mask"])
            texts = self.summariser.texts(drawn)
            self.text_metrics["rouge"].update(texts, batch["summary"])
            self.text_metrics["statistics"].update(texts, batch["document"], batch["summary"])
            self.text_metrics["truncated_sources"].update(batch["truncated"].sum().float())
        if not self.network.compared:
            return
        views = self._views_of(batch, None if drawn is None else self._view_of(drawn), states)
        for pair in PAIRS:
            rows = views.given[pair[1:]].rows if pair != "xy" and drawn is not None else None
            count = len(labels) if rows is None else int(rows.sum())
            if count and (pair == "xy" or drawn is not None):
                self.eval_metrics[f"loss_{pair}"].update(views.loss(pair).float(), count)
        states_pooled, features = views.monitored("x")
        self.eval_metrics["encoder_spread"].update(states_pooled)
        self.eval_metrics["feature_spread"].update(features)

    def on_validation_epoch_end(self) -> None:
        self._log_metrics("val")

    def on_test_epoch_end(self) -> None:
        self._log_metrics("test")
        say(f"numbers by {self.summariser.protocol}")

    def _log_metrics(self, stage: str) -> None:
        used = self._used({**self.eval_metrics, **self.text_metrics})
        values = {}
        for name, metric in self.eval_metrics.items():
            if name in used:
                values[name] = metric.compute()
                if name.startswith("loss_") and self.how.similarity != "in_batch":
                    ways = 2 if self.how.symmetrical else 1
                    self.log(f"{stage}/similarity_{name[5:]}", 1 - values[name] / ways, sync_dist=True)
        self._relate(stage, values)
        log_and_reset(self, stage, {n: m for n, m in self.eval_metrics.items() if n in used}, ("nll",))
        for name, metric in self.text_metrics.items():
            if name in used:
                found = metric.compute()
                found = found if isinstance(found, dict) else {name: found}
                for key, value in found.items():
                    self.log(f"{stage}/{key}", value, prog_bar=key == "rouge1", sync_dist=True)
            metric.reset()

    def _used(self, metrics: Mapping[str, Any]) -> set[str]:
        """Those that any rank has updated: computing and logging wait for all."""
        called = torch.tensor([m.update_called for m in metrics.values()], device=self.device)
        anywhere = self.trainer.strategy.reduce(called.int(), reduce_op="max")
        return {name for name, there in zip(metrics, anywhere.tolist(), strict=True) if there}

    def _relate(self, stage: str, values: Mapping[str, Tensor]) -> None:
        """Loss and spreads by what they were at the switch, the first validation of the comparison."""
        if not self.network.compared or self.trainer.sanity_checking:
            return
        now = torch.stack([values[k].float() for k in ("loss_xy", "encoder_spread", "feature_spread")])
        now = now.to(self.reference)
        if (
            stage == "val"
            and self.trainer.global_step >= self.hparams["restart_at"]
            and not self.reference.any()
        ):
            self.reference.copy_(now)
        if self.reference.all():
            for key, value in zip(
                ("loss_xy", "encoder_spread", "feature_spread"), now / self.reference, strict=True
            ):
                self.log(f"{stage}/{key}_by_start", value, sync_dist=True)

    # --- predictions ----------------------------------------------------------------------------------------

    def predict_step(self, batch: dict[str, Any], batch_idx: int) -> GeneratedSummaries:
        several = self.hparams["candidates"]
        texts = self.summariser.texts(self.generate(batch["source"], batch["source_mask"], several))
        best = texts[::several]
        references = batch.get("summary")
        scores: list[dict[str, float]] | None = None
        if references is not None:
            scores = [self.text_metrics["rouge"].scores(a, b) for a, b in zip(best, references, strict=True)]
        return GeneratedSummaries(
            index=batch["index"].tolist(),
            names=list(batch["name"]),
            documents=list(batch["document"]),
            references=None if references is None else list(references),
            generated=[texts[i : i + several] for i in range(0, len(texts), several)],
            scores=scores,
            truncated=batch["truncated"].tolist(),
            protocol=self.summariser.protocol,
        )

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
