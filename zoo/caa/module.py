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

from zoo.caa import greedy, nsga
from zoo.caa.archive import Archive, genome_of, key_of
from zoo.caa.attack import Carry, Rules
from zoo.caa.balls import Norm
from zoo.caa.composition import Result, run_policy
from zoo.caa.draws import derived, image_keys
from zoo.caa.pareto import SearchReport
from zoo.caa.policy import MODES, Mode, Policy, Threat
from zoo.caa.space import GENES, Space
from zoo.caa.tally import Tally
from zoo.caa.target import load_target
from zoo.caa.victim import Victim
from zoo.nn.ranges import Count, Depth, Finite, Fraction, Positive, check_ranges
from zoo.randomness import derived_seed, global_seed
from zoo.reports import say

Strategy = Literal["nsga2", "random", "greedy"]
Tested = Literal["best", "single"]
_GENOMES = 1711  # first word of the keys of the genomes' draws
_CLASSES = 10
_POPULATION = 40
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
    best policy (lowest f1, then lowest f2), or each attacker of the pool alone at that policy's cost; ``zoo
    predict`` leaves the front as a picture, the archive as CSV
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
        strategy: ``nsga2``; ``random``: each generation is drawn uniformly from what was not yet tried; or
            ``greedy``, AutoAE's rule, meant for ``mode: union``: generation k adds to the attackers chosen so
            far the one of most new successes per backward pass, of the whole pool at full magnitude.
        max_evaluations: end the search with so many policies measured; null does not.
        stop_hopeless: measure a policy no further once something in the archive is at least as good in both
            objectives even if all images to come are fooled; the front is the same.
        tested: what ``zoo test`` measures: the ``best`` policy, or the best ``single`` attacker of the pool
            at full magnitude and as near as may be to the same number of backward passes.
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
    chosen: Tensor

    def __init__(
        self,
        target: str = "robust_classifier_digits",
        threat: Threat = "linf",
        eps: Positive = 0.15,
        length: Depth = 3,
        longest: Count = 200,
        mode: Mode = "sequence",
        extra: bool = False,
        population: Depth = _POPULATION,
        crossover: Fraction = 0.9,
        mutation: Fraction | None = None,
        strategy: Strategy = "nsga2",
        max_evaluations: Count | None = None,
        stop_hopeless: bool = False,
        tested: Tested = "best",
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
            ("strategy", strategy, ("nsga2", "random", "greedy")),
            ("tested", tested, ("best", "single")),
            ("carry", carry, ("best_loss", "official")),
        ):
            if value not in choices:
                raise ValueError(f"{name} must be {' or '.join(choices)}, got {value!r}")
        if strategy != "nsga2" and (crossover != 0.9 or mutation is not None):
            raise ValueError("model.init_args.crossover and mutation are of strategy: nsga2; leave them out")
        if strategy == "greedy" and population != _POPULATION:
            raise ValueError(
                "model.init_args.population is of strategy: nsga2 or random, greedy tries the whole pool; "
                "leave it out"
            )
        self.save_hyperparameters(ignore=["target"])
        self.automatic_optimization = False
        self.target = target
        self.rules = Rules(carry=carry)
        self.space = Space(threat, length, longest, mode, extra)
        self.counter = nn.Parameter(torch.zeros(1))  # an optimiser counts the steps; DDP wants one
        genes = GENES * length
        if strategy == "greedy":
            population = len(greedy.candidates(self.space))
        for name, shape, dtype in (
            ("genomes", (population, genes), torch.long),
            ("scores", (population, 2), torch.long),
            ("images", (), torch.long),
            ("next_genomes", (population, genes), torch.long),
            ("correct", (population,), torch.long),
            ("seen", (population,), torch.long),
            ("generation", (), torch.long),
            ("space_word", (), torch.long),
            ("chosen", (genes,), torch.long),
        ):
            self.register_buffer(name, torch.zeros(shape, dtype=dtype))
        self.archive = Archive(cost_unit)
        self._held: list[Victim] = []
        self._tallies: dict[Policy, Tally] = {}

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
            self.next_genomes.copy_(torch.from_numpy(self._first()))

    def _first(self) -> Array:
        if self.hparams["strategy"] == "greedy":
            return greedy.candidates(self.space)
        return self.space.random(len(self.next_genomes), self._random(0))

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
            if self._hopeless(row, key):
                continue
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
        points = self.archive.points()
        if len(points):
            self.log("train/hypervolume", nsga.hypervolume(points), batch_size=1, prog_bar=True)
            self.log("train/robust_accuracy", float(points[:, 0].min()), batch_size=1, prog_bar=True)

    def _hopeless(self, row: int, key: str) -> bool:
        """Whether the archive holds what no rest of the images lets this policy outdo."""
        if not (self.hparams["stop_hopeless"] and int(self.seen[row])):
            return False
        return self.archive.outdoes(int(self.correct[row]), self._nominal(key), int(self.images))

    def _nominal(self, key: str) -> int:
        return self.space.policy(genome_of(key)).backward(self._held[0].classes or _CLASSES)

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
        h = self.hparams
        for row, key in self.pending():
            self.archive[key] = [int(self.correct[row]), int(self.seen[row]), self._nominal(key)]
        children = self.next_genomes.cpu().numpy()
        known = [g for g in children if key_of(self.space.canonical(g)) in self.archive]
        parents = list(self.genomes.cpu().numpy()) if int(self.generation) else []
        together = np.stack([*parents, *known])
        keys = [key_of(self.space.canonical(genome)) for genome in together]
        kept = nsga.survivors(self.archive.objectives(keys), len(children))
        kept = (kept * len(children))[: len(children)]  # max_evaluations may cut the first generation
        self.genomes.copy_(torch.from_numpy(together[kept]))
        images = self.archive.images
        rows = [self.archive[keys[i]] for i in kept]
        self.scores.copy_(torch.tensor([[round(c * images / max(n, 1)), b] for c, n, b in rows]))
        self.images.fill_(images)
        self._tell_what_is_left_out(images)
        self.generation += 1
        random = self._random(int(self.generation))
        self.next_genomes.copy_(torch.from_numpy(self._next(random)))
        self.correct.zero_()
        self.seen.zero_()
        limit = h["max_evaluations"]
        if limit is not None and len(self.archive) >= limit:
            self.trainer.should_stop = True

    def _tell_what_is_left_out(self, images: int) -> None:
        """Once: a loader that drops a partial batch makes f1 that of fewer images."""
        total = len(getattr(getattr(self.trainer, "datamodule", None), "train_set", ()))
        if not int(self.generation) and images < total:
            say(f"the search attacks {images:,} of {total:,} training images: see data.init_args.drop_last")

    def _next(self, random: np.random.Generator) -> Array:
        h, count = self.hparams, len(self.next_genomes)
        if h["strategy"] == "greedy":
            return self._more()
        if h["strategy"] == "nsga2":
            rate = 1 / self.genomes.shape[1] if h["mutation"] is None else h["mutation"]
            parents = self.genomes.cpu().numpy(), self.objectives()
            return nsga.offspring(*parents, self.space.choices, h["crossover"], rate, random)
        rows = self.archive.untried(self.space, count, random) or [self.genomes[0].cpu().numpy()]
        return np.stack((rows * count)[:count])

    def _more(self) -> Array:
        """Greedy's next candidates, around what it chose among the last ones."""
        found = greedy.choose(self.space, self.next_genomes.cpu().numpy(), self.archive)
        if found is not None:
            self.chosen.copy_(torch.tensor(found))
        number = int(self.generation)
        if found is None or number == self.hparams["length"]:
            self.trainer.should_stop = True
            return self.next_genomes.cpu().numpy()
        return greedy.candidates(self.space, found[: GENES * number])

    def objectives(self) -> Array:
        """f1 and f2 of the population, (P, 2)."""
        correct, backward = self.scores.cpu().numpy().T
        return np.stack([correct / max(int(self.images), 1), backward / self.hparams["cost_unit"]], axis=1)

    def best(self) -> Policy:
        """The policy of lowest robust accuracy, of those the cheapest; of ``greedy`` what it chose.

        Raises:
            ValueError: when no generation has ended yet.
        """
        if not int(self.generation):
            raise ValueError("the search has no finished generation yet: run `zoo fit`, or give --ckpt_path")
        if self.hparams["strategy"] == "greedy":
            return self.space.policy(self.chosen.cpu().numpy())
        order = np.lexsort(self.objectives().T[::-1])
        return self.space.policy(self.genomes[int(order[0])].cpu().numpy())

    # --- state ------------------------------------------------------------------------------------------

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["caa_archive"] = json.dumps(self.archive)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        if "caa_archive" not in checkpoint:
            return
        self.archive = Archive(self.hparams["cost_unit"], json.loads(checkpoint["caa_archive"]))
        held = int(checkpoint["state_dict"]["space_word"])
        if held and held != self.definition():
            raise ValueError(
                "the checkpoint's search has another space, ball, target or rules: its archive cannot be "
                "gone on with; set them as they were, or start a new search"
            )

    # --- the best policy --------------------------------------------------------------------------------

    def on_test_epoch_start(self) -> None:
        self._tallies.clear()

    def test_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        self.victim().classes_of(batch["image"])
        for policy in self.tested():
            self._tallies.setdefault(policy, Tally()).add(self.attack(policy, batch))

    def tested(self) -> list[Policy]:
        """The best policy, or each attacker of the pool alone at its cost."""
        best, classes = self.best(), self._held[0].classes
        if self.hparams["tested"] == "best":
            return [best]
        cost = best.backward(classes)
        return [self.space.single(a, cost, classes) for a in self.space.attackers if a.name != "Skip"]

    def on_test_epoch_end(self) -> None:
        found = {policy: tally.means(self.device) for policy, tally in self._tallies.items()}
        say(f"the best policy: {self.best()}")
        for policy, means in found.items():
            if len(found) > 1:
                say(f"  alone at its cost, {policy}: robust accuracy {means['robust_accuracy']:.4f}")
        chosen = min(found, key=lambda policy: found[policy]["robust_accuracy"])
        values = {**found[chosen], "nominal_backward": float(chosen.backward(self._held[0].classes))}
        for name, value in values.items():
            self.log(f"test/{name}", value, sync_dist=False, rank_zero_only=True)

    def predict_step(self, batch: dict[str, Tensor], batch_idx: int) -> SearchReport:
        names = [str(self.space.policy(g)) for g in self.genomes.cpu().numpy()]
        rows = [(str(self.space.policy(genome_of(k))), *v) for k, v in self.archive.items()]
        if not rows:  # weights hold the population alone
            images = int(self.images)
            rows = [
                (n, c, images, b) for n, (c, b) in dict(zip(names, self.scores.tolist(), strict=True)).items()
            ]
        policy, unit = self.best().to_json(), self.hparams["cost_unit"]
        first = batch_idx == 0 and self.global_rank == 0
        return SearchReport(self.objectives(), names, rows, policy, unit, first)
