"""The losses at a module's settings: what enters them, computed again by hand."""

from __future__ import annotations

from typing import Any
from unittest import mock

import pytest
import torch
from torch import Tensor, tensor

import datamodules
import zoo
from zoo.ami import objectives, processes, synthetic
from zoo.ami.information import cut_at_eos, sequence_nll
from zoo.ami.recovery import recovery_nll

PAD, BOS, EOS, V = 1, 2, 3, 58


def made(**settings: Any) -> Any:
    torch.manual_seed(0)
    small = {"variant": "gru", "vocab_size": V, "width": 16, "samples": 2, "max_length": 6, "noise": "none"}
    return zoo.AMI(**{**small, **settings}).eval()


def batch_of(pairs: int = 8) -> dict[str, Any]:
    data = datamodules.DullReplies(batch_size=pairs, train_pairs=64, val_pairs=8)
    data.setup("fit")
    batch: dict[str, Any] = next(iter(data.train_dataloader()))
    return batch


def random(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def drawn(module: Any, rows: Tensor, noise: Tensor | None = None) -> Any:
    """T' are these."""
    found = (*cut_at_eos(rows, EOS, PAD), noise)
    return mock.patch.object(module.objectives.synthetic, "draw", return_value=found)


def test_a_gold_reply_is_not_punished_and_each_pair_has_its_own_weight() -> None:
    module, batch = made(phi_adv_weight=0.5), batch_of()
    losses, gold = module.objectives, batch["target"][:, 1:]
    with drawn(module, gold.repeat(2, 1)):
        loss, logged = losses.backward_adversarial(batch, random())
    assert abs(float(loss)) < 1e-5
    assert logged["pair_weight"].abs() < 1e-6
    # the first copies are gold, the second ones are another source's: weights differ from pair to pair
    rows = torch.cat([gold, gold.roll(1, dims=0)])
    labels, sources = cut_at_eos(rows, EOS, PAD)
    with drawn(module, rows):
        loss, logged = losses.backward_adversarial(batch, random())
    weight = losses.weights(batch, sources)
    table = module.network.forward_network.word_table()

    def mean(ids: Tensor) -> Tensor:
        return torch.stack([table[row[row > EOS]].mean(0) for row in ids])

    cosine = torch.cosine_similarity(mean(gold.repeat(2, 1)), mean(labels))
    assert torch.allclose(weight, (1 - cosine).clamp(min=0), atol=1e-6)
    assert weight[8:].max() > 0.1 > 1e-5 > weight[:8].max()
    nll = recovery_nll(module.network.backward_network, batch, sources, PAD, 2)
    assert float(loss) == pytest.approx(-0.5 * float((weight * nll).sum()) / 16, rel=1e-5)
    by_mean = float(weight.mean() * nll.mean())  # what the released broadcast makes of it
    assert abs(float(loss) / -0.5 - by_mean) > 1e-3 * by_mean
    assert logged["pair_weight"] == pytest.approx(float(weight.mean()))


@pytest.mark.parametrize("baseline", ["leave_one_out", "batch", "none"])
def test_the_reward_is_per_token_and_less_its_baseline(baseline: str) -> None:
    module, batch = made(baseline=baseline, rollout="sample"), batch_of(4)
    rows = torch.randint(4, V, (8, 5), generator=random())
    rows[2, 2] = rows[5, 0] = EOS
    labels, sources = cut_at_eos(rows, EOS, PAD)
    noise = torch.zeros(2, 4, batch["source"].shape[1], 16)
    with drawn(module, rows, noise):
        loss, logged = module.objectives.forward_adversarial(batch, random())
    reward = -recovery_nll(module.network.backward_network, batch, sources, PAD, 2, mean=True).view(2, 4)
    left = {"leave_one_out": reward.flip(0), "batch": reward.mean(), "none": 0}[baseline]
    prefix = torch.cat([labels.new_full((8, 1), BOS), labels[:, :-1]], dim=1)
    network = module.network.forward_network
    encoded = network.encode(batch["source"].repeat(2, 1))
    g = sequence_nll(network.decode(prefix, encoded), labels, PAD).view(2, 4)
    assert float(loss) == pytest.approx(float((g * (reward - left)).mean()), abs=1e-5)
    assert logged["reward"] == pytest.approx(float(reward.mean()))
    assert logged["rollout_length"] == pytest.approx((5 * 6 + 2 + 0) / 8)


@pytest.mark.parametrize("rollout", ["sample", "teacher_forced"])
def test_what_is_scored_follows_what_was_drawn(rollout: str) -> None:
    """A free reply is scored after itself, the argmax after the gold words that led to it."""
    module, batch = made(rollout=rollout), batch_of(4)
    labels = torch.randint(4, V, (8, batch["target"].shape[1] - 1), generator=random())
    prefix = module.objectives.synthetic.prefix(batch, labels)
    after = labels if rollout == "sample" else batch["target"][:, 1:].repeat(2, 1)
    assert torch.equal(prefix, torch.cat([labels.new_full((8, 1), BOS), after[:, :-1]], dim=1))


def test_neither_pad_nor_bos_is_said() -> None:
    batch = batch_of(4)
    for rollout in ("sample", "teacher_forced"):
        module = made(rollout=rollout)
        with torch.no_grad():
            module.network.forward_network.generator.bias[[PAD, BOS]] = 50.0
        labels, _, _ = module.objectives.synthetic.draw(batch, random())
        assert not (labels == BOS).any()
        assert (labels[:, 0] != PAD).all()
        ends = (labels == EOS).any(dim=1)
        assert (labels[~ends] != PAD).all()  # a pad stands behind an end alone
    for decoding in ("greedy", "beam", "sample"):
        generators = module.scoring.replies.generator(batch["index"], "val")
        rows, _ = module.scoring.replies.ranked(batch["source"], decoding, 1, generators)
        assert not (rows == BOS).any()
        assert (rows[:, :, 0] != PAD).all()


def test_the_noise_turn_has_the_whole_noise() -> None:
    """Lambda belongs to the forward phase alone; the reward of the noise is per token."""
    batch = batch_of(4)
    for grad in ("official", "straight_through"):
        found = []
        for scale in (0.0, 3.0):
            module = made(noise="learned", noise_scale=scale, noise_grad=grad, rho=0.1, noise_limit=100.0)
            found.append(module.objectives.noise(batch, random())[1])
        assert found[0] == found[1]
        encoded = module.network.forward_network.encode(batch["source"])
        n = module.network.noise_of(encoded, module.objectives.synthetic.normal(encoded, random()))
        words = module.objectives.synthetic.logits_after_gold(batch, encoded.perturbed(n)).argmax(-1)
        sources = cut_at_eos(words, EOS, PAD)[1]
        nll = recovery_nll(module.network.backward_network, batch, sources, PAD, 2, mean=True)
        strength = n.norm(dim=-1).mean()
        logged = {name: float(value.detach()) for name, value in found[0].items()}
        assert logged["noise_strength"] == pytest.approx(float(strength.detach()), rel=1e-5)
        assert logged["noise_loss"] == pytest.approx(float((nll.mean() - 0.1 * strength).detach()), rel=1e-5)


def test_lambda_scales_the_noise_that_is_drawn_and_scored_with() -> None:
    module, batch = made(noise="gaussian", noise_std=1.0, noise_scale=0.5), batch_of(4)
    network, used = module.network.forward_network, []
    original = network.decode

    def decode(prefix: Tensor, encoded: Any) -> Tensor:
        used.append(encoded.states)
        return original(prefix, encoded)

    with mock.patch.object(network, "decode", decode):
        module.objectives.forward_adversarial(batch, random(5))
    encoded = network.encode(batch["source"])
    normal = module.objectives.synthetic.normal(encoded, random(5))
    assert torch.allclose(used[-1], (encoded.states + 0.5 * normal).flatten(0, 1), atol=1e-6)
    clean = made(noise="none").objectives.synthetic.draw(batch, random(5))
    noisy = module.objectives.synthetic.draw(batch, random(5))
    assert (clean[0].shape != noisy[0].shape) or not torch.equal(clean[0], noisy[0])


@pytest.mark.parametrize("rollout", ["sample", "teacher_forced"])
def test_processes_draw_the_rows_of_the_global_batch(rollout: str) -> None:
    """Noise and replies of rows 0, 2, ... on one process and 1, 3, ... on the other are those of one."""
    settings = {"noise": "gaussian", "noise_std": 1.0, "rollout": rollout}
    module, batch = made(**settings), batch_of(6)
    whole = module.objectives.synthetic.draw(batch, random())
    for rank in (0, 1):
        part = {k: v[rank::2] for k, v in batch.items()}
        with (
            mock.patch.object(processes, "place", lambda rank=rank: (rank, 2)),
            mock.patch.object(synthetic, "global_rows", lambda states: (6, states.shape[1])),
        ):
            labels, sources, noise = module.objectives.synthetic.draw(part, random())
        assert torch.equal(noise, whole[2][:, rank::2])
        for mine, all_rows in ((labels, whole[0]), (sources, whole[1])):
            expected = all_rows.unflatten(0, (2, 6))[:, rank::2].flatten(0, 1)
            assert torch.equal(mine, expected[:, : mine.shape[1]])
            assert (expected[:, mine.shape[1] :] == PAD).all()


def test_adversarial_gradients_are_clipped_and_those_of_mle_are_not() -> None:
    weight = torch.nn.Parameter(tensor([0.0, 0.0]))
    optimizer = torch.optim.SGD([weight], lr=1.0)
    cases = (((None, None), [30.0, 40.0]), ((1.0, None), [0.6, 0.8]), ((1.0, 0.1), [0.06, 0.08]))
    for limits, wanted in cases:
        processes.set_gradients(optimizer, (weight * tensor([30.0, 40.0])).sum(), limits)
        assert weight.grad is not None
        assert weight.grad.tolist() == pytest.approx(wanted, rel=1e-4)
    module = made(adversarial_clip=0.5, clip=None)
    seen: list[Any] = []
    wrapped = [mock.Mock() for _ in range(2)]
    with (
        mock.patch("zoo.ami.module.set_gradients", lambda o, loss, limits: seen.append(limits)),
        mock.patch.object(module, "optimizers", return_value=wrapped),
    ):
        module._step(0, tensor(0.0), mle=True)
        module._step(0, tensor(0.0), counts=False)
    assert seen == [(None, None), (0.5, None)]
    assert wrapped[0].step.call_count == 1  # the trainer counts one step a batch
    assert wrapped[0].optimizer.step.call_count == 1


def test_each_step_is_that_of_its_own_optimizer() -> None:
    from quiet import quiet_trainer

    turns = {f"{name}_batches": 1 for name in ("forward", "backward", "noise")}
    stages = {f"pretrain_{name}": 1 for name in ("forward", "backward", "noise", "source")}
    module = made(**turns, **stages, adversarial_every=1, noise="learned", source_model=True,
                  pretrain_optimizer=lambda p: torch.optim.SGD(p, lr=0.1))  # fmt: skip
    calls: list[tuple[int, bool, bool]] = []
    original = type(module)._step

    def step(self: Any, index: int, loss: Tensor, mle: bool = False, counts: bool = True) -> None:
        calls.append((index, mle, counts))
        parameters = {id(p) for g in self.optimizers()[index].param_groups for p in g["params"]}
        net = self.network
        parts = (net.forward_network, net.backward_network, net.forward_network, net.backward_network,
                 self.source_network, net.noise)  # fmt: skip
        assert parameters == {id(p) for p in parts[index].parameters()}
        original(self, index, loss, mle, counts)

    data = datamodules.DullReplies(batch_size=8, train_pairs=64, val_pairs=8)
    with mock.patch.object(type(module), "_step", step):
        quiet_trainer(max_steps=7, limit_val_batches=0).fit(module, data)
    mle, more = (True, True), (False, False)
    assert calls == [
        (2, *mle), (3, *mle), (5, False, True), (4, *mle),
        (0, *mle), (0, *more), (1, *mle), (1, *more), (5, False, True),
    ]  # fmt: skip


def test_a_reply_that_tells_the_source_becomes_likelier_in_the_module() -> None:
    """Two replies to each source; the backward network recovers the source from the first alone."""
    module, batch = made(baseline="leave_one_out"), batch_of(4)
    rows = tensor([[7, 8, EOS]] * 4 + [[9, 10, EOS]] * 4)
    noise = torch.zeros(2, 4, batch["source"].shape[1], 16)

    def nll(network: Any, batch: Any, reply: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        return torch.where(reply[:, 0] == 7, 1.0, 3.0)

    def margin() -> float:
        network = module.network.forward_network
        prefix = torch.cat([rows.new_full((8, 1), BOS), rows[:, :-1]], dim=1)
        logits = network.decode(prefix, network.encode(batch["source"].repeat(2, 1)))
        found = sequence_nll(logits, rows, PAD).view(2, 4)
        return float((found[1] - found[0]).mean())

    optimizer = torch.optim.SGD(module.network.forward_network.parameters(), lr=0.5)
    before = margin()
    with mock.patch.object(objectives, "recovery_nll", nll), drawn(module, rows, noise):
        loss, _ = module.objectives.forward_adversarial(batch, random())
        processes.set_gradients(optimizer, loss, (1.0,))
    optimizer.step()
    assert margin() > before + 0.01
