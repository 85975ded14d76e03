"""``zoo test`` and ``zoo predict`` of a fixed policy against a trained classifier."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torchmetrics import MaxMetric, SumMetric

from zoo.caa.attack import Carry, Rules
from zoo.caa.balls import Norm, largest, lengths
from zoo.caa.composition import Result, run_policy
from zoo.caa.draws import image_keys
from zoo.caa.policy import ONE_TARGET, GoalRule, Mode, Threat, chosen_policy
from zoo.caa.reliability import WARNINGS, probe, square_wins
from zoo.caa.report import AdversarialImages, draw_curve, robustbench
from zoo.caa.target import load_target
from zoo.caa.victim import Victim
from zoo.nn.ranges import Count, DepthOrZero, Finite, Percent, Positive, check_ranges
from zoo.randomness import global_seed
from zoo.reports import class_names_of, replace_file, say, writing

_FREE_RADIUS = 1.0
_LOOP = ("PGD", "MI", "CW", "APGD-CE")
_ALL_TARGETS = ("MultiTargeted", "APGD-T")
_ODI = ("ODI-cos", "ODI-cyclical", "ODI-step")
_USED_BY: dict[str, tuple[str, ...] | str] = {
    "carry": _LOOP,
    "batched_targets": _ALL_TARGETS,
    "eight_bit": ("DDN",),
    "official_steps": _ODI,
    "official_l2_step": (*_LOOP, *_ALL_TARGETS),
    "official_mirror_bug": "unrestricted",
}
_KEY = "of_"
_LARGEST = ("linf_max", "l2_max")


class RobustEvaluation(LightningModule):
    """Robust accuracy of a classifier under a policy of attackers (Mao et al., AAAI 2021).

    Robust accuracy = images still classified right / all images. The attack's random numbers depend on the
    seed and on each image's number alone, so neither the batch size nor the number of processes changes them.
    A batch has ``image`` (B, C, H, W), ``label`` (B,) and ``index`` (B,).

    ``zoo test`` logs ``accuracy``, ``robust_accuracy``, ``attack_success`` (1 - robust / clean), the accuracy
    after each attacker, the size of the perturbations, and the cost as passes and CPU seconds of an image,
    measured and (``nominal_``) before any early exit; it leaves ``robustness.json`` and, with ``eps_curve``,
    ``robustness_curve.png``. ``zoo predict`` leaves the adversarial images.

    Args:
        target: the classifier: a name or file for :func:`zoo.load`, or ``module:callable``
            of your own, images in [0, 1] -> logits.
        policy: a preset (``caa_linf``, ``caa_l2``, ``caa_unrestricted``, ``autoattack_linf``, and ``_l2``,
            ``apgd_t_linf``, ``multi_targeted_linf``, likewise) or a list of ``{attacker: PGD, magnitude: 1.0,
            steps: 100}``, the magnitude a share of eps, of a corruption the severity.
        threat: ``linf``, ``l2`` or ``unrestricted``; null takes the preset's.
        mode: ``sequence``, ``subpolicies`` or ``union``, see :class:`zoo.caa.policy.Policy`; null takes the
            preset's, of a list ``sequence``.
        eps: radius of the ball, images in [0, 1]; of no use for ``unrestricted``.
        goal: what the attack wants: null, that an image is taken for any class but its own; a class's number,
            ``next`` (y + 1) or ``least_likely`` (of lowest score on the clean image): that it is taken for
            that one. ``attack_success`` is then the share that is, of all images that were right and not of
            that class; ``robust_accuracy`` stays the share that is right.
        transfer_to: another classifier, named like the target, that judges the images made against that one:
            ``accuracy`` and ``robust_accuracy`` are its own then, the target's ``source_``.
        eps_curve: radii of a curve. An image fooled at one radius counts as fooled at all larger ones.
        pixels: range of the data's images: ``unit`` is [0, 1], ``symmetric`` [-1, 1].
        mean: of the target's own normalisation (x - mean) / std, x in [0, 1]; null: as its class says.
        std: likewise.
        carry: see :class:`zoo.caa.attack.Rules`, as the next six.
        early_exit: likewise.
        batched_targets: likewise.
        eight_bit: likewise.
        official_l2_step: likewise.
        official_steps: likewise.
        official_mirror_bug: likewise.
        additional_data: for ``robustness.json``: was the target trained on more data than the set's own.
        number_forward_passes: for ``robustness.json``: passes that one answer of the target takes.
        reported: for ``robustness.json``: robust accuracy in percent that its authors report.
    """

    answers_untrained: ClassVar[bool] = True  # its target's weights are its own matter

    def __init__(
        self,
        target: str = "robust_classifier_digits",
        policy: str | list[dict[str, Any]] = "caa_linf",
        threat: Threat | None = None,
        mode: Mode | None = None,
        eps: Positive = 0.15,
        goal: GoalRule | DepthOrZero | None = None,
        transfer_to: str | None = None,
        eps_curve: Sequence[Positive] = (),
        pixels: Literal["unit", "symmetric"] = "unit",
        mean: Sequence[Finite] | None = None,
        std: Sequence[Positive] | None = None,
        carry: Carry = "best_loss",
        early_exit: bool = True,
        batched_targets: bool = False,
        eight_bit: bool = True,
        official_l2_step: bool = False,
        official_steps: bool = False,
        official_mirror_bug: bool = False,
        additional_data: bool = False,
        number_forward_passes: Count = 1,
        reported: Percent | None = None,
    ) -> None:
        check_ranges(RobustEvaluation, locals())
        super().__init__()
        self.save_hyperparameters()
        self.rules = Rules(**{f.name: self.hparams[f.name] for f in fields(Rules)})
        self.threat, self.policy = chosen_policy(policy, threat, mode)
        self._check_settings()
        self.sums = nn.ModuleDict()
        self.warned: set[str] = set()
        self._held: list[Victim] = []  # a tool, no part of this module: in no state dict

    def _check_settings(self) -> None:
        """Refuse what the policy does not use."""
        h, used = self.hparams, {step.attacker for step in self.policy.steps}
        for name, users in _USED_BY.items():
            fits = self.threat == users if isinstance(users, str) else bool(used & {*users})
            if getattr(self.rules, name) != getattr(Rules(), name) and not fits:
                who = "corruptions" if isinstance(users, str) else " or ".join(users)
                raise ValueError(
                    f"model.init_args.{name} is of {who}, which the policy does not hold; leave it out"
                )
        if self.rules.official_l2_step and (self.threat != "l2" or self.rules.early_exit):
            raise ValueError(
                "model.init_args.official_l2_step couples the images of a batch; it needs threat: l2 and "
                "early_exit: false"
            )
        if self.threat == "unrestricted" and h["eps_curve"]:
            raise ValueError("model.init_args.eps_curve: threat unrestricted has no eps; leave it out")
        if h["goal"] is not None and h["eps_curve"]:
            raise ValueError(
                "model.init_args.eps_curve counts what is taken for any other class; leave it or goal out"
            )
        if h["goal"] is not None and self.rules.batched_targets:
            raise ValueError(
                "model.init_args.batched_targets: a goal is the only target; leave it or goal out"
            )
        if h["transfer_to"] is not None and h["eps_curve"]:
            raise ValueError("model.init_args.eps_curve is of the target itself; leave it or transfer_to out")

    # --- the target -------------------------------------------------------------------------------------

    def setup(self, stage: str) -> None:
        target = load_target(self.hparams["target"], self.hparams["mean"], self.hparams["std"])
        self._held, self.warned, self.sums = [Victim(target)], set(), nn.ModuleDict()
        if self.hparams["transfer_to"] is not None:
            self._held.append(Victim(load_target(self.hparams["transfer_to"])))

    def victim(self) -> Victim:
        """The target on this module's device."""
        return self._placed(self._held[0])

    def judge(self) -> Victim:
        """What says whether an image is right: the target, or what it is transferred to."""
        return self._placed(self._held[-1])

    def _placed(self, victim: Victim) -> Victim:
        with torch.inference_mode(False):
            victim.classify.to(self.device)  # type: ignore[attr-defined]
        return victim

    def unit_images(self, image: Tensor) -> Tensor:
        """The batch's images in [0, 1].

        Raises:
            ValueError: for images outside of the range that ``pixels`` says, or that look like another.
        """
        low, high = float(image.min()), float(image.max())
        least = 0.0 if self.hparams["pixels"] == "unit" else -1.0
        if not (least <= low and high <= 1):
            other = "; set model.init_args.pixels: symmetric" if -1 <= low < 0 and high <= 1 else ""
            raise ValueError(
                f"the images run from {low:g} to {high:g}, but model.init_args.pixels: "
                f"{self.hparams['pixels']} means [{least:g}, 1]{other}"
            )
        if least < 0 <= low:
            raise ValueError(
                f"the images run from {low:g} to {high:g}: no pixel is below 0, so these are hardly images "
                "in [-1, 1]; set model.init_args.pixels: unit"
            )
        return image.float() if least == 0 else (image.float() + 1) / 2

    # --- the attack -------------------------------------------------------------------------------------

    def attack(self, batch: Mapping[str, Tensor], eps: float | None = None) -> tuple[Tensor, Result]:
        """Clean images in [0, 1] and what the policy made of them.

        Raises:
            ValueError: for labels that the target does not know.
        """
        victim, image, label = self.victim(), self.unit_images(batch["image"]), batch["label"]
        self._known(victim, image, label)
        keys = image_keys(global_seed(), batch["index"].to(image.device))
        norm: Norm = "l2" if self.threat == "l2" else "linf"
        radius = _FREE_RADIUS if self.threat == "unrestricted" else eps or self.hparams["eps"]
        return image, run_policy(
            victim, self.policy, image, label, keys, norm, radius, self.rules, self.hparams["goal"]
        )

    @staticmethod
    def _known(victim: Victim, image: Tensor, label: Tensor) -> Victim:
        """The same classifier, which knows these labels."""
        classes = victim.classes_of(image)
        if int(label.max()) >= classes or int(label.min()) < 0:
            raise ValueError(
                f"the target gives scores of {classes} classes, but the data have labels from "
                f"{int(label.min())} to {int(label.max())}; choose another target or other data"
            )
        return victim

    def test_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        victim = self.victim()
        if batch_idx == 0:
            first = self.unit_images(batch["image"])
            self.warned |= probe(self._known(victim, first, batch["label"]), first, batch["label"])
        image, found = self.attack(batch)
        label = batch["label"]
        judge = self.judge()
        clean = found.clean if judge is victim else self._known(judge, image, label).right(image, label)
        # the images that are handed over count, in one pass of the whole batch
        robust, offset = clean & judge.right(found.image, label), found.image - image
        per_image = {
            "images": torch.ones_like(robust), "accuracy": clean, "robust_accuracy": robust,
            "linf_mean": largest(offset), "l2_mean": lengths(offset),
        }  # fmt: skip
        if found.goal is not None:  # "attacked" and "reached" are for attack_success alone
            attacked = clean & (found.goal != label)
            made = judge.logits(found.image).argmax(dim=1)
            per_image |= {"attacked": attacked, "reached": attacked & (made == found.goal)}
        if judge is not victim:
            per_image |= {"source_accuracy": found.clean, "source_robust_accuracy": found.robust}
        for name, values in per_image.items():
            self._sum(name).update(values.float().sum())
        for name, values in zip(_LARGEST, (largest(offset), lengths(offset)), strict=True):
            self._metric(name, MaxMetric).update(values.max())
        for place, left in enumerate(found.after):
            if found.goal is None:
                self._sum(f"accuracy_after_{place + 1}").update(float(left))
            self._sum(f"fooled_by_{place + 1}").update(float((found.fooled_by == place).sum()))
        for name, value in asdict(found.cost).items():
            self._sum(name).update(float(value))
        self._curve(batch, found.clean)

    def _curve(self, batch: dict[str, Tensor], clean: Tensor) -> None:
        left = clean.clone()
        for number, eps in enumerate(sorted(self.hparams["eps_curve"])):
            rows = left.nonzero()[:, 0]
            if len(rows):
                _, found = self.attack({k: batch[k][rows] for k in ("image", "label", "index")}, eps)
                left[rows] = found.robust
            self._sum(f"curve_{number}").update(left.float().sum())

    def _sum(self, name: str) -> Any:
        return self._metric(name, SumMetric)

    def _metric(self, name: str, kind: Any) -> Any:
        key = _KEY + name  # a module has a `forward` of its own
        if key not in self.sums:
            with torch.inference_mode(False):
                self.sums[key] = kind().set_dtype(torch.float64).to(self.device)
        return self.sums[key]

    def on_test_epoch_end(self) -> None:
        totals = {k.removeprefix(_KEY): float(m.compute()) for k, m in self.sums.items()}  # type: ignore[operator]
        images, attacked, reached = (totals.pop(k, 0.0) for k in ("images", "attacked", "reached"))
        found = {k: v if k in _LARGEST else v / images for k, v in totals.items()}
        clean, robust = found["accuracy"], found["robust_accuracy"]
        found["attack_success"] = 1 - robust / clean if clean else 0.0
        if self.hparams["goal"] is not None:
            found["attack_success"] = reached / attacked if attacked else 0.0
        classes = self._held[0].classes if self.hparams["goal"] is None else ONE_TARGET
        found["nominal_forward"] = float(self.policy.forward(classes))
        found["nominal_backward"] = float(self.policy.backward(classes))
        names = [step.attacker for step in self.policy.steps]
        fooled = [round(totals[f"fooled_by_{i + 1}"]) for i in range(len(names))]
        if square_wins(names, fooled, round(images)):
            self.warned.add("square")
        found["unreliable"] = float(bool(self.warned))
        radii = sorted(self.hparams["eps_curve"])
        curve = {0.0: clean, **{eps: found.pop(f"curve_{i}") for i, eps in enumerate(radii)}}
        for i, eps in enumerate(radii):
            found[f"robust_accuracy_at_{eps:g}"] = curve[radii[i]]
        for name, value in found.items():
            self.log(f"test/{name}", value, sync_dist=False, rank_zero_only=True)
        self._tell(found, round(images))
        if self.trainer.is_global_zero and self.trainer.log_dir is not None:
            self._write(Path(self.trainer.log_dir), found, curve if radii else {})

    def _tell(self, found: Mapping[str, float], images: int) -> None:
        cost = f"{found['forward']:,.0f} forward and {found['backward']:,.0f} backward passes"
        where = "" if self.threat == "unrestricted" else f", {self.threat} eps {self.hparams['eps']:g}"
        if self.hparams["goal"] is not None:
            where += f", goal {self.hparams['goal']}"
        if self.hparams["transfer_to"] is not None:
            where += f", transferred to {self.hparams['transfer_to']}"
        right = f"{found['accuracy']:.4f} are right, under attack {found['robust_accuracy']:.4f}"
        if self.hparams["goal"] is not None:
            right += f", {found['attack_success']:.4f} are taken for the goal"
        seconds = f"{found['cpu_seconds']:.3f} CPU s an image"
        say(f"{self.policy}{where}: of {images:,} images {right}; {cost} and {seconds}")
        for name in sorted(self.warned):
            say(f"warning: the target's robust accuracy is unreliable ({name}): {WARNINGS[name]}")

    def _write(self, folder: Path, found: Mapping[str, float], curve: Mapping[float, float]) -> None:
        data = getattr(self.trainer, "datamodule", None)
        settings = {
            "name": self.hparams["transfer_to"] or self.hparams["target"],
            "dataset": getattr(data, "source", type(data).__name__),
            **{k: self.hparams[k] for k in ("additional_data", "number_forward_passes", "reported")},
        }
        more = {
            "warnings": sorted(self.warned),
            "policy": json.loads(self.policy.to_json()),
            "source": self.hparams["target"],
            "seed": global_seed(),
            "goal": self.hparams["goal"],
            "measured": {k: round(v, 6) for k, v in found.items()},
        }
        text = robustbench(
            found["accuracy"], found["robust_accuracy"], self.hparams["eps"], self.threat, settings, more
        )
        replace_file(folder / "robustness.json", text)
        if curve:
            path = folder / "robustness_curve.png"
            with writing(path):
                draw_curve(path, curve, self.hparams["eps"], found["robust_accuracy"], self.threat)

    def predict_step(self, batch: dict[str, Tensor], batch_idx: int) -> AdversarialImages:
        if "image" not in batch:
            raise ValueError(
                "zoo.RobustEvaluation needs images to attack, but the data predict from labels alone; set "
                "data.class_path: datamodules.LabelledImages"
            )
        image, found = self.attack(batch)
        judge = self._known(self.judge(), image, batch["label"])
        offset, names = found.image - image, class_names_of(self, judge.classes)
        tensors = {
            "image": image,
            "adversarial": found.image,
            "label": batch["label"],
            "predicted": judge.logits(image).argmax(dim=1),
            "adversarial_predicted": judge.logits(found.image).argmax(dim=1),
            "linf": largest(offset),
            "l2": lengths(offset),
            "index": batch["index"],
        }
        if found.goal is not None:
            tensors["goal"] = found.goal
        on_cpu: dict[str, Any] = {name: value.cpu() for name, value in tensors.items()}
        return AdversarialImages(**on_cpu, class_names=names, policy=self.policy.to_json())
