"""The LightningModule of AMI: whose turn it is, and what a step of each network minimises."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor, nn

from zoo.ami.evaluation import Evaluation
from zoo.ami.information import (
    Baseline,
    Cycle,
    advantage,
    backward_loss,
    cut_at_eos,
    forward_loss,
    join_rows,
    lengths_of,
    mean_embedding,
    noise_loss,
    noise_strength,
    pair_weights,
    sequence_nll,
    token_nll,
)
from zoo.ami.network import AMINetwork, Variant, encoder_decoder, shifted
from zoo.ami.noise import Noise, placed, straight_through
from zoo.ami.processes import averaged_gradients, global_rows, total
from zoo.ami.replies import Decoding, Replies
from zoo.ami.report import GeneratedReplies, write_protocol
from zoo.ami.turns import batch_of
from zoo.ami.vocabulary import Vocabulary
from zoo.nn.data_fit import DataSizes, check_fit
from zoo.nn.decoding import forbid, generate
from zoo.nn.encoder_decoder import Encoded
from zoo.nn.parallel import refuse_sharding
from zoo.nn.ranges import (
    Count,
    CountOrZero,
    Depth,
    Finite,
    Fraction,
    Many,
    ManyOrZero,
    NonNegative,
    Positive,
    Rate,
    Size,
    check_ranges,
)
from zoo.nn.variants import refuse_unused
from zoo.randomness import step_generator
from zoo.reports import say

Objective = Literal["mle", "vim", "ami"]
Rollout = Literal["sample", "teacher_forced"]
Batch = dict[str, Any]

_TRANSFORMERS = ("transformer_base", "transformer_tiny")
_OWN = ("gru", "rnn", *_TRANSFORMERS)
_OF_VARIANT = {
    "width": _OWN,
    "layers": ("rnn", *_TRANSFORMERS),
    "heads": _TRANSFORMERS,
    "hidden": _TRANSFORMERS,
    "dropout": _OWN,
    "tied": _OWN,
    "pretrained_forward": ("hf",),
    "pretrained_backward": ("hf",),
    "architecture": ("hf",),
}
_OF_NOISE = {
    "noise_std": ("gaussian",),
    "rho": ("learned",),
    "noise_limit": ("learned",),
    "noise_grad": ("learned",),
    "noise_batches": ("learned",),
    "pretrain_noise": ("learned",),
}


class AMI(LightningModule):
    """Adversarial mutual information for text generation (Pan et al., ICML 2020).

    Forward p_theta(T|S) and backward q_phi(S|T) are trained as a saddle point,
    min_phi max_theta E[w(T, T') log q(S|T')] - E[log q(S|T)]: the forward network is rewarded for targets T'
    from which the backward one recovers the source, the backward one is trained to be sure on real pairs and
    unsure on synthetic ones. MLE steps are interleaved, in a cycle of turns
    (:class:`zoo.ami.information.Cycle`).

    A batch has int64 ids ``source`` (B, S) without ends, ``target`` (B, T) from BOS to EOS, ``context`` (B,
    C), what stands before T in the backward network's source (C = 0 in translation), and ``recover`` (B, R)
    from BOS to EOS, what it has to recover; evaluation adds the texts ``history`` and ``reference``,
    dialogues ``candidates`` (B, N, L) and ``gold`` (B,), procedural data ``topic`` (B,). Pads stand on the
    right.

    ``objective`` is the switch between the arms: ``ami``; ``vim``, a variational bound whose backward network
    has MLE steps alone (``backward_batches: 0`` fixes it); ``mle``, without adversarial steps. The arms
    share all other options, which the last one reads past.

    Args:
        variant: ``gru``, ``rnn`` (OpenNMT's LSTM), ``transformer_base``, ``transformer_tiny``, or ``hf``, a
            pair of sequence-to-sequence models of transformers.
        vocab_size: V.
        pad_id: of the tokenizer.
        bos_id: likewise.
        eos_id: likewise.
        width: d; null is the variant's, as the next four.
        layers: of encoder and decoder.
        heads: of an attention.
        hidden: width of feed-forward layers.
        dropout: rate.
        tied: one table for source words, target words and the generator.
        pretrained_forward: of ``hf``: folder or hub id.
        pretrained_backward: likewise; of the same class and vocabulary.
        architecture: of ``hf``: its configuration as JSON, which weights bring along; null reads
            ``pretrained_forward``'s.
        objective: ``ami``, ``vim`` or ``mle``.
        rollout: T' drawn freely (``sample``) or the argmax after the gold words (``teacher_forced``, the
            released code).
        temperature: of the draws.
        samples: K.
        max_length: most tokens of T', EOS included, in training and evaluation.
        baseline: of the reward: ``leave_one_out``, ``batch``, or ``none`` as the released code.
        noise: on the forward network's memory: ``learned``, ``gaussian`` of a fixed ``noise_std``, ``none``.
        noise_scale: lambda of n; the noise turn itself takes 1.
        noise_std: of ``gaussian``.
        rho: weight of the strength in the noise's loss.
        noise_limit: strength at which it is no longer rewarded.
        noise_grad: ``straight_through`` gives the noise a gradient from the backward network; ``official``
            has none, so that the noise grows to its limit and stops.
        pair_weights: w of synthetic pairs; false is 1.
        phi_adv_weight: of the backward network's adversarial loss.
        pretrain_forward: batches of MLE of theta before the cycle.
        pretrain_backward: batches of MLE of phi, after those.
        pretrain_noise: batches of the noise alone, after those.
        forward_batches: of a cycle.
        backward_batches: of a cycle.
        noise_batches: of a cycle; left out unless noise is learned and the objective adversarial.
        adversarial_every: an adversarial step follows the MLE step of every so-many-th batch of a turn.
        adversarial_clip: norm of gradients in adversarial steps; null has none.
        clip: norm in every step, after that one; null has none.
        label_smoothing: of pretraining.
        judge: keep a copy of the backward network as pretraining leaves it, and report its bound, too.
        decoding: of ``predict`` and of what validation generates: ``greedy``, ``beam`` or ``sample``.
        beam: width.
        top_k: of ``sample``, which draws among so many words; 0 among all.
        sampling_temperature: of ``sample``.
        length_penalty: of ``beam``: scores are log p / length^penalty.
        test_noise: decode from a noisy memory, one draw a reply (a variant of the released code).
        replies: for each history of a prediction, and for each decoding of the test.
        rerank: order a prediction's replies by log q(S|T'), not by log p(T'|S).
        table: decodings that ``zoo test`` compares, beam 5 and top-k as set.
        optimizer: of theta.
        backward_optimizer: of phi; null takes ``optimizer``.
        noise_optimizer: of psi.
        pretrain_optimizer: of theta and phi before the cycle, which then begins with fresh ones; null is
            the one of the cycle.
        lr_scheduler: of MLE's optimisers before the cycle, or, without pretraining, of theta's and phi's.

    Raises:
        ValueError: for impossible settings.
    """

    data_sizes: ClassVar[DataSizes] = {
        "vocab_size": "vocab_size",
        "pad_id": "pad_id",
        "bos_id": "bos_id",
        "eos_id": "eos_id",
    }
    judged: Tensor

    def __init__(
        self,
        variant: Variant = "transformer_base",
        vocab_size: Many = 32000,
        pad_id: ManyOrZero = 1,
        bos_id: ManyOrZero = 2,
        eos_id: ManyOrZero = 3,
        width: Size | None = None,
        layers: Depth | None = None,
        heads: Depth | None = None,
        hidden: Size | None = None,
        dropout: Rate | None = None,
        tied: bool = False,
        pretrained_forward: str | None = None,
        pretrained_backward: str | None = None,
        architecture: str | None = None,
        objective: Objective = "ami",
        rollout: Rollout = "sample",
        temperature: Positive = 1.0,
        samples: Depth = 5,
        max_length: Depth = 100,
        baseline: Baseline = "leave_one_out",
        noise: Noise = "learned",
        noise_scale: Finite = 1.0,
        noise_std: NonNegative = 0.1,
        rho: NonNegative = 0.1,
        noise_limit: NonNegative = 1.0,
        noise_grad: Literal["official", "straight_through"] = "official",
        pair_weights: bool = True,
        phi_adv_weight: NonNegative = 1.0,
        pretrain_forward: CountOrZero = 0,
        pretrain_backward: CountOrZero = 0,
        pretrain_noise: CountOrZero = 0,
        forward_batches: CountOrZero = 8,
        backward_batches: CountOrZero = 8,
        noise_batches: CountOrZero = 4,
        adversarial_every: Count = 2,
        adversarial_clip: Positive | None = 1.0,
        clip: Positive | None = None,
        label_smoothing: Rate = 0.0,
        judge: bool = True,
        decoding: Decoding = "greedy",
        beam: Depth = 5,
        top_k: ManyOrZero = 10,
        sampling_temperature: Positive = 1.0,
        length_penalty: Fraction = 0.0,
        test_noise: bool = False,
        replies: Depth = 1,
        rerank: bool = False,
        table: Sequence[Decoding] = ("greedy", "beam", "sample"),
        optimizer: OptimizerCallable = lambda p: torch.optim.SGD(p, lr=0.01),
        backward_optimizer: OptimizerCallable | None = None,
        noise_optimizer: OptimizerCallable = lambda p: torch.optim.SGD(p, lr=1e-4),
        pretrain_optimizer: OptimizerCallable | None = None,
        lr_scheduler: LRSchedulerCallable | None = None,
    ) -> None:
        check_ranges(AMI, locals())
        super().__init__()
        table = list(table)
        callables = (
            "optimizer",
            "backward_optimizer",
            "noise_optimizer",
            "pretrain_optimizer",
            "lr_scheduler",
        )
        self.save_hyperparameters(ignore=list(callables))
        self.automatic_optimization = False
        self._check_settings()
        self.optimizer, self.backward_optimizer = optimizer, backward_optimizer or optimizer
        self.noise_optimizer, self.pretrain_optimizer = noise_optimizer, pretrain_optimizer
        self.lr_scheduler = lr_scheduler
        self.vocabulary = Vocabulary()
        first, second = self._networks()
        self.network = AMINetwork(first, second, noise == "learned")
        # the same shape as phi, so that its place in the weights does not depend on where a training stands
        self.judge = copy.deepcopy(self.network.backward_network).requires_grad_(False) if judge else None
        self.register_buffer("judged", torch.tensor(False))
        self.cycle = self._cycle()
        self.latest: dict[str, Any] = {}
        self.replies = Replies(self.network, self.hparams)
        self.evaluation: Any = nn.ModuleDict({s: Evaluation(self.hparams, s) for s in ("val", "test")})

    def _networks(self) -> list[Any]:
        h = self.hparams
        if h["variant"] != "hf":
            sizes = [h[k] for k in ("width", "layers", "heads", "hidden", "dropout")]
            return [
                encoder_decoder(h["variant"], h["vocab_size"], h["pad_id"], h["tied"], *sizes)
                for _ in range(2)
            ]
        from zoo.ami.pretrained import pretrained_pair

        first, second, h["architecture"] = pretrained_pair(
            h["architecture"], h["pretrained_forward"], h["pretrained_backward"], h["vocab_size"], h["pad_id"]
        )
        return [first, second]

    def _cycle(self) -> Cycle:
        h = self.hparams
        noisy = h["noise"] == "learned"
        pretraining = (h["pretrain_forward"], h["pretrain_backward"], h["pretrain_noise"] if noisy else 0)
        noise_turn = h["noise_batches"] if noisy and h["objective"] != "mle" else 0
        turns = (h["forward_batches"], h["backward_batches"], noise_turn)
        if not sum(turns):
            raise ValueError(
                "a cycle needs model.init_args.forward_batches or backward_batches of at least 1"
            )
        return Cycle(pretraining, turns, h["adversarial_every"])

    def _check_settings(self) -> None:
        h = self.hparams
        refuse_unused(AMI, h, "variant", _OF_VARIANT)
        refuse_unused(AMI, h, "noise", _OF_NOISE)
        if h["rollout"] == "teacher_forced":
            refuse_unused(AMI, h, "rollout", {"temperature": ("sample",)})
        if not h["table"]:
            raise ValueError("model.init_args.table names no decoding; choose of greedy, beam, sample")
        ids = (h["pad_id"], h["bos_id"], h["eos_id"])
        if max(ids) >= h["vocab_size"] or h["eos_id"] in ids[:2]:
            raise ValueError(
                f"pad_id, bos_id and eos_id {ids} must lie below vocab_size {h['vocab_size']}, eos_id apart"
            )
        used = {h["decoding"], *h["table"]}
        for option, of, default in (
            ("sampling_temperature", "sample", 1.0),
            ("top_k", "sample", 10),
            ("length_penalty", "beam", 0.0),
            ("beam", "beam", 5),
        ):
            if of not in used and h[option] != default:
                raise ValueError(
                    f"model.init_args.{option} is {h[option]}, which decoding: {h['decoding']} does not "
                    "use: beams "
                    f"do not sample; leave it out, or set decoding, or an entry of table, to {of}"
                )
        if h["replies"] > h["beam"] and h["decoding"] == "beam":
            raise ValueError(
                f"model.init_args.replies is {h['replies']}, but a beam of {h['beam']} has no more replies "
                "than that"
            )
        if h["replies"] > 1 and h["decoding"] == "greedy" and not h["test_noise"]:
            raise ValueError(
                "decoding: greedy has one reply for a history; set model.init_args.decoding to beam or "
                "sample, or "
                "test_noise: true"
            )

    # --- set-up -----------------------------------------------------------------------------------------

    def setup(self, stage: str) -> None:
        refuse_sharding(self)
        if str(self.trainer.precision).startswith("16"):
            raise ValueError(
                f"trainer.precision is {self.trainer.precision}, whose loss scaling does not know the two "
                "steps of a batch: use bf16-mixed or 32-true"
            )
        check_fit(self)
        data = getattr(self.trainer, "datamodule", None)
        self.vocabulary.take(data)
        for evaluation in self.evaluation.values():
            evaluation.prepare(data, self.vocabulary)

    def configure_optimizers(self) -> Any:
        net = self.network
        made = [self.optimizer(net.forward_network.parameters())]
        made.append(self.backward_optimizer(net.backward_network.parameters()))
        scheduled = [0, 1]
        if self.pretrain_optimizer is not None and any(self.cycle.pretraining):
            scheduled = [len(made), len(made) + 1]
            made += [
                self.pretrain_optimizer(n.parameters()) for n in (net.forward_network, net.backward_network)
            ]
        if net.noise is not None:
            made.append(self.noise_optimizer(net.noise.parameters()))
        self._pretrain = scheduled[0]
        if self.lr_scheduler is None:
            return made
        schedules = [{"scheduler": self.lr_scheduler(made[i]), "interval": "step"} for i in scheduled]
        self._scheduled = scheduled
        return made, schedules

    _scheduled: Sequence[int] = ()

    # --- training ---------------------------------------------------------------------------------------

    def training_step(self, batch: Batch, batch_idx: int) -> None:
        """A batch is a step of the trainer: one MLE step (or the noise's), and perhaps an adversarial one."""
        turn, adversarial = self.cycle.at(self.trainer.global_step)
        adversarial &= self.hparams["objective"] != "mle"
        self._keep_judge(turn)
        before = turn.startswith("pretrain")
        random = step_generator(self, batch_idx)
        logged: dict[str, Tensor] = {}
        if turn.endswith("noise"):
            logged = self._noise_step(batch, random)
        elif turn.endswith("forward"):
            loss = self._forward_mle(batch, before)
            logged["forward_nll"] = loss
            self._step(self._pretrain if before else 0, loss, mle=True)
            if adversarial:
                logged |= self._forward_adversarial(batch, random)
        else:
            loss, tokens = self._backward_mle(batch, before)
            logged["backward_nll"] = loss / tokens
            self._step(self._pretrain + 1 if before else 1, loss, mle=True)
            if adversarial and self.hparams["objective"] == "ami":
                logged |= self._backward_adversarial(batch, random)
        names = sorted(logged)
        means = total(torch.stack([logged[n].detach().float() for n in names])) / self._processes
        self.latest |= dict(zip(names, means.unbind(), strict=True))
        for name, value in self.latest.items():
            # each turn has losses of its own; a row has the latest of all, whenever the run was resumed
            self.log(f"train/{name}", value, prog_bar=name.endswith("nll"), batch_size=len(batch["target"]))

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["ami_latest"] = {name: float(value) for name, value in self.latest.items()}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.latest = dict(checkpoint.get("ami_latest", {}))

    def _keep_judge(self, turn: str) -> None:
        if (
            self.judge is not None
            and not self.judged
            and turn not in ("pretrain_forward", "pretrain_backward")
        ):
            self.judge.load_state_dict(self.network.backward_network.state_dict())
            self.judged.fill_(True)

    def _step(self, index: int, loss: Tensor, mle: bool = False, counts: bool = True) -> None:
        """One optimiser step on the gradient of this network alone.

        ``torch.autograd.grad`` reaches no parameter but the optimiser's own, so that nothing leaks into the
        other networks, and gradients never add up over steps.

        Args:
            index: of the optimiser.
            loss: whose mean over processes is the loss.
            mle: not adversarial; its schedule moves on.
            counts: it is the trainer's step of this batch.
        """
        optimizers: Any = self.optimizers()
        wrapped = optimizers[index] if isinstance(optimizers, list) else optimizers
        optimizer = wrapped.optimizer
        parameters = [p for group in optimizer.param_groups for p in group["params"] if p.requires_grad]
        gradients = averaged_gradients(loss, parameters)
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient
        for limit in (None if mle else self.hparams["adversarial_clip"], self.hparams["clip"]):
            if limit is not None:
                nn.utils.clip_grad_norm_(parameters, limit)
        (wrapped if counts else optimizer).step()
        optimizer.zero_grad()
        if mle and index in self._scheduled:
            schedulers: Any = self.lr_schedulers()
            schedulers[self._scheduled.index(index)].step()

    def _forward_mle(self, batch: Batch, before: bool) -> Tensor:
        """Mean over the tokens of the global batch of -log p(T_t | T_<t, S)."""
        labels, h = batch["target"][:, 1:], self.hparams
        logits = self.network(batch["source"], batch["target"][:, :-1])
        smoothing = h["label_smoothing"] if before else 0.0
        nll = token_nll(logits, labels, h["pad_id"], smoothing).sum()
        return nll * self._processes / total((labels != h["pad_id"]).sum())

    def _backward_mle(self, batch: Batch, before: bool) -> tuple[Tensor, Tensor]:
        """(1/B) sum_b sum_t -log q(S_t | S_<t, T), and tokens of S per pair."""
        labels, h = batch["recover"][:, 1:], self.hparams
        gold = cut_at_eos(batch["target"][:, 1:], h["eos_id"], h["pad_id"])[1]
        logits = self._backward_logits(self.network.backward_network, batch, gold)
        smoothing = h["label_smoothing"] if before else 0.0
        nll = token_nll(logits, labels, h["pad_id"], smoothing).sum()
        rows, tokens = total(nll.new_tensor(len(labels))), total((labels != h["pad_id"]).sum())
        return nll * self._processes / rows, tokens / rows

    def _backward_logits(
        self, network: Any, batch: Batch, reply: Tensor, extra: Tensor | None = None, copies: int = 1
    ) -> Tensor:
        """Logits of the tokens to recover, (copies B, R - 1, V), from sources ``context`` + ``reply``."""
        pad = self.hparams["pad_id"]
        context = batch["context"].repeat(copies, 1)
        source = join_rows(context, reply, pad)
        if extra is not None:
            extra = placed(extra, lengths_of(context, pad), lengths_of(reply, pad), source.shape[1])
        encoded = network.encode(source, extra)
        logits: Tensor = network.decode(batch["recover"][:, :-1].repeat(copies, 1), encoded)
        return logits

    @property
    def _processes(self) -> int:
        return self.trainer.world_size

    # --- synthetic targets ------------------------------------------------------------------------------

    def _noises(self, encoded: Encoded, random: torch.Generator) -> Tensor:
        """Noise n of the memory, (K, B, S, d), without the noise network's gradient; drawn for the global
        batch."""
        h = self.hparams
        if h["noise"] == "none":
            return encoded.states.new_zeros(h["samples"], *encoded.states.shape)
        normal = self._normal(encoded, random)
        if h["noise"] == "gaussian":
            return h["noise_std"] * normal
        with torch.no_grad():
            return self.network.noise_of(encoded, normal)

    def _normal(self, encoded: Encoded, random: torch.Generator) -> Tensor:
        """eps (K, B, S, d) ~ N(0, I), the rows of this process of draws for the global batch."""
        rows, longest = global_rows(encoded.states)
        shape = (self.hparams["samples"], rows, longest, encoded.states.shape[2])
        draws = torch.randn(shape, generator=random, device=random.device)
        own = draws[:, self.global_rank :: self._processes, : encoded.states.shape[1]]
        return own.to(encoded.states)

    @torch.no_grad()
    def _roll_out(self, batch: Batch, random: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """T' of the current forward network, in evaluation mode: labels (K B, T), sources of the backward
        network (K B, T), and the noise n (K, B, S, d) that they were made with."""
        h, network = self.hparams, self.network.forward_network
        with evaluated(self.network):
            encoded = network.encode(batch["source"])
            noise = self._noises(encoded, random)
            noisy = encoded.perturbed(h["noise_scale"] * noise)
            ends = (h["bos_id"], h["eos_id"], h["pad_id"])
            if h["rollout"] == "sample":
                rows, _ = global_rows(encoded.states)
                uniform = torch.rand(
                    h["max_length"], h["samples"], rows, generator=random, device=random.device
                )
                own = uniform[:, :, self.global_rank :: self._processes].flatten(1)
                drawn = generate(network, noisy, h["max_length"], *ends, own, h["temperature"])
            else:
                drawn = self._argmax(batch, noisy)
        return (*cut_at_eos(drawn, h["eos_id"], h["pad_id"]), noise)

    def _argmax(self, batch: Batch, noisy: Encoded) -> Tensor:
        """The likeliest word after each prefix of the gold target, (K B, T - 1)."""
        h = self.hparams
        prefix = batch["target"][:, :-1].repeat(h["samples"], 1)
        logits = self.network.forward_network.decode(prefix, noisy)
        return forbid(logits, h["pad_id"], h["bos_id"]).argmax(dim=-1)

    def _prefix(self, batch: Batch, labels: Tensor) -> Tensor:
        """What the forward network reads while T' is scored: T' itself, or gold words where those led to
        it."""
        if self.hparams["rollout"] == "sample":
            return shifted(labels, self.hparams["bos_id"])
        prefix: Tensor = batch["target"][:, :-1].repeat(self.hparams["samples"], 1)
        return prefix

    def _forward_adversarial(self, batch: Batch, random: torch.Generator) -> dict[str, Tensor]:
        """L_theta (section 2.4): REINFORCE with the length-normalised log q(S|T') as reward."""
        h, pad = self.hparams, self.hparams["pad_id"]
        labels, sources, noise = self._roll_out(batch, random)
        recover = batch["recover"][:, 1:].repeat(h["samples"], 1)
        with torch.no_grad(), evaluated(self.network):
            logits = self._backward_logits(self.network.backward_network, batch, sources, copies=h["samples"])
            reward = -sequence_nll(logits, recover, pad).view(h["samples"], -1)
        encoded = self.network.forward_network.encode(batch["source"])
        noisy = encoded.perturbed(h["noise_scale"] * noise)
        scores = self.network.forward_network.decode(self._prefix(batch, labels), noisy)
        nll = sequence_nll(scores, labels, pad).view(h["samples"], -1)
        mean = total(reward.sum()) / total(reward.new_tensor(reward.numel()))
        gained = advantage(reward, h["baseline"], mean)
        self._step(0, self._mean_over_rows(forward_loss(nll, gained), batch), counts=False)
        length = lengths_of(sources, pad).float().mean()
        return {
            "forward_adversarial": forward_loss(nll, gained),
            "reward": reward.mean(),
            "rollout_length": length,
        }

    def _backward_adversarial(self, batch: Batch, random: torch.Generator) -> dict[str, Tensor]:
        """L_phi of synthetic pairs (section 2.5), on the original pair as the first of both steps."""
        h, pad = self.hparams, self.hparams["pad_id"]
        _, sources, _ = self._roll_out(batch, random)
        logits = self._backward_logits(self.network.backward_network, batch, sources, copies=h["samples"])
        recover = batch["recover"][:, 1:].repeat(h["samples"], 1)
        nll = sequence_nll(logits, recover, pad, mean=False)
        weight = self._weights(batch, sources) if h["pair_weights"] else torch.ones_like(nll)
        loss = h["phi_adv_weight"] * backward_loss(nll, weight)
        self._step(1, self._mean_over_rows(loss, batch), counts=False)
        return {"backward_adversarial": loss, "pair_weight": weight.mean()}

    @torch.no_grad()
    def _weights(self, batch: Batch, sources: Tensor) -> Tensor:
        """w(T, T') (K B,) from the forward encoder's word embeddings, BOS and EOS stripped."""
        h, table = self.hparams, self.network.forward_network.word_table()
        gold = cut_at_eos(batch["target"][:, 1:], h["eos_id"], h["pad_id"])[1]
        real = mean_embedding(table, gold, h["pad_id"]).repeat(h["samples"], 1)
        return pair_weights(real, mean_embedding(table, sources, h["pad_id"]))

    def _noise_step(self, batch: Batch, random: torch.Generator) -> dict[str, Tensor]:
        """L_psi (section 2.6) on T' = argmax after the gold words with memory h + n, whatever ``rollout``."""
        h, pad = self.hparams, self.hparams["pad_id"]
        optimizers: Any = self.optimizers()
        with evaluated(self.network):
            with torch.no_grad():
                encoded = self.network.forward_network.encode(batch["source"])
            noise = self.network.noise_of(encoded, self._normal(encoded, random))
            prefix = batch["target"][:, :-1].repeat(h["samples"], 1)
            differentiable = h["noise_grad"] == "straight_through"
            with torch.set_grad_enabled(differentiable):
                scores = self.network.forward_network.decode(prefix, encoded.perturbed(noise))
                logits = forbid(scores, pad, h["bos_id"])
                _, sources = cut_at_eos(logits.argmax(dim=-1), h["eos_id"], pad)
                backward = self.network.backward_network
                extra = straight_through(logits, backward.word_table()) if differentiable else None
                recovered = self._backward_logits(backward, batch, sources, extra, h["samples"])
                recover = batch["recover"][:, 1:].repeat(h["samples"], 1)
                nll = sequence_nll(recovered, recover, pad).view(h["samples"], -1)
        sums = (noise.norm(dim=-1) * encoded.mask).sum(dim=(1, 2))
        strength = self._whole(noise_strength(noise, encoded.mask), sums, encoded.mask)
        loss = noise_loss(nll, strength, h["rho"], h["noise_limit"])
        self._step(len(optimizers) - 1, self._mean_over_rows(loss, batch))
        return {"noise_loss": loss, "noise_strength": strength.mean()}

    def _whole(self, strength: Tensor, sums: Tensor, mask: Tensor) -> Tensor:
        """Strength over the positions of the global batch, with this process's gradient."""
        if self._processes == 1:
            return strength
        positions, rows = total(mask.sum()), total(mask.new_tensor(len(mask), dtype=torch.float))
        share = sums * rows / (positions * len(mask))  # its mean over rows is the whole strength
        return share + (total(sums.detach()) / positions - share.detach())

    def _mean_over_rows(self, loss: Tensor, batch: Batch) -> Tensor:
        """A mean over this process's rows as its part of the mean over the global batch's."""
        rows = len(batch["target"])
        return loss * (rows * self._processes / total(loss.new_tensor(float(rows))))

    # --- evaluation -------------------------------------------------------------------------------------

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        self._evaluate("val", batch)

    def on_validation_epoch_end(self) -> None:
        self.evaluation["val"].log(self)

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        self._evaluate("test", batch)

    def on_test_epoch_end(self) -> None:
        evaluation, folder = self.evaluation["test"], self.trainer.log_dir  # asks all processes
        rows = evaluation.rows({d: self.replies.protocol(d) for d in evaluation.decodings})
        rows = {name: {**row, **self.vocabulary.described()} for name, row in rows.items()}
        evaluation.log(self)
        if folder is not None and self.trainer.is_global_zero:
            for path in write_protocol(Path(folder), rows):
                say(f"protocol    {path}")

    @torch.no_grad()
    def _evaluate(self, stage: str, batch: Batch) -> None:
        """Likelihoods of real pairs, and replies of each decoding with what the backward networks say of
        them."""
        evaluation: Any = self.evaluation[stage]
        h, pad = self.hparams, self.hparams["pad_id"]
        labels, recover = batch["target"][:, 1:], batch["recover"][:, 1:]
        nll = token_nll(self.network(batch["source"], batch["target"][:, :-1]), labels, pad)
        evaluation.likelihood("forward_nll", nll.sum(), (labels != pad).sum())
        gold = cut_at_eos(labels, h["eos_id"], pad)[1]
        backward = self._backward_logits(self.network.backward_network, batch, gold)
        evaluation.likelihood("backward_nll", token_nll(backward, recover, pad).sum(), (recover != pad).sum())
        if "candidates" in batch:
            evaluation.hits(self._best_candidate(batch) == batch["gold"])
        for decoding in h["table"] if stage == "test" else [h["decoding"]]:
            random = self.replies.generator(batch["index"], stage)
            reply = self.replies.ranked(batch["source"], decoding, 1, random)[0][:, 0]
            evaluation.replies(decoding, batch, reply, *self._log_q(batch, reply), self._table())
        for name, answer in evaluation.baselines_of(stage).items():
            texts = answer(batch["history"])
            reply = self._ids(texts)
            evaluation.replies(name, batch, reply, *self._log_q(batch, reply), self._table(), texts)

    def _table(self) -> Tensor:
        table: Tensor = self.network.forward_network.word_table()
        return table

    def _ids(self, texts: Sequence[str]) -> Tensor:
        """Texts as padded ids (B, T), at most ``max_length`` of them."""
        rows = [ids[: self.hparams["max_length"]] for ids in self.vocabulary.ids(texts)]
        out = torch.full((len(rows), max([1, *map(len, rows)])), self.hparams["pad_id"])
        for place, ids in enumerate(rows):
            out[place, : len(ids)] = torch.tensor(ids, dtype=torch.long)
        return out.to(self.device)

    def _log_q(self, batch: Batch, reply: Tensor) -> tuple[Tensor, Tensor | None, Tensor]:
        """log q(S|T') (B,) by phi and by the judge, in nats, and the tokens of S."""
        pad, recover = self.hparams["pad_id"], batch["recover"][:, 1:]
        by = [self.network.backward_network, self.judge if self.judged else None]
        found = [
            None
            if n is None
            else -sequence_nll(self._backward_logits(n, batch, reply), recover, pad, mean=False)
            for n in by
        ]
        assert found[0] is not None
        return found[0], found[1], (recover != pad).sum(dim=1)

    def _best_candidate(self, batch: Batch) -> Tensor:
        """Which of the candidates (B, N, L) is the likeliest, by its mean log-likelihood a token, (B,)."""
        candidates, pad = batch["candidates"], self.hparams["pad_id"]
        count = candidates.shape[1]
        encoded = self.network.forward_network.encode(batch["source"]).repeated(count)
        rows = candidates.flatten(0, 1)
        logits = self.network.forward_network.decode(rows[:, :-1], encoded)
        nll = sequence_nll(logits, rows[:, 1:], pad).view(-1, count)
        empty = (candidates[:, :, 1:] == pad).all(dim=2)
        return nll.masked_fill(empty, float("inf")).argmin(dim=1)

    @torch.no_grad()
    def predict_step(self, batch: Batch, batch_idx: int) -> GeneratedReplies:
        """Replies to each history with their scores, best first."""
        h = self.hparams
        random = self.replies.generator(batch["index"], "predict")
        rows, forward = self.replies.ranked(batch["source"], h["decoding"], h["replies"], random)
        scores = []
        for number in range(rows.shape[1]):
            logits = self._backward_logits(self.network.backward_network, batch, rows[:, number])
            scores.append(-sequence_nll(logits, batch["recover"][:, 1:], h["pad_id"], mean=False))
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
            protocol=self.replies.protocol(h["decoding"]) + (", ordered by log q" if h["rerank"] else ""),
        )

    @torch.no_grad()
    def reply(
        self, history: str | Sequence[str], count: int = 1, decoding: Decoding | None = None
    ) -> list[dict[str, Any]]:
        """Replies to one history, or translations of one sentence, best first.

        ``zoo.load("ami_chitchat").reply("do you like music ?", 3, "sample")``

        Args:
            history: an utterance, or several, oldest first.
            count: replies.
            decoding: ``greedy``, ``beam`` or ``sample``; null is the module's.

        Returns:
            for each reply ``text``, ``log_p`` = log p(T'|S) and ``log_q`` = log q(S|T') in nats.
        """
        h, decoding = self.hparams, decoding or self.hparams["decoding"]
        if count > (h["beam"] if decoding == "beam" else 1 if decoding == "greedy" else count):
            raise ValueError(
                f"decoding: {decoding} has fewer than {count} replies; take sample, or a wider beam"
            )
        utterances = [history] if isinstance(history, str) else list(history)
        found = batch_of(self.vocabulary, utterances, h["bos_id"], h["eos_id"])
        batch = {k: v.to(self.device) for k, v in found.items()}
        with evaluated(self):
            random = self.replies.generator(torch.zeros(1, dtype=torch.long), "reply")
            rows, forward = self.replies.ranked(batch["source"], str(decoding), count, random)
            copies = [batch["recover"][:, 1:].repeat(count, 1), rows[0]]
            logits = self._backward_logits(self.network.backward_network, batch, copies[1], copies=count)
        backward = -sequence_nll(logits, copies[0], h["pad_id"], mean=False)
        scores = zip(self.vocabulary.texts(rows[0]), forward[0].tolist(), backward.tolist(), strict=True)
        replies = [{"text": text, "log_p": p, "log_q": q} for text, p, q in scores]
        return sorted(replies, key=lambda r: -r["log_q" if h["rerank"] else "log_p"])

    def example_inputs(self, batch: int) -> dict[str, Tensor]:
        """Sources and prefixes of eight tokens for the network, which gives logits (batch, 8, V)."""
        ids = torch.arange(8, device=self.device).add(4).remainder(self.hparams["vocab_size"])
        return {"source": ids.expand(batch, -1).clone(), "prefix": ids.expand(batch, -1).clone()}


@contextmanager
def evaluated(network: nn.Module) -> Iterator[None]:
    """Without dropout, for a while."""
    training = network.training
    network.eval()
    try:
        yield
    finally:
        network.train(training)
