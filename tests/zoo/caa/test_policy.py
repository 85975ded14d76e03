"""Policies: cost, presets, what each mode counts, and the state that attackers hand on."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import zoo
from zoo.caa import composition
from zoo.caa.attack import Outcome, Rules, Setting, Start
from zoo.caa.attackers import ATTACKERS, pool
from zoo.caa.balls import Ball
from zoo.caa.composition import Result, attack_images, run_policy
from zoo.caa.draws import image_keys
from zoo.caa.policy import MODES, PRESETS, Mode, Policy, Step
from zoo.caa.victim import Victim

N = 40


@pytest.fixture(scope="module")
def model() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 10)).eval()


@pytest.fixture(scope="module")
def images() -> Tensor:
    return torch.rand(N, 1, 8, 8, generator=torch.Generator().manual_seed(1))


def attacked(
    model: Any, images: Tensor, policy: Policy, eps: float = 0.03, norm: Any = "linf", **rules: Any
) -> Result:
    victim = Victim(model)
    label = victim.logits(images).argmax(dim=1)
    label[:3] = (label[:3] + 1) % 10  # three clean errors
    keys = image_keys(0, torch.arange(len(images)))
    return run_policy(victim, policy, images, label, keys, norm, eps, Rules(**rules))


def of(*names: str, mode: Mode = "sequence", steps: int = 8) -> Policy:
    return Policy(tuple(Step(n, 1.0, steps if ATTACKERS[n].steps == "any" else 1) for n in names), mode)


def test_complexity_is_the_papers() -> None:
    cost = {name: policy.backward(10) for name, (_, policy) in PRESETS.items()}
    assert cost["caa_linf"] == 800
    assert PRESETS["caa_linf"][1].backward(100) == 800  # at most 9 targets
    assert PRESETS["caa_linf"][1].backward(5) == 4 * 75 + 125
    assert Policy(PRESETS["caa_linf"][1].steps, "subpolicies").backward(10) == 1150
    assert cost["caa_l2"] == 1925
    assert cost["caa_unrestricted"] == 0
    assert PRESETS["caa_unrestricted"][1].forward(10) == 25_600
    assert cost["autoattack_linf"] == 1900
    assert Policy((Step("ODI-cos", 1.0, 100), Step("FGSM"))).backward(10) == 111
    reduced = Policy((Step("MultiTargeted", 1.0, 12), Step("MultiTargeted", 1.0, 6), Step("CW", 1.0, 31)))
    assert reduced.backward(10) == 193
    assert PRESETS["caa_l2"][1].steps[1].magnitude * 0.5 == 0.4375


def test_random_policies_of_three_stay_in_the_ball(model: nn.Module, images: Tensor) -> None:
    draw = torch.Generator().manual_seed(2)
    for number in range(20):
        norm, eps = (("linf", 0.15), ("l2", 1.0))[number % 2]
        names = [a for a in pool(norm, extra=number > 9) if a.name != "Square"]
        chosen = [names[int(torch.randint(len(names), (1,), generator=draw))] for _ in range(3)]
        steps = tuple(
            Step(
                a.name,
                1.0 if a.magnitude == "none" else int(torch.randint(1, 9, (1,), generator=draw)) / 8,
                4 if a.steps == "any" else 1,
            )
            for a in chosen
        )
        mode: Mode = ("sequence", "subpolicies", "union")[number % 3]  # type: ignore[assignment]
        found = attacked(model, images[:8], Policy(steps, mode), eps, norm, early_exit=number % 4 < 2)
        assert Ball(norm, eps).size(found.image - images[:8]).max() <= eps + 1e-6, steps  # type: ignore[arg-type]
        assert 0 <= found.image.min() <= found.image.max() <= 1


def test_more_attackers_cannot_help_the_model_in_subpolicies_and_skip_changes_nothing(
    model: nn.Module, images: Tensor
) -> None:
    names = ["PGD", "FGSM", "CW"]
    for early in (True, False):
        robust = [
            attacked(model, images, of(*names[:n], mode="subpolicies"), early_exit=early).robust
            for n in (1, 2, 3)
        ]
        assert not (robust[1] & ~robust[0]).any()
        assert not (robust[2] & ~robust[1]).any()
    for mode in MODES:
        plain = attacked(model, images, of("PGD", mode=mode))  # type: ignore[arg-type]
        skipped = attacked(model, images, of("PGD", "Skip", mode=mode))  # type: ignore[arg-type]
        assert torch.equal(plain.robust, skipped.robust)
        assert torch.equal(plain.image, skipped.image)


def test_subpolicies_are_the_sequence_and_each_attacker_alone(model: nn.Module, images: Tensor) -> None:
    both = attacked(model, images, of("CW", "FGSM", mode="subpolicies"), early_exit=False)
    sequence = attacked(model, images, of("CW", "FGSM"), early_exit=False)
    alone = attacked(model, images, of("FGSM"), early_exit=False)
    assert torch.equal(both.robust, sequence.robust & alone.robust)
    assert both.cost.backward == sequence.cost.backward + alone.cost.backward
    union = attacked(model, images, of("CW", "FGSM", mode="union"), early_exit=False)
    first = attacked(model, images, of("CW"), early_exit=False)
    assert torch.equal(union.robust, first.robust & alone.robust)


def test_an_early_exit_leaves_the_number_and_spares_passes(model: nn.Module, images: Tensor) -> None:
    for mode in MODES:
        chain = of("MultiTargeted", "CW", mode=mode)  # type: ignore[arg-type]
        found, whole = (attacked(model, images, chain, early_exit=e) for e in (True, False))
        if mode != "sequence":
            assert torch.equal(found.robust, whole.robust)
        assert found.cost.backward < whole.cost.backward
        assert whole.clean.sum() == N - 3
        assert not whole.robust[:3].any()


def test_what_is_fooled_passes_by_and_what_is_not_is_handed_on(
    model: nn.Module, images: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Start] = []

    def shift(victim: Victim, start: Start, setting: Setting) -> Outcome:
        seen.append(start)
        return Outcome((start.image + 0.01).clamp(0, 1), (start.image[:, 0, 0, 0] > 0.9), free=free)

    fake = {"FGSM": composition.ATTACKERS["FGSM"].__class__("FGSM", shift, ("linf",))}
    monkeypatch.setattr(composition, "ATTACKERS", {**ATTACKERS, **fake})
    for free, early in ((False, True), (True, True), (False, False)):
        seen.clear()
        attacked(model, images, of("FGSM", "FGSM"), early_exit=early)
        assert len(seen[0]) == N - 3
        left = images[3:][images[3:, 0, 0, 0] <= 0.9]
        assert torch.allclose(seen[1].image, (left + 0.01).clamp(0, 1))
        # the ball stays around the clean image, but after an attacker without one it starts anew
        assert torch.allclose(seen[1].anchor, seen[1].image if free else left)
        # an early exit takes what the sequence fooled out of the lone runs too
        seen.clear()
        attacked(model, images, of("FGSM", "FGSM", mode="subpolicies"), early_exit=early)
        assert len(seen[1]) == len(left) + (len(left) if early else N - 3)


def test_the_count_of_passes_is_that_of_the_model(images: Tensor, model: nn.Module) -> None:
    passed = [0]

    class Counting(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            passed[0] += len(x)
            return model(x)

    for threat, policy in (
        ("linf", of("PGD", "MultiTargeted", "FGSM", "ODI-step", "FAB-T", steps=5)),
        ("l2", of("DDN", "CWL2", "Square", steps=5)),
        ("linf", of("Spatial", "fog")),
    ):
        passed[0] = 0
        found = attacked(Counting().eval(), images[:10], policy, norm=threat)
        assert found.cost.forward == passed[0] - 10  # those that found the labels
        assert sum(c.forward for c in found.cost_of) == found.cost.forward - 10
        assert found.cost.cpu_seconds > 0


def test_the_attacked_model_stays_as_it_was(model: nn.Module, images: Tensor) -> None:
    before = {k: v.clone() for k, v in model.state_dict().items()}
    with torch.inference_mode(), torch.no_grad():  # as Lightning's test loop
        found = attacked(model, images, of("PGD", "MultiTargeted", "ODI-cos", "FGSM"))
    assert found.robust.sum() < found.clean.sum()
    assert not model.training
    assert all(p.grad is None and p.requires_grad for p in model.parameters())
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    with pytest.raises(ValueError, match="training mode"):
        Victim(nn.Linear(1, 1).train())


def test_models_that_cannot_be_judged_are_refused(images: Tensor) -> None:
    for answer, words in (
        (lambda x: x.flatten(1) * torch.nan, "NaN or infinite"),
        (lambda x: x, "one row of class scores"),
        (lambda x: x.flatten(1)[:, :1], "an attack needs at least 2 classes"),
    ):
        with pytest.raises(ValueError, match=words):
            Victim(answer).logits(images)


def test_all_images_wrong_is_no_error(model: nn.Module, images: Tensor) -> None:
    victim = Victim(model)
    wrong = (victim.logits(images).argmax(dim=1) + 1) % 10
    found = run_policy(
        victim, of("MultiTargeted", "PGD", "FGSM"), images, wrong, image_keys(0, torch.arange(N)), "linf", 0.1
    )
    assert not found.clean.any()
    assert torch.equal(found.image, images)
    assert (found.cost.forward, found.cost.backward) == (N, 0)


def test_one_call_attacks_a_loaded_classifier_and_refuses_what_makes_no_sense(images: Tensor) -> None:
    classifier = zoo.load("robust_classifier_digits")
    with torch.no_grad():
        labels = classifier.network(images).argmax(dim=1)
    short = [{"attacker": "PGD", "steps": 5}]
    found = classifier.attack(images, labels, short, threat="linf")
    assert found.clean.all()
    assert found.robust.sum() < 35
    assert 0.1 < (found.image - images).abs().max() <= 0.15 + 1e-6  # the radius of its training
    smaller = attack_images(classifier.network, images, labels, short, eps=0.02, threat="linf")
    assert smaller.robust.sum() > found.robust.sum()
    for given, words in (
        ({"images": images * 255}, r"run from .* to 25\d"),
        ({"images": images * torch.nan}, r"from nan to nan; \[0, 1\] is needed"),
        ({"images": (images * 255).byte()}, "uint8"),
        ({"images": images[0]}, r"\(N, C, H, W\) are needed"),
        ({"labels": labels[:3]}, r"labels are .*\(3,\)"),
        ({"labels": labels + 5}, "labels run from .* 10 classes"),
        ({"eps": 0.0}, "eps is 0.0"),
        ({"policy": "caa"}, "no preset 'caa'"),
    ):
        with pytest.raises(ValueError, match=words):
            classifier.attack(**{"images": images, "labels": labels, **given})


def test_a_goal_is_reached_or_not_and_costs_one_target(model: nn.Module, images: Tensor) -> None:
    victim = Victim(model)
    z = victim.logits(images)
    labels = z.argmax(dim=1)
    short = [{"attacker": "MultiTargeted", "steps": 6}, {"attacker": "PGD", "steps": 6}]
    means = {"next": (labels + 1) % 10, "least_likely": z.argmin(dim=1), 2: torch.full((N,), 2), None: None}
    for mode in MODES:
        for goal, aim in means.items():
            for early in (True, False):
                settings = {"eps": 0.3, "threat": "linf", "mode": mode, "rules": Rules(early_exit=early)}
                found = attack_images(model, images, labels, short, goal=goal, **settings)  # type: ignore[arg-type]
                after = model(found.image).argmax(dim=1)
                if aim is None:
                    assert found.goal is None
                    assert torch.equal(found.robust, after == labels)
                    continue
                assert torch.equal(found.goal, aim)
                asked = aim != labels
                assert torch.equal(found.robust, ~(asked & (after == aim)))
                assert (~found.robust).sum() > 2
                assert torch.equal(found.image[~asked], images[~asked])  # these are what is wanted
                if not early and mode == "sequence":
                    hit = int((found.fooled_by == 0).sum())
                    assert found.cost.backward == 6 * int(asked.sum()) + 6 * (int(asked.sum()) - hit)
    anything = attack_images(model, images, labels, short, eps=0.1, threat="linf")
    assert (
        anything.robust.sum() < attack_images(model, images, labels, short, 0.1, "linf", goal=3).robust.sum()
    )
    for goal in (10, -1, True, "last"):
        with pytest.raises(
            ValueError, match=r"must be next, least_likely or one of the 10 classes .* 0 to 9"
        ):
            attack_images(model, images, labels, short, threat="linf", goal=goal)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"attacker": "PDG"}, "did you mean PGD"),
        ({"attacker": "PGD", "steps": 0}, "steps of PGD is 0"),
        ({"attacker": "PGD", "steps": True}, "steps of PGD is True"),
        ({"attacker": "PGD", "magnitude": float("nan")}, "magnitude (a share of eps) of PGD is nan"),
        ({"attacker": "PGD", "magnitude": 1.5}, "must lie in (0, 1]"),
        ({"attacker": "fog", "magnitude": 6}, "severity of fog is 6"),
        ({"attacker": "fog", "magnitude": 1.5}, "must be a whole number"),
        ({"attacker": "DDN", "magnitude": 0.5, "steps": 9}, "DDN has no magnitude"),
        ({"attacker": "FGSM", "steps": 9}, "FGSM takes no steps"),
        ({"name": "PGD"}, "is no attacker; write"),
    ],
)
def test_a_policy_that_makes_no_sense_is_refused(given: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=re.escape(words)):
        Policy.of([given])


def test_a_policy_as_json_and_as_text() -> None:
    policy = PRESETS["caa_linf"][1]
    again = json.loads(policy.to_json())
    assert Policy.of(again["steps"], again["mode"]) == policy
    assert str(policy) == "MultiTargeted(1, 50) -> MultiTargeted(1, 25) -> CW(1, 125)"
    assert policy.word == 584004403  # crc32: the same in every process
    with pytest.raises(ValueError, match="set threat: l2"):
        of("DDN").check("linf")
    with pytest.raises(ValueError, match="set threat: unrestricted"):
        of("fog").check("l2")
    with pytest.raises(ValueError, match="works inside a ball"):
        of("PGD").check("unrestricted")
