"""What attacks cost: a policy against the chain and APGD-T, early exits, all targets in one forward."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

import datamodules
import zoo
from benchmarks.interleaved import interleaved, median, ratio
from zoo.caa.attack import Rules
from zoo.caa.composition import Result, run_policy
from zoo.caa.draws import image_keys
from zoo.caa.policy import PRESETS, Policy, Step
from zoo.caa.victim import Victim

POLICY = Policy((Step("MultiTargeted", 1.0, 12), Step("MultiTargeted", 1.0, 6), Step("CW", 1.0, 31)))
SEED, EPS = 3, 0.15


@pytest.fixture(scope="module")
def digits(request: pytest.FixtureRequest) -> tuple[Tensor, Tensor]:
    data = datamodules.LabelledImages()
    data.setup("test")
    batch = data.test_set.__getitems__(range(12 if request.config.getoption("--quick") else 360))
    return batch["image"], batch["label"]


def shorter(policy: Policy, quick: bool) -> Policy:
    return (
        Policy(tuple(replace(s, steps=min(s.steps, 3)) for s in policy.steps), policy.mode)
        if quick
        else policy
    )


def attacks(
    digits: tuple[Tensor, Tensor], policies: dict[str, tuple[Policy, Rules]]
) -> dict[str, Callable[[], Result]]:
    image, label = digits
    model = zoo.load("robust_classifier_digits").network.eval()
    keys = image_keys(SEED, torch.arange(len(label)))

    def attack(policy: Policy, rules: Rules) -> Result:
        return run_policy(Victim(model), policy, image, label, keys, "linf", EPS, rules)

    return {name: (lambda given=given: attack(*given)) for name, given in policies.items()}


def told(record: Any, name: str, found: Result) -> None:
    images, cost = len(found.clean), found.cost
    record(f"{name}/robust_accuracy", float(found.robust.float().mean()))
    record(f"{name}/backward", cost.backward / images)
    record(f"{name}/forward", cost.forward / images)
    record(f"{name}/passes", (cost.forward + cost.backward) / images)


def test_the_published_policy_against_the_chain_and_apgd_t(
    digits: tuple[Tensor, Tensor], record: Callable[[str, float], None], request: pytest.FixtureRequest
) -> None:
    """Passes of an image and CPU seconds of 360 digits, the sides in turns."""
    quick = request.config.getoption("--quick")
    rivals = {"chain": PRESETS["autoattack_linf"][1], "apgd_t": PRESETS["apgd_t_linf"][1], "policy": POLICY}
    rivals["multi_targeted"] = Policy(POLICY.steps[:1])
    run = attacks(digits, {k: (shorter(p, quick), Rules()) for k, p in rivals.items()})
    found: dict[str, Result] = {}
    kept = {name: (lambda name=name: found.__setitem__(name, run[name]())) for name in run}
    times = interleaved(kept, 1, warmup=0, clock=time.process_time)
    for name, result in found.items():
        told(record, name, result)
        record(f"{name}/cpu_seconds", median(times, name))
    for name in ("chain", "apgd_t"):
        ours, theirs = found["policy"].cost, found[name].cost
        record(f"{name}/times_the_backward_passes", theirs.backward / max(ours.backward, 1))
        both = (theirs.forward + theirs.backward) / (ours.forward + ours.backward)
        record(f"{name}/times_all_passes", both)
        record(f"{name}/times_the_cpu_seconds", ratio(times, name, "policy"))


def test_an_early_exit_against_none_and_targets_together_against_one_by_one(
    digits: tuple[Tensor, Tensor], record: Callable[[str, float], None], request: pytest.FixtureRequest
) -> None:
    """The published policy; then MultiTargeted(12) alone, with all of its passes and with an early exit."""
    quick = request.config.getoption("--quick")
    targets = Policy(POLICY.steps[:1])
    sides = {
        "early_exit": (POLICY, Rules()),
        "no_exit": (POLICY, Rules(early_exit=False)),
        "one_by_one": (targets, Rules(early_exit=False)),
        "together": (targets, Rules(early_exit=False, batched_targets=True)),
        "one_by_one_exit": (targets, Rules()),
        "together_exit": (targets, Rules(batched_targets=True)),
    }
    run = attacks(digits, {k: (shorter(p, quick), r) for k, (p, r) in sides.items()})
    found: dict[str, Result] = {}
    kept = {name: (lambda name=name: found.__setitem__(name, run[name]())) for name in run}
    times = interleaved(kept, 1 if quick else 3, warmup=0, clock=time.process_time)
    for name, result in found.items():
        told(record, name, result)
        record(f"{name}/cpu_seconds", median(times, name))
    assert torch.equal(found["one_by_one"].robust, found["together"].robust)
    assert found["one_by_one"].cost.backward == found["together"].cost.backward
    record("early_exit/times_faster", ratio(times, "no_exit", "early_exit"))
    record("together/times_faster", ratio(times, "one_by_one", "together"))
    record("together_exit/times_faster", ratio(times, "one_by_one_exit", "together_exit"))
