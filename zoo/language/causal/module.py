"""The CausalLM LightningModule."""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal, get_args

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor, nn

from zoo.language.adaptation import Adapt, scale_of, trainable
from zoo.language.causal.network import Adaptation, CausalNetwork
from zoo.language.causal.report import GeneratedText
from zoo.language.folders import check_vocabulary, sizes_in, start_from
from zoo.language.likelihood import scored, token_nll
from zoo.language.packing import shifted
from zoo.language.shapes import cost_of, sizes_of
from zoo.language.sharding import check_strategy, clip_sharded, shard
from zoo.language.updates import TokenMean, decay_groups
from zoo.metrics.calibration import CalibrationError
from zoo.metrics.choices import ChoiceAccuracy
from zoo.metrics.perplexity import TokenLikelihood
from zoo.nn.data_fit import DataSizes, check_fit, told
from zoo.nn.given_texts import given_count, given_texts
from zoo.nn.kept_tokenizer import KeptTokenizer
from zoo.nn.optim import with_schedule
from zoo.nn.processes import evaluated
from zoo.nn.ranges import Depth, Finite, Many, Positive, Rate, Share, Size, check_ranges
from zoo.nn.variants import Uses, refuse_unused
from zoo.randomness import generator, global_seed
from zoo.reports import say

Decoding = Literal["greedy", "sample", "beam"]
Batch = dict[str, Tensor]
_STREAM = 19_01  # first word of the keys of draws of tokens
_OF_DECODING: Uses = {
    **dict.fromkeys(("temperature", "top_k", "top_p"), ("sample",)),
    **dict.fromkeys(("beams", "length_penalty"), ("beam",)),
}
_OF_ADAPTATION: Uses = {
    **dict.fromkeys(("rank", "alpha", "rs_lora"), ("lora",)),
    "targets": ("lora", "ia3"),
    "virtual_tokens": ("prefix", "prompt"),
    "bottleneck": ("adapters",),
}
_SIZES = (
    "vocab_size", "width", "layers", "heads", "kv_heads", "hidden", "context", "tied", "bias", "entries",
)  # fmt: skip


class CausalLM(LightningModule):
    """A decoder-only language model: -log p(token | those before it), a mean over the scored tokens of the
    update, all its micro-batches and processes together.

    A batch has ``input_ids`` int64 (B, T); ``labels`` (B, T) at the same places, -100 where not scored,
    shifted here; ``position_ids`` (B, T); ``documents`` (B, T), the number of each token's document in its
    row, 0 of padding: a token sees those of its own document up to itself; ``bytes`` (B,), of the scored
    tokens' text in UTF-8; ``index`` (B,). One of multiple choice has besides ``question``, ``choice``,
    ``gold`` (bool) and ``characters``, all (B,). One to predict needs ``input_ids``, ``documents`` and
    ``index``: what follows is generated.

    Args:
        model: a named shape: ``gpt2``, ``gpt2-medium``, ``gpt2-large``, ``gpt2-xl``, ``llama-7b``,
            ``tiny-llama-bytes``, ``nanogpt-cpu``. Null sizes below are its own.
        vocab_size: V; null is the shape's; decided by the data.
        width: d of the states.
        layers: L.
        heads: of the attention.
        kv_heads: of its keys and values, of Llama.
        hidden: units of the feed-forward layers.
        context: most tokens of a row.
        tied: whether the table of tokens is the output layer, too.
        bias: whether GPT-2 has biases.
        entries: of transformers' config that are otherwise than usual: ``{activation_function: gelu}``.
        pretrained: weights that a fresh training starts from: a folder of transformers, or a model of the
            hub. Sizes are its own, and those above are left out.
        dropout: rate.
        checkpointing: compute blocks a second time in the backward pass instead of keeping activations.
        compile: compile each block.
        decay_embeddings: whether weight decay takes the tables, too, as nanoGPT's does; never biases and
            gains of norms.
        adapt: what learns: ``none``, all weights; ``lora``, ``ia3``, ``adapters``, ``prefix`` or ``prompt``,
            new weights beside frozen ones, see :mod:`zoo.language.adaptation`.
        rank: r of LoRA.
        alpha: of LoRA, whose scale is alpha / r; null is 2 r.
        targets: last parts of names of layers that LoRA or IA3 is put beside; ``[all-linear]`` is all but the
            output layer; null is the family's usual ones.
        rs_lora: scale alpha / sqrt(r) (Kalajdzievski 2023).
        virtual_tokens: of a prefix or prompt.
        bottleneck: units of an adapter.
        decoding: ``greedy``, ``sample`` or ``beam``.
        max_new_tokens: of a generated text; null is 128, or half of a context that is shorter.
        temperature: logits are divided by it before a draw.
        top_k: draw among so many likeliest tokens; null among all.
        top_p: draw from the nucleus, the fewest likeliest tokens with this probability (Holtzman et al.
            2020).
        beams: of the search.
        length_penalty: a beam's score is log p / length^penalty.
        optimizer: called with the parameters, decayed ones and others in two groups.
        lr_scheduler: of every step.

    Raises:
        ValueError: for impossible settings.
    """

    data_sizes: ClassVar[DataSizes] = {"vocab_size": "vocab_size"}
    divides_gradients = True

    def __init__(
        self,
        model: str = "tiny-llama-bytes",
        vocab_size: Many | None = None,
        width: Size | None = None,
        layers: Depth | None = None,
        heads: Depth | None = None,
        kv_heads: Depth | None = None,
        hidden: Size | None = None,
        context: Size | None = None,
        tied: bool | None = None,
        bias: bool | None = None,
        entries: dict[str, Any] | None = None,
        pretrained: str | None = None,
        dropout: Rate = 0.0,
        checkpointing: bool = False,
        compile: bool = False,
        decay_embeddings: bool = True,
        adapt: Adapt = "none",
        rank: Depth = 8,
        alpha: Positive | None = None,
        targets: list[str] | None = None,
        rs_lora: bool = False,
        virtual_tokens: Size = 20,
        bottleneck: Size = 64,
        decoding: Decoding = "greedy",
        max_new_tokens: Size | None = None,
        temperature: Positive = 1.0,
        top_k: Many | None = None,
        top_p: Share = 1.0,
        beams: Depth = 4,
        length_penalty: Finite = 1.0,
        optimizer: OptimizerCallable = lambda p: torch.optim.AdamW(
            p, lr=6e-4, betas=(0.9, 0.95), weight_decay=0.1
        ),
        lr_scheduler: LRSchedulerCallable | None = None,
    ) -> None:
        check_ranges(CausalLM, locals())
        super().__init__()
        self.save_hyperparameters(ignore=["optimizer", "lr_scheduler"])
        h = self.hparams
        if pretrained is not None and entries is None:  # a checkpoint is built again without the folder
            h.update(_of_pretrained(pretrained, h))
        sizes = sizes_of(h["model"], {k: h[k] for k in _SIZES})
        h["vocab_size"] = sizes["vocab_size"]
        if decoding not in get_args(Decoding):
            raise ValueError(f"model.init_args.decoding must be greedy, sample or beam, got {decoding!r}")
        refuse_unused(CausalLM, self.hparams, "decoding", _OF_DECODING)
        if adapt not in get_args(Adapt):
            raise ValueError(
                f"model.init_args.adapt must be one of {', '.join(get_args(Adapt))}, got {adapt!r}"
            )
        refuse_unused(CausalLM, self.hparams, "adapt", _OF_ADAPTATION)
        if adapt == "prefix" and checkpointing:
            raise ValueError(
                "model.init_args.checkpointing: a prefix lies in a cache, which a second pass lacks; leave "
                "it out"
            )
        if adapt == "prompt" and virtual_tokens >= sizes["context"]:
            raise ValueError(
                f"model.init_args.virtual_tokens is {virtual_tokens}, but the context has {sizes['context']}"
            )
        if max_new_tokens is not None and max_new_tokens >= sizes["context"]:
            raise ValueError(
                f"model.init_args.max_new_tokens is {max_new_tokens}, which leaves no room for a prompt in "
                f"a context of {sizes['context']}"
            )
        self.optimizer, self.lr_scheduler = optimizer, lr_scheduler
        adaptation = None
        if adapt != "none":
            adaptation = Adaptation(adapt, rank, alpha, targets, rs_lora, virtual_tokens, bottleneck)
        self.network = CausalNetwork(sizes, dropout, adaptation)
        if checkpointing:
            self.network.checkpoint_activations()
        self.vocabulary = KeptTokenizer()
        self.update = TokenMean()
        self.scores: Any = nn.ModuleDict({s: self._metrics() for s in ("val", "test")})
        self._given_weights = False

    @staticmethod
    def _metrics() -> nn.ModuleDict:
        return nn.ModuleDict(
            {"likelihood": TokenLikelihood(), "ece": CalibrationError(), "choices": ChoiceAccuracy()}
        )

    # --- set-up -------------------------------------------------------------------------------------------

    def setup(self, stage: str) -> None:
        check_strategy(self, self.network.model, stage)
        source, data = self.hparams["pretrained"], getattr(self.trainer, "datamodule", None)
        check_fit(self, vocab_size=operator.eq if source is None else operator.ge)
        self.vocabulary.take(data)
        longest, context = told(data, "context"), self.network.context - self.network.prompted
        if longest is not None and longest > context:
            raise ValueError(
                f"data.init_args.context is {longest}, but the model has room for {context} "
                "(model.init_args.context); lower the one, or raise the other"
            )
        fresh = stage == "fit" and self.trainer.ckpt_path is None and not self._given_weights
        if fresh and source is not None:
            say(f"starts from {start_from(self.network.model, source)}")
        if self.hparams["compile"]:
            self.network.compile_blocks()
        if stage == "fit":
            say(f"{self.hparams['model']}: {self.cost(longest or context)}")
            if self.hparams["adapt"] != "none":
                say(self._adapted())

    def _adapted(self) -> str:
        h, (new, every) = self.hparams, trainable(self.network)
        scale = f", scale {scale_of(h['rank'], h['alpha'], h['rs_lora']):.4g}" if h["adapt"] == "lora" else ""
        return f"{h['adapt']}{scale}: {new:,} of {every:,} weights learn ({new / every:.2%})"

    def load_state_dict(self, *args: Any, **kwargs: Any) -> Any:
        self._given_weights = True
        return super().load_state_dict(*args, **kwargs)

    def cost(self, length: int | None = None) -> Any:
        """Parameters, operations and memory of a training on rows of ``length`` tokens, in words as text."""
        network = self.network
        return cost_of(network, network.layers, network.width, length or network.context)

    def configure_optimizers(self) -> Any:
        groups = decay_groups(self.network, self.hparams["decay_embeddings"])
        return with_schedule(self.optimizer(groups), self.lr_scheduler)

    def configure_model(self) -> None:
        shard(self, self.network.model, self.network.blocks)

    def configure_gradient_clipping(
        self,
        optimizer: Any,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        clip_sharded(self, optimizer, gradient_clip_val, gradient_clip_algorithm)

    def forward(
        self, ids: Tensor, positions: Tensor | None = None, documents: Tensor | None = None
    ) -> Tensor:
        """Logits (B, T, V) of the token after each place, see :class:`CausalNetwork`."""
        logits: Tensor = self.network(ids, positions, documents)
        return logits

    def example_inputs(self, batch: int) -> dict[str, Tensor]:
        """Ids of eight tokens for the network, which gives logits (batch, 8, V)."""
        ids = torch.arange(8, device=self.device).remainder(self.hparams["vocab_size"])
        return {"ids": ids.expand(batch, -1).clone()}

    # --- training -----------------------------------------------------------------------------------------

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        nll = token_nll(self._logits(batch), batch["labels"])
        return self.update.add(self, nll.sum(), scored(batch["labels"]).sum())

    def on_before_optimizer_step(self, optimizer: Any) -> None:
        loss, tokens = self.update.divide(self)
        self.log("train/loss", loss, prog_bar=True)
        self.log("train/tokens", tokens)

    def _logits(self, batch: Batch) -> Tensor:
        return self(batch["input_ids"], batch.get("position_ids"), batch.get("documents"))

    # --- evaluation ---------------------------------------------------------------------------------------

    def _begin(self, stage: str) -> None:
        for metric in self.scores[stage].values():
            metric.reset()

    def on_validation_epoch_start(self) -> None:
        self._begin("val")

    def on_test_epoch_start(self) -> None:
        self._begin("test")

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        self._evaluate("val", batch)

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        self._evaluate("test", batch)

    def _evaluate(self, stage: str, batch: Batch) -> None:
        metrics, labels = self.scores[stage], batch["labels"]
        logits = self._logits(batch)
        nll, chosen = token_nll(logits, labels), scored(labels)
        metrics["likelihood"].update(nll, chosen, batch.get("bytes", 0))
        if stage == "test":
            confidence, token = logits[chosen].float().softmax(dim=-1).max(dim=-1)
            metrics["ece"].update(confidence, token == shifted(labels)[chosen])
        if "question" in batch:
            columns = (batch[k] for k in ("question", "choice", "gold", "characters"))
            metrics["choices"].update(-nll.double().sum(dim=1), *columns)

    def on_validation_epoch_end(self) -> None:
        self._log("val")

    def on_test_epoch_end(self) -> None:
        self._log("test")

    def _log(self, stage: str) -> None:
        metrics = self.scores[stage]
        found: dict[str, Tensor] = {}
        for metric in metrics.values():
            if metric.update_called:
                value = metric.compute()
                found |= value if isinstance(value, Mapping) else {"ece": value}
        for name, value in found.items():
            if not value.isnan():
                shown = name in ("loss", "bits_per_byte", "acc")
                self.log(f"{stage}/{name}", value.float(), prog_bar=shown, sync_dist=True)

    # --- predictions --------------------------------------------------------------------------------------

    def on_predict_start(self) -> None:
        h = self.hparams
        keys = {"sample": ("temperature", "top_k", "top_p"), "beam": ("beams", "length_penalty")}
        said = [f"{k} {h[k]}" for k in keys.get(h["decoding"], ()) if h[k] is not None]
        say(", ".join([f"text by {h['decoding']} decoding", *said, f"seed {global_seed()}"]))

    def predict_step(self, batch: Mapping[str, Any], batch_idx: int) -> GeneratedText:
        ids, real = batch["input_ids"].tolist(), (batch["documents"] > 0).tolist()
        prompts = [[t for t, r in zip(*row, strict=True) if r] for row in zip(ids, real, strict=True)]
        found = self._continued(prompts, batch["index"].tolist(), global_seed())
        return GeneratedText(
            batch.get("prompt") or [self._text(row) for row in prompts],
            [self._text(row) for row in found],
            batch["index"].cpu(),
            batch.get("reference"),
        )

    def generate(
        self, prompts: str | Sequence[str], max_new_tokens: int | None = None, seed: int = 0, **settings: Any
    ) -> list[str]:
        """Texts that follow the given ones.

        ``zoo.load("causal_lm_stdlib").generate("def ", decoding="sample", temperature=0.8)``

        Args:
            prompts: one text or several; the empty one begins a document.
            max_new_tokens: of each.
            seed: of draws; what follows the i-th prompt is a function of (seed, i) and the weights.
            **settings: ``decoding``, ``temperature``, ``top_k``, ``top_p``, ``beams``, ``length_penalty`` in
                the place of the model's own.

        Raises:
            ValueError: for what is no text or no setting, and for weights without a tokenizer.
        """
        texts = given_texts(prompts, "prompt")
        rows = self._prompted(texts)
        if max_new_tokens is not None:
            settings["max_new_tokens"] = given_count(max_new_tokens, "max_new_tokens")
        return [self._text(row) for row in self._continued(rows, range(len(rows)), seed, **settings)]

    def complete(self, prompt: str, max_new_tokens: int | None = None, seed: int = 0, **settings: Any) -> str:
        """The prompt with what :meth:`generate` makes of it."""
        return prompt + self.generate(prompt, max_new_tokens, seed, **settings)[0]

    def _prompted(self, texts: Sequence[str]) -> list[list[int]]:
        tokenizer = self.vocabulary.tokenizer
        start = tokenizer.eos_token_id if tokenizer.bos_token_id is None else tokenizer.bos_token_id
        return [[start, *ids] for ids in self.vocabulary.ids(texts)] if texts else []

    def _text(self, ids: Sequence[int]) -> str:
        text: str = self.vocabulary.tokenizer.decode(list(ids), skip_special_tokens=True)
        return text

    def _continued(
        self, prompts: Sequence[Sequence[int]], index: Sequence[int], seed: int, **settings: Any
    ) -> list[list[int]]:
        h = {**self.hparams, **settings}
        keys = ("decoding", "max_new_tokens", *_OF_DECODING)
        if unknown := [k for k in settings if k not in keys]:
            raise ValueError(f"{unknown[0]!r} is no setting of a generation; known are {', '.join(keys)}")
        check_ranges(CausalLM, {k: h[k] for k in keys})
        if h["decoding"] not in get_args(Decoding):
            raise ValueError(f"decoding must be greedy, sample or beam, got {h['decoding']!r}")
        context = self.network.context
        most = h["max_new_tokens"] or min(128, max(context // 2, 1))
        if most >= context:
            raise ValueError(f"max_new_tokens is {most}, but the context has {context} tokens")
        if not prompts:
            return []
        tokenizer, uniform = self.vocabulary.tokenizer, None
        if h["decoding"] == "sample":
            draws = [torch.rand(most, generator=generator(_STREAM, seed, i)) for i in index]
            uniform = torch.stack(draws, dim=1).to(self.device)
        eos = tokenizer.eos_token_id
        never = [i for i in tokenizer.all_special_ids if i != eos and i < self.network.vocabulary]
        with evaluated(self.network):
            return self.network.continued(
                prompts, most, eos, uniform, h["temperature"], h["top_k"], h["top_p"],
                h["beams"] if h["decoding"] == "beam" else 1, h["length_penalty"], never,
            )  # fmt: skip


def _of_pretrained(source: str, h: Mapping[str, Any]) -> dict[str, Any]:
    """Sizes of a pretrained model in the place of what was left out.

    Raises:
        ValueError: for sizes that are given besides, and for a tokenizer of another vocabulary.
    """
    found = sizes_in(source)
    given = [k for k in _SIZES if h[k] is not None and k != "vocab_size"]
    if given:
        raise ValueError(
            f"model.init_args.{given[0]} is {h[given[0]]}, but the sizes are those of pretrained {source}; "
            "leave it out"
        )
    if h["vocab_size"] is not None:
        check_vocabulary(source, found["vocab_size"], h["vocab_size"])
    return found
