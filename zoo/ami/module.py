"""The LightningModule of AMI: whose turn it is, and what a step of each network minimises."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor, nn

from zoo.ami.evaluation import Evaluation
from zoo.ami.information import Baseline
from zoo.ami.network import AMINetwork, Variant, networks_of, source_network
from zoo.ami.noise import Noise
from zoo.ami.objectives import Objectives
from zoo.ami.optimizers import optimizers_of
from zoo.ami.processes import set_gradients
from zoo.ami.replies import Decoding
from zoo.ami.report import GeneratedReplies
from zoo.ami.scoring import Scoring
from zoo.ami.settings import check_settings, cycle_of
from zoo.ami.vocabulary import Vocabulary
from zoo.nn.data_fit import DataSizes, check_fit
from zoo.nn.parallel import refuse_sharding
from zoo.nn.processes import place, total
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
from zoo.randomness import step_generator
from zoo.reports import say, write_protocol

Objective = Literal["mle", "vim", "ami"]
Rollout = Literal["sample", "teacher_forced"]
Batch = dict[str, Any]


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
        reward_clip: least log q(S|T') per token that is a reward is minus this; null has no limit.
        mle_mix: weight of the MLE loss of the same batch within an adversarial step of theta.
        pair_weights: w of synthetic pairs; false is 1.
        phi_adv_weight: of the backward network's adversarial loss.
        pretrain_forward: batches of MLE of theta before the cycle.
        pretrain_backward: batches of MLE of phi, after those.
        pretrain_noise: batches of the noise alone, after those.
        source_model: a third network, p(S) in translation and p(S|history) in dialogue, whose cross-entropy
            is the H(S) of the bound where the data do not know it.
        pretrain_source: batches of MLE of it, after those.
        forward_batches: of a cycle.
        backward_batches: of a cycle.
        noise_batches: of a cycle; left out unless noise is learned and the objective adversarial.
        adversarial_every: an adversarial step follows the MLE step of every so-many-th batch of a turn.
        adversarial_clip: norm of gradients in adversarial steps; null has none.
        clip: norm in every step, after that one; null has none.
        label_smoothing: of pretraining.
        judge: keep a copy of the backward network as pretraining leaves it, and report its bound, too.
        decoding: of ``predict`` and of what validation generates: ``greedy``, ``beam`` or ``sample``. The
            settings of each, below, count wherever it is asked for: here, in ``table``, by :meth:`reply`.
        beam: width.
        top_k: of ``sample``, which draws among so many words; 0 among all.
        sampling_temperature: of ``sample``.
        length_penalty: of ``beam``: scores are log p / length^penalty.
        test_noise: decode from a noisy memory, one draw a reply (a variant of the released code).
        replies: for each history of a prediction; each decoding of a test has one.
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
    source_trained: Tensor

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
        reward_clip: Positive | None = None,
        mle_mix: NonNegative = 0.0,
        pair_weights: bool = True,
        phi_adv_weight: NonNegative = 1.0,
        pretrain_forward: CountOrZero = 0,
        pretrain_backward: CountOrZero = 0,
        pretrain_noise: CountOrZero = 0,
        source_model: bool = False,
        pretrain_source: CountOrZero = 0,
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
        check_settings(AMI, self.hparams)
        self.optimizer, self.backward_optimizer = optimizer, backward_optimizer or optimizer
        self.noise_optimizer, self.pretrain_optimizer = noise_optimizer, pretrain_optimizer
        self.lr_scheduler = lr_scheduler
        self.vocabulary = Vocabulary()
        first, second, self.hparams["architecture"] = networks_of(self.hparams)
        self.network = AMINetwork(first, second, noise == "learned")
        # the same shape as phi, so that its place in the weights does not depend on where a training stands
        self.judge = copy.deepcopy(self.network.backward_network).requires_grad_(False) if judge else None
        self.register_buffer("judged", torch.tensor(False))
        self.source_network = source_network(self.hparams, second) if source_model else None
        if source_model:
            self.register_buffer("source_trained", torch.tensor(False))
        self.cycle = cycle_of(self.hparams)
        self.latest: dict[str, Any] = {}
        self.objectives = Objectives(self.network, self.hparams, self.source_network)
        self.scoring = Scoring(self.network, self.vocabulary, self.hparams)
        self.evaluation: Any = nn.ModuleDict({s: Evaluation(self.hparams, s) for s in ("val", "test")})

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
        given = (self.optimizer, self.backward_optimizer, self.noise_optimizer)
        pretrain = self.pretrain_optimizer if any(self.cycle.pretraining) else None
        made, self._pretrain = optimizers_of(self.network, self.source_network, *given, pretrain)
        if self.lr_scheduler is None:
            return made
        self._scheduled = self._pretrain
        return made, [{"scheduler": self.lr_scheduler(made[i]), "interval": "step"} for i in self._scheduled]

    _scheduled: Sequence[int] = ()

    # --- training ---------------------------------------------------------------------------------------

    def training_step(self, batch: Batch, batch_idx: int) -> None:
        """A batch is a step of the trainer: one MLE step (or the noise's), and perhaps an adversarial one."""
        turn, adversarial = self.cycle.at(self.trainer.global_step)
        objective, losses = self.hparams["objective"], self.objectives
        self._keep_judge(turn)
        before = turn.startswith("pretrain")
        random = step_generator(self, batch_idx)
        if turn.endswith("noise"):
            loss, logged = losses.noise(batch, random)
            self._step(len(self._all_optimizers()) - 1, loss)
        elif turn == "pretrain_source":
            loss, logged = losses.source_mle(batch)
            self._step(self._pretrain[2], loss, mle=True)
            self.source_trained.fill_(True)
        elif turn.endswith("forward"):
            loss, logged = losses.forward_mle(batch, before)
            self._step(self._pretrain[0] if before else 0, loss, mle=True)
            if adversarial and objective != "mle":
                loss, more = losses.forward_adversarial(batch, random)
                self._step(0, loss, counts=False)
                logged |= more
        else:
            loss, logged = losses.backward_mle(batch, before)
            self._step(self._pretrain[1] if before else 1, loss, mle=True)
            if adversarial and objective == "ami":
                loss, more = losses.backward_adversarial(batch, random)
                self._step(1, loss, counts=False)
                logged |= more
        names = sorted(logged)
        means = total(torch.stack([logged[n].detach().float() for n in names])) / place()[1]
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

        Args:
            index: of the optimiser.
            loss: whose mean over processes is the loss.
            mle: not adversarial; its schedule moves on.
            counts: it is the trainer's step of this batch.
        """
        wrapped = self._all_optimizers()[index]
        limits = (None if mle else self.hparams["adversarial_clip"], self.hparams["clip"])
        set_gradients(wrapped.optimizer, loss, limits)
        (wrapped if counts else wrapped.optimizer).step()
        wrapped.optimizer.zero_grad()
        if mle and index in self._scheduled:
            schedulers: Any = self.lr_schedulers()
            schedulers[self._scheduled.index(index)].step()

    def _all_optimizers(self) -> list[Any]:
        found: Any = self.optimizers()
        return found if isinstance(found, list) else [found]

    # --- evaluation -------------------------------------------------------------------------------------

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        self._evaluate("val", batch)

    def on_validation_epoch_end(self) -> None:
        self.evaluation["val"].log(self)

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        self._evaluate("test", batch)

    def on_test_epoch_end(self) -> None:
        evaluation, folder = self.evaluation["test"], self.trainer.log_dir  # asks all processes
        rows = evaluation.rows({d: self.scoring.replies.protocol(d) for d in evaluation.decodings})
        rows = {name: {**row, **self.vocabulary.described()} for name, row in rows.items()}
        evaluation.log(self)
        write_protocol(folder, rows)

    def _evaluate(self, stage: str, batch: Batch) -> None:
        judge = self.judge if self.judged else None
        source = self.source_network if self.source_network is not None and self.source_trained else None
        self.scoring.evaluate(self.evaluation[stage], batch, judge, source)

    def on_predict_start(self) -> None:
        say(f"replies by {self.scoring.protocol}")

    def predict_step(self, batch: Batch, batch_idx: int) -> GeneratedReplies:
        """Replies to each history with their scores, best first."""
        return self.scoring.predict(batch)

    def reply(
        self,
        history: str | Sequence[str],
        count: int = 1,
        decoding: Decoding | None = None,
        persona: Sequence[str] = (),
    ) -> list[dict[str, Any]]:
        """Replies to one history, or translations of one sentence, best first. What of it is not read, and
        that it has no word that the weights know, is said.

        ``zoo.load("ami_dull").reply("ask topic3 filler1", 3, "beam")``

        Args:
            history: an utterance, or several, oldest first.
            count: replies.
            decoding: ``greedy``, ``beam`` or ``sample``; null is the module's.
            persona: sentences that lead the dialogue, for weights of data that have them.

        Returns:
            for each reply ``text``, ``log_p`` = log p(T'|S) and ``log_q`` = log q(S|T') in nats.

        Raises:
            ValueError: for a decoding with fewer replies or of another name, fewer than one reply, what is no
                text, a history without a word, and a persona for weights that know none.
        """
        decoding = self.hparams["decoding"] if decoding is None else decoding
        return self.scoring.answer(history, count, decoding, self.device, persona)

    def example_inputs(self, batch: int) -> dict[str, Tensor]:
        """Sources and prefixes of eight tokens for the network, which gives logits (batch, 8, V)."""
        ids = torch.arange(8, device=self.device).add(4).remainder(self.hparams["vocab_size"])
        return {"source": ids.expand(batch, -1).clone(), "prefix": ids.expand(batch, -1).clone()}
