"""The search for policies: one training epoch is one generation of NSGA-II."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torch import distributed as dist

from zoo.caa import nsga
from zoo.caa.attack import Carry, Rules
from zoo.caa.balls import Norm
from zoo.caa.composition import Result, run_policy
from zoo.caa.draws import derived, image_keys
from zoo.caa.pareto import SearchReport
from zoo.caa.policy import MODES, Mode, Policy, Threat
from zoo.caa.space import GENES, Space
from zoo.caa.target import load_target
from zoo.caa.victim import Victim
from zoo.nn.ranges import Count, Depth, Finite, Fraction, Positive, check_ranges
from zoo.randomness import derived_seed, global_seed
from zoo.reports import say

Strategy = Literal["nsga2", "random"]
_GENOMES = 1711  # first word of the keys of the genomes' draws
_CLASSES = 10
Array = np.ndarray[Any, Any]


class CAA(LightningModule):
    """NSGA-II over policies of attackers (Mao et al., AAAI 2021): robust accuracy and complexity, both low.

    f1 = images of the training set that stay right / all of them, f2 = nominal backward passes of an image /
    ``cost_unit``. One epoch attacks all training images with each new policy of a generation; a policy is
    measured once, whatever genome stands for it. The images of a batch are dealt over the processes, and each
    image's random numbers depend on the seed, the image and the policy alone, so that any number of processes
    makes the same archive. A checkpoint also within a generation holds the population, the counts so far
    and the archive.

    A batch has ``image`` (B, C, H, W) in [0, 1], ``label`` (B,) and ``index`` (B,). ``zoo test`` measures the
    best policy (lowest f1, then lowest f2); ``zoo predict`` leaves the front as a picture, the archive as CSV
    and the best policy as JSON.

    Args:
        target: see :class:`zoo.RobustEvaluation`; not kept in checkpoints, which may name no code.
        threat: pool of attackers: ``linf``, ``l2`` or ``unrestricted``.
        eps: radius of the ball.
        length: attackers in a policy (N); shorter ones hold Skip.
        longest: most steps of a gradient attacker (T_max), of DDN five times as many.
        mode: what counts, see :class:`zoo.caa.policy.Policy`.
        extra: AutoAttack's four attackers too.
        population: policies in a generation.
        crossover: probability of a two-point crossover.
        mutation: probability that a gene is drawn anew; null is 1 / (3 N).
        strategy: ``nsga2``, or ``random``: each generation is drawn uniformly from what was not yet tried.
        max_evaluations: end the search with so many policies measured; null does not.
        cost_unit: backward passes that count 1 in f2.
        carry: see :class:`zoo.caa.attack.Rules`.
        mean: of the target's own normalisation, see :class:`zoo.RobustEvaluation`.
        std: likewise.
    """

    genomes: Tensor
    scores: Tensor
    images: Tensor
    next_genomes: Tensor
    correct: Tensor
    seen: Tensor
    generation: Tensor
    space_word: Tensor

    def __init__(
        self,
        target: str = "robust_classifier_digits",
        threat: Threat = "linf",
        eps: Positive = 0.15,
        length: Depth = 3,
        longest: Count = 200,
        mode: Mode = "sequence",
        extra: bool = False,
        population: Depth = 40,
        crossover: Fraction = 0.9,
        mutation: Fraction | None = None,
        strategy: Strategy = "nsga2",
        max_evaluations: Count | None = None,
        cost_unit: Positive = 1000.0,
        carry: Carry = "best_loss",
        mean: Sequence[Finite] | None = None,
        std: Sequence[Positive] | None = None,
    ) -> None:
        check_ranges(CAA, locals())
        super().__init__()
        for name, value, choices in (
            ("threat", threat, ("linf", "l2", "unrestricted")),
            ("mode", mode, MODES),
            ("strategy", strategy, ("nsga2", "random")),
            ("carry", carry, ("best_loss", "official")),
        ):
            if value not in choices:
                raise ValueError(f"{name} must be {' or '.join(choices)}, got {value!r}")
        if strategy == "random" and (crossover != 0.9 or mutation is not None):
            raise ValueError("model.init_args.crossover and mutation are of strategy: nsga2; leave them out")
        self.save_hyperparameters(ignore=["target"])
        self.automatic_optimization = False
        self.target = target
        self.rules = Rules(carry=carry)
        self.space = Space(threat, length, longest, mode, extra)
        self.counter = nn.Parameter(torch.zeros(1))  # an optimiser counts the steps; DDP wants one
        genes = GENES * length
        for name, shape, dtype in (
            ("genomes", (population, genes), torch.long),
            ("scores", (population, 2), torch.long),
            ("images", (), torch.long),
            ("next_genomes", (population, genes), torch.long),
            ("correct", (population,), torch.long),
            ("seen", (population,), torch.long),
            ("generation", (), torch.long),
            ("space_word", (), torch.long),
        ):
            self.register_buffer(name, torch.zeros(shape, dtype=dtype))
        self.archive: dict[str, list[int]] = {}
        self._held: list[Victim] = []

    def definition(self) -> int:
        """A number that all that makes two archives comparable decides."""
        keys = ("eps", "threat", "carry", "cost_unit")
        return self.space.word(**{k: self.hparams[k] for k in keys}, target=self.target)

    def setup(self, stage: str) -> None:
        h = self.hparams
        self._held = [Victim(load_target(self.target, h["mean"], h["std"]))]

    def victim(self) -> Victim:
        """The target on this module's device."""
        victim = self._held[0]
        with torch.inference_mode(False):
            victim.classify.to(self.device)  # type: ignore[attr-defined]
        return victim

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD([self.counter], lr=0.0)

    # --- a generation -----------------------------------------------------------------------------------

    def on_train_start(self) -> None:
        if not int(self.space_word):
            self.space_word.fill_(self.definition())
            self.next_genomes.copy_(
                torch.from_numpy(self.space.random(len(self.next_genomes), self._random(0)))
            )

    def _random(self, generation: int) -> np.random.Generator:
        return np.random.default_rng(derived_seed(_GENOMES, global_seed(), generation))

    def pending(self) -> list[tuple[int, str]]:
        """(row, key) of the children that are to be measured: each policy once, none of the archive."""
        found: dict[str, int] = {}
        for row, genome in enumerate(self.next_genomes.cpu().numpy()):
            found.setdefault(key_of(self.space.canonical(genome)), row)
        rows = [(row, key) for key, row in found.items() if key not in self.archive]
        limit = self.hparams["max_evaluations"]
        return rows if limit is None else rows[: max(limit - len(self.archive), 0)]

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        counts = torch.zeros(len(self.next_genomes), 2, dtype=torch.long, device=self.device)
        for row, key in self.pending():
            robust = self.attack(self.space.policy(genome_of(key)), batch).robust
            counts[row] = torch.tensor([int(robust.sum()), len(robust)])
        if self.trainer.world_size > 1 and dist.is_initialized():
            dist.all_reduce(counts)  # at each step, so that any process's checkpoint holds all
        self.correct += counts[:, 0]
        self.seen += counts[:, 1]
        optimizer: Any = self.optimizers()
        optimizer.step()
        if self.trainer.is_last_batch:
            self._end_generation()
        self.log("train/evaluated", float(len(self.archive)), batch_size=1, prog_bar=True)
        points = self.points()
        if len(points):
            self.log("train/hypervolume", nsga.hypervolume(points), batch_size=1, prog_bar=True)
            self.log("train/robust_accuracy", float(points[:, 0].min()), batch_size=1, prog_bar=True)

    def attack(self, policy: Policy, batch: dict[str, Tensor]) -> Result:
        """What a policy makes of a batch; draws are of (seed, image, policy)."""
        h, image = self.hparams, batch["image"]
        low, high = float(image.min()), float(image.max())
        if not (low >= 0 and high <= 1):
            raise ValueError(
                f"the images run from {low:g} to {high:g}, but zoo.CAA needs [0, "
                "1]; set data.class_path: datamodules.LabelledImages"
            )
        keys = derived(image_keys(global_seed(), batch["index"].to(image.device)), policy.word)
        norm: Norm = "l2" if h["threat"] == "l2" else "linf"
        eps = 1.0 if h["threat"] == "unrestricted" else h["eps"]
        return run_policy(self.victim(), policy, image, batch["label"], keys, norm, eps, self.rules)

    def _end_generation(self) -> None:
        """Archive, survival and mating, the same on each process."""
        h, classes = self.hparams, self._held[0].classes or _CLASSES
        for row, key in self.pending():
            cost = self.space.policy(genome_of(key)).backward(classes)
            self.archive[key] = [int(self.correct[row]), int(self.seen[row]), cost]
        children = self.next_genomes.cpu().numpy()
        known = [g for g in children if key_of(self.space.canonical(g)) in self.archive]
        parents = list(self.genomes.cpu().numpy()) if int(self.generation) else []
        together = np.stack([*parents, *known])
        keys = [key_of(self.space.canonical(genome)) for genome in together]
        kept = nsga.survivors(np.stack([self.objectives_of(k) for k in keys]), len(children))
        kept = (kept * len(children))[: len(children)]  # max_evaluations may cut the first generation
        self.genomes.copy_(torch.from_numpy(together[kept]))
        self.scores.copy_(torch.tensor([self.archive[keys[i]][::2] for i in kept]))
        self.images.fill_(max(n for _, n, _ in self.archive.values()))
        self.generation += 1
        random = self._random(int(self.generation))
        self.next_genomes.copy_(torch.from_numpy(self._next(random)))
        self.correct.zero_()
        self.seen.zero_()
        limit = h["max_evaluations"]
        if limit is not None and len(self.archive) >= limit:
            self.trainer.should_stop = True

    def _next(self, random: np.random.Generator) -> Array:
        h, count = self.hparams, len(self.next_genomes)
        if h["strategy"] == "nsga2":
            rate = 1 / self.genomes.shape[1] if h["mutation"] is None else h["mutation"]
            parents = self.genomes.cpu().numpy(), self.objectives()
            return nsga.offspring(*parents, self.space.choices, h["crossover"], rate, random)
        fresh: dict[str, Array] = {}
        for genome in self.space.random(50 * count, random):
            key = key_of(self.space.canonical(genome))
            if key not in self.archive and len(fresh) < count:
                fresh.setdefault(key, genome)
        rows = list(fresh.values()) or [self.genomes[0].cpu().numpy()]
        return np.stack((rows * count)[:count])

    def objectives_of(self, key: str) -> Array:
        """f1 and f2 of a policy in the archive."""
        correct, images, backward = self.archive[key]
        return np.array([correct / max(images, 1), backward / self.hparams["cost_unit"]])

    def objectives(self) -> Array:
        """f1 and f2 of the population, (P, 2)."""
        correct, backward = self.scores.cpu().numpy().T
        return np.stack([correct / max(int(self.images), 1), backward / self.hparams["cost_unit"]], axis=1)

    def points(self) -> Array:
        """f1 and f2 of the whole archive, (A, 2)."""
        return np.array([self.objectives_of(key) for key in self.archive]).reshape(-1, 2)

    def best(self) -> Policy:
        """The policy of lowest robust accuracy, of those the cheapest.

        Raises:
            ValueError: when no generation has ended yet.
        """
        if not int(self.generation):
            raise ValueError("the search has no finished generation yet: run `zoo fit`, or give --ckpt_path")
        order = np.lexsort(self.objectives().T[::-1])
        return self.space.policy(self.genomes[int(order[0])].cpu().numpy())

    # --- state ------------------------------------------------------------------------------------------

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["caa_archive"] = json.dumps(self.archive)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        if "caa_archive" not in checkpoint:
            return
        self.archive = json.loads(checkpoint["caa_archive"])
        held = int(checkpoint["state_dict"]["space_word"])
        if held and held != self.definition():
            raise ValueError(
                "the checkpoint's search has another space, ball, target or rules: its archive cannot be "
                "gone on with; set them as they were, or start a new search"
            )

    # --- the best policy --------------------------------------------------------------------------------

    def test_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        policy, size = self.best(), len(batch["label"])
        found = self.attack(policy, batch)
        if batch_idx == 0:
            say(f"the best policy: {policy}")
        for name, value in (
            ("accuracy", found.clean.float().mean()),
            ("robust_accuracy", found.robust.float().mean()),
            ("backward", torch.tensor(found.cost.backward / size)),
            ("forward", torch.tensor(found.cost.forward / size)),
            ("nominal_backward", torch.tensor(float(policy.backward(self._held[0].classes)))),
        ):
            self.log(f"test/{name}", value, batch_size=size, sync_dist=True)

    def predict_step(self, batch: dict[str, Tensor], batch_idx: int) -> SearchReport:
        names = [str(self.space.policy(g)) for g in self.genomes.cpu().numpy()]
        rows = [(str(self.space.policy(genome_of(k))), *v) for k, v in self.archive.items()]
        if not rows:  # weights hold the population alone
            images = int(self.images)
            rows = [
                (n, c, images, b) for n, (c, b) in dict(zip(names, self.scores.tolist(), strict=True)).items()
            ]
        return SearchReport(self.objectives(), names, rows, self.best().to_json(), self.hparams["cost_unit"])


def key_of(genome: Sequence[int]) -> str:
    """A canonical genome as text."""
    return " ".join(map(str, genome))


def genome_of(key: str) -> tuple[int, ...]:
    """And back."""
    return tuple(map(int, key.split()))
