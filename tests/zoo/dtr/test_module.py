"""The training, evaluation and sampling steps of DTR on a small network."""

from __future__ import annotations

import math
from fractions import Fraction
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from fakes.latents import fake_latents
from lightning.pytorch import Trainer
from quiet import quiet_trainer
from torch import Tensor, nn

import zoo
from datamodules import Digits, ImageNetLatents
from datamodules.latents.lightningdit import LightningDiTLatents
from zoo.diffusion.losses import min_snr_weight, p2_weight
from zoo.dtr.module import DTR
from zoo.engine.ema import averaged_parameters
from zoo.metrics.digits import DigitClassifier

SMALL: dict[str, Any] = {
    "input_size": 8, "in_channels": 1, "num_classes": 10, "width": 24, "depth": 2, "heads": 2,
    "sampling_steps": 5, "guidance": 1.0,
}  # fmt: skip


UNET: dict[str, Any] = {
    "unet_channels": 32, "unet_multipliers": (1, 2), "unet_res_blocks": 1, "unet_attention": (4,),
    "unet_head_channels": 32, "width": None, "depth": None, "heads": None,
}  # fmt: skip


def build(step: int = 0, rank: int = 0, world: int = 1, weights: bool = True, **kwargs: Any) -> Any:
    """A module with random non-zero weights and a stand-in trainer; ``module.logged`` is what it logs."""
    torch.manual_seed(0)
    module: Any = DTR(**{**SMALL, **kwargs})
    if weights:
        g = torch.Generator().manual_seed(1)
        with torch.no_grad():
            for p in module.network.parameters():
                p.copy_(torch.randn(p.shape, generator=g) * 0.1)
    module._trainer = SimpleNamespace(global_step=step, world_size=world, global_rank=rank)
    module.logged = {}
    module.log = lambda name, value, **_: module.logged.__setitem__(name, value)
    module.log_dict = lambda values, **_: module.logged.update(values)
    module.all_gather = lambda x: x[None]
    return module


def batch(size: int = 16, classes: int = 10) -> dict[str, Tensor]:
    g = torch.Generator().manual_seed(3)
    image, index = torch.rand(size, 1, 8, 8, generator=g) * 2 - 1, torch.arange(size)
    return {"image": image, "label": index % classes, "index": index}


def calls(module: Any) -> list[tuple[Tensor, Tensor, Tensor]]:
    """(x, t, y) of every forward of the network from now on."""
    seen: list[tuple[Tensor, Tensor, Tensor]] = []
    module.network.register_forward_pre_hook(lambda _, args: seen.append(args))
    return seen


def trainer(**kwargs: Any) -> Trainer:
    return quiet_trainer(use_distributed_sampler=False, **kwargs)


def test_a_fresh_model_has_the_mean_square_of_the_noise_as_its_error() -> None:
    module = build(weights=False)
    seen, data = calls(module), batch()
    module.training_step(data, 0)
    t, noise, _ = module._training_draws(data["image"], 0)
    assert torch.equal(seen[0][1], t)
    assert module.logged["train/mse"].item() == pytest.approx(noise.square().mean().item(), rel=1e-6)
    assert module.logged["train/mse"].item() == pytest.approx(1, abs=0.15)


def test_the_network_sees_x_t_of_the_drawn_noise() -> None:
    module, data = build(), batch()
    seen = calls(module)
    module.training_step(data, 0)
    t, noise, _ = module._training_draws(data["image"], 0)
    abar = module.schedule.tables["alpha_bar"][t].view(-1, 1, 1, 1)
    expected = abar.sqrt() * data["image"] + (1 - abar).sqrt() * noise
    torch.testing.assert_close(seen[0][0].double(), expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("kind", ["constant", "min_snr", "p2"])
def test_the_weight_multiplies_the_eps_error_and_never_vb(kind: str) -> None:
    module, data = build(loss_weight=kind), batch()
    loss = module.training_step(data, 0)
    t, noise, dropped = module._training_draws(data["image"], 0)
    y = torch.where(dropped, 10, data["label"])
    mse, vb = module._errors(data["image"], t, y, noise)
    weight = {"constant": torch.ones(16), "min_snr": min_snr_weight(module.schedule, t)}
    weight["p2"] = p2_weight(module.schedule, t)
    assert loss.item() == pytest.approx((weight[kind] * mse + vb).mean().item(), rel=1e-6)
    assert vb.mean().item() > 1e-4
    if kind != "constant":
        assert abs(loss.item() - (weight[kind] * (mse + vb)).mean().item()) > 1e-5


@pytest.mark.parametrize("kind", ["constant", "min_snr", "p2", "uw"])
def test_the_logged_loss_is_the_unweighted_mean(kind: str) -> None:
    module, data = build(loss_weight=kind), batch()
    total, logged = module.training_step(data, 0), module.logged
    both = (logged["train/mse"] + logged["train/vb"]).item()
    assert logged["train/loss"].item() == pytest.approx(both, rel=1e-6)
    if kind == "uw":
        assert total.item() == pytest.approx(0.5 * logged["train/loss"].item(), rel=1e-5)
        assert [logged[f"uw/weight_{i}"].item() for i in range(1, 9)] == [0.5] * 8
    assert ("uw/weight_1" in logged) == (kind == "uw")


def test_vb_has_no_gradient_on_the_eps_rows_of_the_last_linear() -> None:
    module, data = build(in_channels=4, input_size=8), batch()
    x0 = data["image"].expand(-1, 4, -1, -1)
    t, noise, _ = module._training_draws(x0, 0)
    mse, vb = module._errors(x0, t, data["label"], noise)
    last = module.network.final_layer.linear
    (grad,) = torch.autograd.grad(vb.sum(), last.weight, retain_graph=True)
    rows = grad.view(2, 2, 8, -1)  # p, q, c: 4 of eps, then 4 of v
    assert torch.equal(rows[:, :, :4], torch.zeros_like(rows[:, :, :4]))
    assert bool((rows[:, :, 4:].abs().amax(-1) > 0).all())
    (grad,) = torch.autograd.grad(mse.sum(), last.weight)
    rows = grad.view(2, 2, 8, -1)
    assert bool((rows[:, :, :4].abs().amax(-1) > 0).all())
    assert torch.equal(rows[:, :, 4:], torch.zeros_like(rows[:, :, 4:]))


def test_without_learned_variance_there_is_no_vb() -> None:
    module = build(learn_sigma=False)
    loss = module.training_step(batch(), 0)
    assert module.logged["train/vb"].item() == 0
    assert loss.item() == pytest.approx(module.logged["train/mse"].item(), rel=1e-6)


def test_latents_are_read_by_their_own_key() -> None:
    module, data = build(), batch()
    data["latent"] = data.pop("image")
    assert torch.isfinite(module.training_step(data, 0))


def test_draws_are_a_function_of_seed_and_step(monkeypatch: pytest.MonkeyPatch) -> None:
    x0 = batch()["image"]
    first = build(step=7)._training_draws(x0, 2)
    torch.manual_seed(99)
    again = build(step=7)._training_draws(x0, 2)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    for other in (build(step=8)._training_draws(x0, 2), build(step=7)._training_draws(x0, 3)):
        assert not torch.equal(first[0], other[0])
        assert not torch.equal(first[1], other[1])
    monkeypatch.setenv("PL_GLOBAL_SEED", "1")
    assert not torch.equal(first[1], build(step=7)._training_draws(x0, 2)[1])


@pytest.mark.parametrize("kind", ["constant", "uw"])
def test_two_ranks_together_draw_what_one_process_draws(kind: str) -> None:
    x0 = batch(32)["image"]
    whole = build(loss_weight=kind, label_dropout=0.5)._training_draws(x0, 0)
    ranks = [build(loss_weight=kind, label_dropout=0.5, rank=r, world=2) for r in range(2)]
    parts = [module._training_draws(x0[r::2], 0) for r, module in enumerate(ranks)]
    for i in range(3):
        merged = torch.stack([parts[0][i], parts[1][i]], dim=1).flatten(0, 1)
        assert torch.equal(merged, whole[i])
    assert not torch.equal(parts[0][1], parts[1][1]), "each rank has its own noise"
    assert not torch.equal(parts[0][2], parts[1][2]), "and drops other labels"
    if kind == "uw":
        for t, _, _ in parts:
            assert (t // 125).tolist() == [i for i in range(8) for _ in range(2)]


def test_timesteps_cover_all_of_0_to_999() -> None:
    t, _, _ = build()._training_draws(torch.zeros(60_000, 1, 1, 1), 0)
    assert (t.dtype, len(t.unique()), (int(t.min()), int(t.max()))) == (torch.int64, 1000, (0, 999))


def test_labels_are_dropped_at_the_given_rate_in_training_alone() -> None:
    module = build()
    _, _, dropped = module._training_draws(torch.zeros(50_000, 1, 1, 1), 0)
    assert dropped.float().mean().item() == pytest.approx(0.1, abs=0.005)
    always = build(label_dropout=0.999)
    seen, data = calls(always), batch()
    always.training_step(data, 0)
    assert seen[-1][2].tolist() == [10] * 16
    always.train()
    always._evaluate(data, 16)
    assert torch.equal(seen[-1][2], data["label"])
    always.sample(data["label"])
    assert torch.equal(seen[-1][2], data["label"])


def test_an_unconditional_model_drops_and_guides_nothing() -> None:
    module, data = build(num_classes=1, guidance=4.0, label_dropout=0.9), batch()
    seen = calls(module)
    module.training_step(data, 0)
    module.sample(torch.zeros(2, dtype=torch.long))
    assert all(y.eq(0).all() for _, _, y in seen)
    assert len(seen[-1][0]) == 2


def test_draws_are_float32_under_a_bfloat16_default() -> None:
    module, x0 = build(), torch.zeros(8, 1, 8, 8)
    expected = module._training_draws(x0, 0)
    torch.set_default_dtype(torch.bfloat16)
    found = module._training_draws(x0, 0)
    assert [x.dtype for x in found] == [torch.int64, torch.float32, torch.bool]
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


@pytest.mark.parametrize(("size", "world"), [(12, 1), (12, 2)])
def test_a_local_batch_that_eight_does_not_divide_is_refused(size: int, world: int) -> None:
    """12 per device: also for two devices, where the global batch of 24 is divisible."""
    with pytest.raises(ValueError, match=r"data\.init_args\.batch_size"):
        build(loss_weight="uw", world=world).training_step(batch(size), 0)


def test_uncertainty_has_its_own_group_and_no_weight_decay() -> None:
    adamw = partial(torch.optim.AdamW, lr=1e-3, weight_decay=0.1)
    module = DTR(**SMALL, loss_weight="uw", optimizer=adamw)
    network, uncertainty = module.configure_optimizers().param_groups
    assert (network["lr"], network["weight_decay"]) == (1e-3, 0.1)
    assert (uncertainty["lr"], uncertainty["weight_decay"]) == (0.025, 0.0)
    assert [p.shape for p in uncertainty["params"]] == [(8,)]
    grouped = [p for g in (network, uncertainty) for p in g["params"]]
    assert sum(p.numel() for p in grouped) == sum(p.numel() for p in module.parameters())


def test_the_default_optimiser_is_the_papers() -> None:
    (group,) = DTR(**SMALL).configure_optimizers().param_groups
    found = [group[k] for k in ("lr", "betas", "eps", "weight_decay")]
    assert found == [1e-4, (0.9, 0.999), 1e-8, 0.0]


def test_default_arguments_are_the_papers() -> None:
    with torch.device("meta"):
        hparams = DTR().hparams
    expected = {
        "size": "L", "patch_size": 2, "input_size": 32, "in_channels": 4, "num_classes": 1000,
        "routing": "dtr", "alpha": 4.0, "beta": 0.8, "timesteps": 1000, "schedule": "linear",
        "learn_sigma": True, "min_snr_gamma": 5.0, "p2_gamma": 1.0, "p2_k": 1.0, "uw_intervals": 8,
        "uw_lr": 0.025, "label_dropout": 0.1, "sampler": "ddpm", "sampling_steps": 250, "guidance": 1.5,
        "cfg_channels": None, "latent_scale": 0.18215,
    }  # fmt: skip
    assert {k: hparams[k] for k in expected} == expected


def test_uncertainty_is_stored_and_not_averaged() -> None:
    module = DTR(**SMALL, loss_weight="uw")
    assert "uncertainty.log_variances" in module.state_dict()
    own = {f"network.{n}" for n, _ in module.network.named_parameters()}
    assert averaged_parameters(module).keys() == own


def test_random_routing_is_stored_and_not_averaged() -> None:
    module = DTR(**SMALL, routing="random")
    assert "network.routing.masks" in module.state_dict()
    assert not any("routing" in name for name in averaged_parameters(module))
    assert not any("routing" in name for name in DTR(**SMALL).state_dict())


def test_casting_leaves_scales_windows_and_metric_sums_alone() -> None:
    module = DTR(**SMALL, loss_weight="uw")
    module.uncertainty.log_variances.data = torch.linspace(-1.234567, 1, 8)
    before = module.uncertainty.log_variances.data.clone()
    starts = module.network.routing.starts.clone()
    module.to(torch.bfloat16)
    assert module.network.blocks[0].attn.qkv.weight.dtype == torch.bfloat16
    assert torch.equal(module.uncertainty.log_variances.data, before)
    assert torch.equal(module.network.routing.starts, starts)
    metric = module.eval_metrics["mse"]
    metric.update(torch.full((1001,), 0.1))
    assert (metric.mean_value.dtype, metric.compute().item()) == (torch.float32, pytest.approx(0.1, rel=1e-5))


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed", "bf16-true"])
def test_two_steps_and_a_validation_in_each_precision(precision: Any) -> None:
    module = DTR(**SMALL, loss_weight="uw")
    run = trainer(max_steps=2, precision=precision, limit_val_batches=2, val_check_interval=2)
    run.fit(module, Digits(batch_size=16, eval_batch_size=16))
    assert module.uncertainty.log_variances.dtype == torch.float32
    assert bool((module.uncertainty.log_variances != 0).all())
    assert module.network.routing.starts.dtype == torch.int64
    # fresh weights: eps = 0, hence the mean square of the (exact) noise
    assert run.callback_metrics["val/mse"].dtype == torch.float32
    assert run.callback_metrics["val/mse"].item() == pytest.approx(1.0, abs=0.1)


def test_evaluation_is_fixed_by_the_index_not_by_the_batch_or_the_seed(monkeypatch: Any) -> None:
    def result(parts: list[slice]) -> dict[str, float]:
        module, data = build(), batch(32)
        for part in parts:
            module._evaluate({k: v[part] for k, v in data.items()}, 32)
        return {k: m.compute().item() for k, m in module.eval_metrics.items()}

    whole = result([slice(None)])
    assert result([slice(20, 32), slice(0, 20)]) == pytest.approx(whole, rel=1e-5)
    torch.manual_seed(5)
    monkeypatch.setenv("PL_GLOBAL_SEED", "3")
    assert result([slice(None)]) == whole


def test_evaluation_covers_linspace_0_to_999() -> None:
    module = build()
    seen = calls(module)
    module._evaluate(batch(397), 397)
    t = seen[0][1]
    assert t.sort().values.tolist() == [round(Fraction(i * 999, 396)) for i in range(397)]
    assert not torch.equal(t, t.sort().values), "any part of the set covers all noise levels"


def test_quartiles_split_the_error_by_timestep() -> None:
    module, data = build(), batch(64)
    seen: list[Tensor] = []
    inner = module._errors

    def errors(x0: Tensor, t: Tensor, y: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        seen.extend([t, inner(x0, t, y, noise)[0]])
        return inner(x0, t, y, noise)

    module._errors = errors
    module._evaluate(data, 64)
    t, mse = seen
    for q in range(4):
        inside = (t >= 250 * q) & (t < 250 * (q + 1))
        expected = mse[inside].mean().item()
        assert module.eval_metrics[f"mse_q{q + 1}"].compute().item() == pytest.approx(expected, rel=1e-5)
    assert module.eval_metrics["mse"].compute().item() == pytest.approx(mse.mean().item(), rel=1e-5)


def test_a_compiled_model_sees_one_batch_size() -> None:
    """Rows that fill a last, smaller batch must change neither losses nor samples."""
    for compiled in (True, False):
        module, seen = build(compile=compiled), []
        module.network.register_forward_pre_hook(lambda _, args, s=seen: s.append(len(args[0])))
        data = batch(24)
        for part in (slice(0, 16), slice(16, 24)):
            module._evaluate({k: v[part] for k, v in data.items()}, 24)
        assert seen == ([16, 16] if compiled else [16, 8])
        mse = module.eval_metrics["mse"].compute().item()
        last = module.predict_step({k: v[16:] for k, v in data.items()}, 1)
        assert set(seen[2:]) == ({16} if compiled else {8})
        if compiled:
            reference = (mse, last.images)
        else:
            assert (mse, last.images.shape) == (pytest.approx(reference[0], rel=1e-5), (8, 1, 8, 8))
            torch.testing.assert_close(last.images, reference[1], atol=1e-4, rtol=1e-4)


def test_test_measures_samples_and_validation_after_it_still_works(monkeypatch: pytest.MonkeyPatch) -> None:
    judge = DigitClassifier(width=4)
    judge.reference_covariance = torch.eye(32, dtype=torch.float64) * 0.01
    monkeypatch.setattr("zoo.load", lambda name: judge)
    module = DTR(**SMALL, features="judge", clip_denoised=True, sampler="ddim", spacing="ddim")
    run = trainer(limit_test_batches=2, limit_val_batches=1)
    data = Digits(eval_batch_size=16)
    (found,) = run.test(module, data, verbose=False)
    assert set(found) == {
        "test/loss", "test/mse", "test/vb", "test/mse_q1", "test/mse_q2", "test/mse_q3", "test/mse_q4",
        "test/frechet_distance", "test/class_accuracy",
    }  # fmt: skip
    assert math.isfinite(found["test/frechet_distance"])
    assert 0 <= found["test/class_accuracy"] <= 1
    assert not any("judge" in k or "sample_metrics" in k for k in module.state_dict())
    (found,) = run.validate(module, data, verbose=False)
    assert "val/mse" in found
    assert "val/frechet_distance" not in found


def test_250_step_sampling_sees_the_original_timesteps() -> None:
    module = build(sampling_steps=250, guidance=2.0)
    seen = calls(module)
    module.sample(torch.tensor([3]))
    steps = [int(t[0]) for _, t, _ in seen]
    assert (steps[:3], steps[-2:], len(steps)) == ([999, 995, 991], [4, 0], 250)
    assert all(t.dtype == torch.int64 and len(t) == 2 and t[0] == t[1] for _, t, _ in seen)
    assert all(y.tolist() == [3, 10] for _, _, y in seen)


@pytest.mark.parametrize("sampler", ["ddpm", "ddim", "dpm++"])
def test_a_sample_does_not_depend_on_the_batch_it_is_in(sampler: Any) -> None:
    module = build(guidance=2.0)
    together = module.sample(torch.tensor([1, 2, 3]), seed=[11, 12, 13], sampler=sampler)
    alone = module.sample(torch.tensor([2]), seed=[12], sampler=sampler)
    torch.testing.assert_close(together[1:2], alone, atol=1e-4, rtol=1e-4)
    assert not torch.allclose(together[0], together[2])
    torch.manual_seed(7)
    assert torch.equal(together, module.sample(torch.tensor([1, 2, 3]), seed=[11, 12, 13], sampler=sampler))


def test_a_seed_number_gives_what_predict_gives(monkeypatch: pytest.MonkeyPatch) -> None:
    module, labels = build(), torch.tensor([4, 5, 6])
    monkeypatch.setenv("PL_GLOBAL_SEED", "9")
    predicted = module.predict_step({"label": labels, "index": torch.arange(3)}, 0)
    assert torch.equal(predicted.images, module.sample(labels, seed=9))
    assert not torch.equal(predicted.images, module.sample(labels, seed=8))
    assert predicted.labels.tolist() == [4, 5, 6]


def test_a_prediction_depends_on_its_index_not_on_its_place_in_the_batch() -> None:
    module, labels = build(), torch.tensor([4, 5, 6])
    whole = module.predict_step({"label": labels, "index": torch.arange(3)}, 0).images
    part = module.predict_step({"label": labels[2:], "index": torch.tensor([2])}, 1).images
    torch.testing.assert_close(part, whole[2:], atol=1e-4, rtol=1e-4)


def test_the_u_net_trains_and_samples() -> None:
    module = build(backbone="unet", weights=False, **UNET)
    data = batch()
    module.training_step(data, 0)
    _, noise, _ = module._training_draws(data["image"], 0)
    assert module.logged["train/mse"].item() == pytest.approx(noise.square().mean().item(), rel=1e-6)
    assert module.sample(torch.tensor([1, 2]), guidance=2.0).shape == (2, 1, 8, 8)
    own = {f"network.{n}" for n, _ in module.network.named_parameters()}
    assert averaged_parameters(module).keys() == own


def test_an_unknown_backbone_is_refused() -> None:
    with pytest.raises(ValueError, match="dit or unet"):
        DTR(**SMALL, backbone="mlp")


def test_cfg_channels_three_differs_from_all_in_the_fourth_channel_alone_at_one_step() -> None:
    module, labels = build(in_channels=4, guidance=3.0), torch.tensor([1])
    every = module.sample(labels, steps=1)
    three = module.sample(labels, steps=1, cfg_channels=3)
    assert torch.equal(every[:, :3], three[:, :3])
    assert not torch.allclose(every[:, 3], three[:, 3])
    plain = module.sample(labels, steps=1, guidance=1.0)
    torch.testing.assert_close(three[:, 3], plain[:, 3], atol=1e-5, rtol=1e-5)


def test_arguments_of_sample_win_over_the_constructor() -> None:
    module = build(sampler="ddim", sampling_steps=5)
    seen = calls(module)
    module.sample(torch.tensor([1]), steps=3)
    assert len(seen) == 3
    with pytest.raises(ValueError, match="sampling steps"):
        module.sample(torch.tensor([1]), steps=0)
    with pytest.raises(ValueError, match="ddpm, ddim or dpm"):
        module.sample(torch.tensor([1]), sampler="euler")


@pytest.mark.parametrize("labels", [[-1], [10], [0, 99]])
def test_labels_outside_the_classes_are_refused(labels: list[int]) -> None:
    with pytest.raises(ValueError, match=r"labels must lie in 0\.\.9"):
        build().sample(torch.tensor(labels))


def test_as_many_seeds_as_labels() -> None:
    for bad in (torch.tensor([1.5]), torch.zeros(0, dtype=torch.long), torch.zeros(1, 1, dtype=torch.long)):
        with pytest.raises(ValueError, match=r"labels must be whole numbers \(B,\), B >= 1, got torch\."):
            build().sample(bad)
    with pytest.raises(ValueError, match="guidance and eta must be finite numbers, got nan"):
        build().sample(torch.tensor([1]), guidance=math.nan)
    with pytest.raises(ValueError, match="2 labels need as many seeds, got 1"):
        build().sample(torch.tensor([1, 2]), seed=[3])


def test_preview_shows_all_classes_with_the_same_noise() -> None:
    module = build()
    one, two = (module.preview(20)["samples"] for _ in range(2))
    assert one.labels.tolist() == [i // 2 for i in range(20)]
    assert torch.equal(one.images, two.images)


def test_without_a_vae_samples_are_returned_as_they_are() -> None:
    x = torch.randn(1, 1, 8, 8)
    assert build().decode(x) is x


class Decoder:
    """A VAE whose pictures are its latents."""

    dtype = torch.float32

    def to(self, *_: Any) -> Any:
        return self

    def decode(self, latents: Tensor) -> Any:
        return SimpleNamespace(sample=latents)


def test_latents_are_divided_by_the_scale_before_decoding() -> None:
    module = build(in_channels=4, vae="folder")
    module._decoder = Decoder()
    x = torch.randn(1, 4, 8, 8)
    torch.testing.assert_close(module.decode(x), x / 0.18215)
    assert not isinstance(module._decoder, nn.Module)


LATENTS: list[dict[str, Any]] = [
    {"layout": "lightningdit"},
    {"layout": "lightningdit", "latent_multiplier": 0.5},
    {"layout": "lightningdit", "latent_norm": False, "latent_multiplier": 0.2},
    {"layout": "packed"},
]


@pytest.mark.parametrize("settings", LATENTS)
def test_the_weights_undo_how_the_data_normalised_their_latents(
    settings: dict[str, Any], tmp_path: Path
) -> None:
    """After training, from a checkpoint, from safetensors: what reaches the VAE is what came out of it."""
    root = fake_latents(tmp_path / "latents", settings["layout"], 16, 4, moments=False)
    data = ImageNetLatents(str(root), batch_size=8, num_workers=0, **settings)
    sizes = SMALL | {"in_channels": 4, "input_size": 4, "num_classes": 1000}
    module = DTR(**sizes, vae="folder")
    run = trainer(max_steps=1)
    run.fit(module, data)
    run.save_checkpoint(tmp_path / "x.ckpt")
    again = DTR.load_from_checkpoint(tmp_path / "x.ckpt")
    batch = data.train_set.__getitems__([(0, i) for i in range(16)])
    if settings["layout"] == "packed":
        stored = batch["latent"] / 0.18215
    else:
        stored = LightningDiTLatents(root, norm=False).__getitems__([(0, i) for i in range(16)])["latent"]
    for found in (module, again, zoo.load(zoo.save(module, tmp_path / "x.safetensors"))):
        found._decoder = Decoder()
        torch.testing.assert_close(found.decode(batch["latent"]), stored)
    run.fit(again, data)  # the same data are welcome
    predict = ImageNetLatents(str(tmp_path / "nowhere"), predict_samples=1, num_workers=0, **settings)
    predict.setup("predict")
    again._trainer = SimpleNamespace(datamodule=predict, world_size=1)
    again.setup("predict")  # and none are needed to sample


def test_latents_that_were_normalised_otherwise_are_refused(tmp_path: Path) -> None:
    root = fake_latents(tmp_path / "latents", "lightningdit", 16, 4)
    data = ImageNetLatents(str(root), "lightningdit", batch_size=8, num_workers=0)
    sizes = SMALL | {"in_channels": 4, "input_size": 4, "num_classes": 1000}
    other = DTR(**sizes, latent_mean=[1.0] * 4, latent_std=[1.0] * 4)
    with pytest.raises(ValueError, match=r"latent_mean is \[1, 1, 1, 1, ...\], but the data .* has \["):
        trainer(max_steps=1).fit(other, data)
    with pytest.raises(ValueError, match=r"latent_scale is 0\.5, but .* tells latent_mean and latent_std"):
        trainer(max_steps=1).fit(DTR(**sizes, latent_scale=0.5), data)
    unknown = DTR(**sizes, vae="folder")  # an old checkpoint, and the latents are elsewhere
    away = ImageNetLatents(str(tmp_path / "nowhere"), "lightningdit", predict_samples=1)
    away.setup("predict")
    unknown._trainer = SimpleNamespace(datamodule=away, world_size=1)
    with pytest.raises(ValueError, match=r"samples cannot be decoded; set data.init_args.root"):
        unknown.setup("predict")


@pytest.mark.parametrize(("bad", "message"), [
    ({"latent_mean": [0.0]}, "each one number per channel, 1, got"),
    ({"latent_mean": [0.0], "latent_std": [0.0]}, r"latent_std\[0\] is 0.0, but must be"),
    ({"latent_mean": [0.0], "latent_std": [1.0], "latent_scale": 0.5}, "latent_scale is 0.5, but latent"),
    ({"size": "M"}, "S, B, L, XL"),
    ({"loss_weight": "snr"}, "constant, min_snr, p2, uw"),
    ({"label_dropout": 1.0}, "label_dropout"),
    ({"sampling_steps": 1001}, "sampling steps"),
    ({"spacing": "ddim", "sampling_steps": 300}, "no integer stride"),
    ({"loss_weight": "uw", "uw_intervals": 7}, "uw_intervals must divide timesteps, got 7 and 1000"),
    ({"schedule": "sigmoid"}, "'linear' or 'cosine'"),
    ({"routing": "learned"}, "'dtr', 'random' or 'none'"),
    ({"beta": 0.0}, "beta must lie"),
])  # fmt: skip
def test_impossible_settings_are_refused_at_construction(bad: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DTR(**{**SMALL, **bad})


@pytest.mark.parametrize(("wrong", "message"), [
    ({"num_classes": 7}, r"num_classes is 7, but the data \(datamodules.Digits\) has 10; set"),
    ({"input_size": 16}, "input_size is 16, but the data .* has 8; set"),
    ({"in_channels": 4}, "in_channels is 4, but the data .* has 1; set"),
])  # fmt: skip
def test_data_that_do_not_fit_are_refused_with_both_numbers(wrong: dict[str, Any], message: str) -> None:
    module: Any = DTR(**{**SMALL, **wrong})
    module._trainer = SimpleNamespace(datamodule=Digits())
    with pytest.raises(ValueError, match=message):
        module.setup("fit")


def test_sizes_can_be_replaced_one_by_one() -> None:
    with torch.device("meta"):
        module = DTR(size="S", depth=3)
    assert (len(module.network.blocks), module.network.blocks[0].width) == (3, 384)
    assert module.network.blocks[0].attn.heads == 6
