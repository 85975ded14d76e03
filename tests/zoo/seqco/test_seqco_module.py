"""Training of SeqCo: what gradients reach, what an update divides by, and what is drawn."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from fakes.seqco import BART, SIZES, data, fitted, one_batch, small
from lightning.pytorch import seed_everything
from quiet import quiet_trainer
from torch import Tensor
from torch.nn import functional

import zoo
from zoo.seqco import SeqCo
from zoo.seqco.network import View
from zoo.seqco.sampling import bare_generation, ordinary, sample, shifted, uniform_draws, wrapped

# --- the two networks ---------------------------------------------------------------------------------------


def test_no_gradient_reaches_the_target_which_follows_by_its_decay() -> None:
    seed_everything(0, verbose=False)
    module = small(weight_xy=1.0, ema_decay=0.99)
    module.network.reset_target()
    before = copy.deepcopy(module.network.target.state_dict())
    fitted(module)
    slow, fast = module.network.target["encoder"], module.network.backbone.get_encoder()
    assert all(p.grad is None for p in module.network.target.parameters())
    trained = {id(p) for group in module.configure_optimizers().param_groups for p in group["params"]}
    assert not trained & {id(p) for p in module.network.target.parameters()}
    moved = 0.0
    for name, value in slow.state_dict().items():
        old, theta = before[f"encoder.{name}"], fast.state_dict()[name]
        torch.testing.assert_close(value - old, 0.01 * (theta - old), rtol=0, atol=1e-6)
        moved += float((value - old).abs().sum())
    assert moved > 0


@pytest.mark.parametrize("decay", [0.0, 1.0])
def test_decay_zero_copies_and_one_freezes(decay: float) -> None:
    module = small(weight_xy=1.0, ema_decay=decay)
    module.network.reset_target()
    start = copy.deepcopy(module.network.target["head"].state_dict())
    fitted(module, steps=2)
    wanted = start if decay else module.network.head.state_dict()
    for name, value in module.network.target["head"].state_dict().items():
        assert torch.equal(value, wanted[name])


def test_a_fresh_training_begins_with_equal_networks_that_share_nothing() -> None:
    module = small(weight_xy=1.0)
    with torch.no_grad():
        module.network.backbone.model.shared.weight.add_(1.0)  # as if pretrained weights came in
    module._start_fresh = lambda start=module._start_fresh: (start(), compared(module))[0]  # type: ignore[method-assign]

    def compared(module: SeqCo) -> None:
        slow, fast = module.network.target["encoder"], module.network.backbone.get_encoder()
        for (name, a), (_, b) in zip(slow.named_parameters(), fast.named_parameters(), strict=True):
            assert torch.equal(a, b), name
            assert a.data_ptr() != b.data_ptr()
        module.checked = True  # type: ignore[assignment]

    fitted(module)
    assert module.checked
    slow = module.network.target["encoder"].embed_tokens.weight.clone()
    with torch.no_grad():
        module.network.target["encoder"].embed_tokens.weight.zero_()
    assert module.network.backbone.model.shared.weight.abs().sum() > 0
    assert slow.abs().sum() > 0


def test_the_detached_control_trains_head_and_attention_alone() -> None:
    batch = one_batch()
    for detached in (False, True):
        module = small(weight_xy=1.0, detach_encoder=detached)
        views = module.objective.views(batch, None, None)
        views.loss("xy").backward()
        encoder = module.network.backbone.get_encoder().layers[0].fc1.weight.grad
        assert (encoder is None) == detached
        assert module.network.head[0].weight.grad.abs().sum() > 0
        assert module.network.attention.out_proj.weight.grad.abs().sum() > 0


def test_the_target_has_no_dropout_unless_asked() -> None:
    batch = one_batch()
    for noisy in (False, True):
        module = small(0.5, weight_xy=1.0, target_dropout=noisy).train()
        states = [module.network.slow_states(batch["source"], batch["source_mask"]) for _ in range(2)]
        assert torch.equal(*states) != noisy
        assert module.network.target.training


# --- an update ----------------------------------------------------------------------------------------------


def test_weights_of_zero_are_plain_fine_tuning_to_the_bit() -> None:
    from transformers import BartConfig, BartForConditionalGeneration

    steps = 3
    seed_everything(5, verbose=False)
    module = small(0.1, optimizer=lambda p: torch.optim.AdamW(p, lr=1e-3, weight_decay=0.01))
    assert not hasattr(module.network, "head")
    fit_data = data()
    trainer = quiet_trainer(max_steps=steps, limit_val_batches=0, gradient_clip_val=0.1)
    torch.manual_seed(77)
    trainer.fit(module, fit_data)

    seed_everything(5, verbose=False)
    config = BartConfig(**{**SIZES, "dropout": 0.1, "attention_dropout": 0.1, "vocab_size": 185})
    plain = BartForConditionalGeneration(config).train()
    optimizer = torch.optim.AdamW(plain.parameters(), lr=1e-3, weight_decay=0.01)
    again = data()
    again.setup("fit")
    torch.manual_seed(77)
    for _, batch in zip(range(steps), again.train_dataloader(), strict=False):
        labels = batch["target"].masked_fill(~batch["target_mask"], -100)
        logits = plain(
            input_ids=batch["source"],
            attention_mask=batch["source_mask"].long(),
            labels=labels,
            use_cache=False,
        ).logits
        total = functional.cross_entropy(
            logits.flatten(0, 1), labels.flatten(), label_smoothing=0.1, reduction="sum"
        )
        optimizer.zero_grad()
        total.backward()
        for p in plain.parameters():
            p.grad.mul_(1 / float((labels != -100).sum()))
        torch.nn.utils.clip_grad_norm_(plain.parameters(), 0.1)
        optimizer.step()
    for name, value in module.network.backbone.state_dict().items():
        assert torch.equal(value, plain.state_dict()[name]), name


class Gradients(torch.optim.SGD):
    """Keeps what it was given."""

    def step(self, closure: Any = None) -> Any:
        found = super().step(closure)
        self.seen = [p.grad.clone() for group in self.param_groups for p in group["params"]]
        return found


def gradients(rows: int, accumulate: int, **given: Any) -> list[Tensor]:
    seed_everything(1, verbose=False)
    kept: list[Gradients] = []

    def optimizer(parameters: Any) -> Gradients:
        kept.append(Gradients(parameters, lr=0.1))
        return kept[-1]

    fitted(small(optimizer=optimizer, **given), 1, accumulate, batch_size=rows)
    return kept[-1].seen


@pytest.mark.parametrize("reduction", ["token_sum", "mean"])
def test_four_batches_of_two_are_one_of_eight_without_contrast(reduction: str) -> None:
    given = {"contrast_reduction": reduction, "label_smoothing": 0.1}
    for a, b in zip(gradients(2, 4, **given), gradients(8, 1, **given), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-6)


def test_an_epochs_short_last_group_follows_its_mean_too() -> None:
    # 300 documents in batches of 60: five, the second group of 4 has one; Lightning divides both by 4
    seed_everything(1, verbose=False)
    module = small(optimizer=lambda p: torch.optim.SGD(p, lr=1e-9))
    seen: list[float] = []
    norms = lambda: float(sum(p.grad.square().sum() for p in module.network.parameters()) ** 0.5)  # noqa: E731
    after = module.on_before_optimizer_step
    module.on_before_optimizer_step = lambda o: (after(o), seen.append(norms()))[0]  # type: ignore[method-assign]
    from zoo.engine.accumulation import EqualSteps

    trainer = quiet_trainer(
        max_steps=2, limit_val_batches=0, accumulate_grad_batches=4, callbacks=[EqualSteps()]
    )
    trainer.fit(module, data(batch_size=60))
    assert seen[1] == pytest.approx(seen[0], rel=0.2)


def test_token_sum_divides_by_tokens_and_sequences() -> None:
    # 8 summaries of 5 tokens, one symmetrical pair: N = 40 + 16
    module = fitted(small(weight_xy=0.5), 1)
    metrics = module.trainer.callback_metrics
    assert metrics["train/tokens"] == 56
    assert metrics["train/weight_xy"] == pytest.approx(0.5)
    assert metrics["train/effective_weight_xy"] == pytest.approx(0.5 / 56)
    one_way = fitted(small(weight_xy=0.5, symmetrical=False), 1)
    assert one_way.trainer.callback_metrics["train/tokens"] == 48


def test_mean_adds_the_weighted_similarity_to_the_mean_token_loss() -> None:
    module = small(weight_xy=0.5, contrast_reduction="mean")
    module.network.reset_target()
    batch = one_batch(8)
    twin = copy.deepcopy(module)
    labels = batch["target"].masked_fill(~batch["target_mask"], -100)
    logits, _ = twin.network.logits_and_states(
        batch["source"], batch["source_mask"], twin.objective.decoder_inputs(batch["target"])
    )
    loss = functional.cross_entropy(logits.flatten(0, 1), labels.flatten(), label_smoothing=0.1)
    (loss + 0.5 * twin.objective.views(batch, None, None).loss("xy")).backward()

    class Loader:
        def __iter__(self) -> Iterator[dict[str, Tensor]]:
            return iter([batch])

    kept: list[Gradients] = []
    module.optimizer = lambda p: kept.append(Gradients(p, lr=0.0)) or kept[0]  # type: ignore[func-returns-value,assignment]
    quiet_trainer(max_steps=1, limit_val_batches=0).fit(module, Loader())
    expected = [p.grad for p in twin.network.parameters() if p.requires_grad]
    for a, b in zip(kept[0].seen, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-6)


def test_an_update_of_weight_zero_leaves_every_parameter_a_gradient() -> None:
    module = fitted(small(weight_xy="0:0,100:1"), 1)
    assert all(p.grad is not None for p in module.network.parameters() if p.requires_grad)
    assert "train/loss_xy" not in module.trainer.callback_metrics


def test_the_restart_renews_the_optimiser_and_the_target() -> None:
    module = small(weight_xy=1.0, restart_at=2, optimizer=lambda p: torch.optim.AdamW(p, lr=1e-2))
    fitted(module, 2)
    assert not module.trainer.optimizers[0].state
    slow, fast = module.network.target["encoder"], module.network.backbone.get_encoder()
    assert all(torch.equal(a, b) for a, b in zip(slow.parameters(), fast.parameters(), strict=True))
    later = fitted(small(weight_xy=1.0, restart_at=2, optimizer=lambda p: torch.optim.AdamW(p, lr=1e-2)), 3)
    assert "train/loss_xy" in later.trainer.callback_metrics
    assert next(iter(later.trainer.optimizers[0].state.values()))["step"] == 1


# --- summaries that are drawn -------------------------------------------------------------------------------


def test_drawn_rows_end_at_the_first_end_and_a_pad_cuts_nothing() -> None:
    drawn = torch.tensor([[2, 0, 9, 1, 8, 2, 7], [2, 2, 1, 1, 1, 1, 1], [2, 5, 6, 7, 8, 9, 10]])
    rows = ordinary(drawn, BART)
    assert rows == [[9, 8], [], [5, 6, 7, 8, 9, 10]]
    ids, mask = wrapped(rows, BART)
    assert ids.tolist()[0][:5] == [0, 9, 8, 2, 1]
    assert mask.sum(dim=1).tolist() == [4, 2, 8]  # <s> and </s> are real tokens
    assert wrapped(rows, BART, 12)[0].shape[1] == 12


def test_a_row_of_nothing_but_ends_is_left_out_of_the_mean() -> None:
    module = small(weight_xyhat=1.0)
    batch = one_batch(3)
    full = module.objective.view_of(torch.tensor([[2, 5, 6, 2], [2, 2, 1, 1], [2, 7, 8, 9]]))
    assert full.rows.tolist() == [True, False, True]
    found = module.objective.views(batch, full, None).loss("xyhat")
    kept = {k: v[[0, 2]] for k, v in batch.items()}
    two = View(full.ids[[0, 2]], full.mask[[0, 2]], full.rows[[0, 2]])
    assert found.item() == pytest.approx(
        module.objective.views(kept, two, None).loss("xyhat").item(), abs=1e-5
    )
    none = module.objective.view_of(torch.tensor([[2, 2, 1, 1]] * 3))
    nothing = module.objective.views(batch, none, None).loss("xyhat")
    assert nothing.item() == 0
    nothing.backward()
    assert module.network.head[0].weight.grad is not None


def test_sampling_is_multinomial_and_heeds_no_generation_config() -> None:
    from transformers import GenerationConfig

    module = small(sample_length=30, max_length=32).eval()
    model = module.network.backbone
    own = GenerationConfig(
        num_beams=4, min_length=20, forced_bos_token_id=0, no_repeat_ngram_size=2, max_length=31
    )
    model.generation_config = own
    # an end that is likely, so that short summaries occur
    model.final_logits_bias[0, 2] = 3.0
    batch = one_batch(64)
    uniform = uniform_draws(0, 0, range(64), 29)
    drawn = sample(model, batch["source"], batch["source_mask"], BART, uniform)
    assert model.generation_config is own
    assert drawn.shape[1] <= 30
    assert len(set(drawn[:, 1].tolist())) > 8  # no forced first token
    assert min((row == 2).int()[1:].argmax().item() + 1 for row in drawn) < 20
    with pytest.raises(AssertionError), bare_generation(model):
        assert model.generation_config is own


def test_drawing_follows_the_softmax() -> None:
    from zoo.seqco.sampling import chosen_only

    probability = torch.tensor([0.5, 0.2, 0.3])
    uniform = torch.rand(20_000, dtype=torch.float64)
    tokens = chosen_only(probability.log().expand(20_000, 3), uniform).argmax(dim=1)
    shares = tokens.bincount(minlength=3) / 20_000
    torch.testing.assert_close(shares, probability, rtol=0, atol=0.02)
    edge = chosen_only(probability.log()[None], torch.tensor([1 - 1e-16]))
    assert edge.argmax().item() == 2


def test_without_a_cache_the_same_is_drawn_and_modes_come_back() -> None:
    module = small(0.3).train()
    module.network.backbone.model.decoder.eval()
    batch, uniform = one_batch(8), uniform_draws(3, 1, range(8), 7)
    noisy: list[bool] = []
    for part in (module.network.backbone.model.encoder, module.network.backbone.model.decoder):
        part.layers[0].register_forward_hook(lambda layer, *_: noisy.append(layer.training))
    found = [
        sample(module.network.backbone, batch["source"], batch["source_mask"], BART, uniform, cache=cache)
        for cache in (True, False)
    ]
    assert torch.equal(*found)
    assert noisy
    assert not any(noisy)
    assert module.network.backbone.model.encoder.training
    assert not module.network.backbone.model.decoder.training


def test_a_draw_depends_on_seed_update_and_document_alone() -> None:
    together = uniform_draws(1, 7, [4, 9, 2], 5)
    assert torch.equal(together[1], uniform_draws(1, 7, [9], 5)[0])
    assert not torch.equal(together[1], uniform_draws(1, 8, [9], 5)[0])
    assert not torch.equal(together[1], uniform_draws(2, 7, [9], 5)[0])


def test_the_official_form_of_a_view_is_a_decoders_input() -> None:
    ids, mask = (
        torch.tensor([[0, 5, 6, 2, 1], [0, 7, 2, 1, 1]]),
        torch.tensor([[1, 1, 1, 1, 0], [1, 1, 1, 0, 0]]).bool(),
    )
    found, kept = shifted(ids, mask, BART, keep_end=False)
    assert found.tolist() == [[2, 0, 5, 6, 1], [2, 0, 7, 1, 1]]
    assert kept.sum(dim=1).tolist() == [4, 3]
    found, kept = shifted(ids, mask, BART, keep_end=True)
    assert found.tolist() == [[2, 0, 5, 6, 2, 1], [2, 0, 7, 2, 1, 1]]
    assert kept.sum(dim=1).tolist() == [5, 4]


@pytest.mark.parametrize(
    "given",
    [
        {"similarity": "cls"},
        {"similarity": "in_batch"},
        {"similarity": "queue", "queue_size": 12},
        {"weight_policy": 0.1, "policy_baseline": "mean"},
        {"representation": "decoder"},
        {"view_format": "shifted", "mask_padding": False},
        {"symmetrical": False, "reuse_source": True},
        {"target_dropout": True, "sample_beams": 2},
        {"sample_top_p": 0.5, "sample_every": 2},
    ],
)
def test_every_variant_trains_its_own_parameters(given: dict[str, Any]) -> None:
    module = fitted(small(weight_xy=0.5, weight_xyhat=0.5, weight_yyhat=0.5, **given), 2)
    grads = {n: p.grad for n, p in module.network.named_parameters() if p.requires_grad}
    assert all(g is not None and torch.isfinite(g).all() for g in grads.values())
    parts = {"cls": "predictor", "in_batch": "head", "queue": "head"}
    assert any(
        n.startswith(parts.get(given.get("similarity", ""), "attention")) and g.any()
        for n, g in grads.items()
    )


def test_official_padding_makes_generated_views_as_wide_as_they_may_be() -> None:
    module = small(weight_xyhat=1.0, mask_padding=False, sample_length=8)
    trainer = quiet_trainer(max_steps=1, limit_val_batches=0)
    widths: list[int] = []
    made = module.objective.generated
    module.objective.generated = lambda *a: (widths.append(made(*a).ids.shape[1]), made(*a))[1]  # type: ignore[method-assign]
    trainer.fit(module, data())
    assert widths == [8]


# --- settings -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"weight_xy": "5:1"}, "weight_xy"),
        ({"max_length": 99}, "decoder has 32 positions"),
        ({"weight_xyhat": 1.0, "sample_length": 99}, "decoder has 32 positions"),
        ({"special_ids": [999]}, "vocab_size is 185"),
        ({"temperature": 0.5}, "temperature"),
        ({"similarity": "cls", "mask_padding": False}, "mask_padding"),
        ({"representation": "decoder"}, "weight_yyhat"),
        ({"candidates": 3}, "more than beams"),
        ({"min_length": 9}, "more than max_length"),
    ],
)
def test_impossible_settings_are_one_line(given: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words) as caught:
        small(**given)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"sample_beams": 3}, "sample_beams is 3, but no generated summary is compared"),
        ({"weight_xy": 0.1, "sample_every": 2}, "sample_every is 2, but no generated summary is compared"),
        ({"generated": "cached"}, "generated is cached, but no generated summary is compared"),
        ({"similarity": "cls"}, "similarity is cls, but nothing is compared"),
        (
            {"weight_xyhat": 0.1, "sample_beams": 3, "sample_top_p": 0.9},
            "sample_top_p is 0.9, but sample_beams",
        ),
        (
            {"beams": 1, "length_penalty": 0.5},
            "length_penalty is 0.5, but it orders beams, of which there is 1",
        ),
    ],
)
def test_what_acts_on_nothing_is_refused(given: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words) as caught:
        small(**{"weight_xyhat": 0.0, **given})
    assert "\n" not in str(caught.value)
    small(weight_xyhat=0.0, similarity="cls", monitor=True)
    small(weight_xyhat=0.0, beams=1, length_penalty=1.0)


def test_documents_longer_than_the_positions_are_refused_before_training() -> None:
    with pytest.raises(ValueError, match=r"max_source is 99, but the model has 32 positions"):
        fitted(small(), max_source=99)


def test_cached_summaries_need_their_column() -> None:
    with pytest.raises(ValueError, match="yhat_field"):
        fitted(small(weight_xyhat=1.0, generated="cached"))


def test_a_collapse_is_said_once(capsys: pytest.CaptureFixture[str]) -> None:
    module = small(weight_xy=1.0)
    module.first_spread.fill_(100.0)
    fitted(module, 3)
    assert capsys.readouterr().out.count("the features collapse") == 1


def test_tied_embeddings_are_saved_once(tmp_path: Path) -> None:
    module = small(weight_xy=1.0)
    names = [n for n in module.state_dict() if "embed_tokens" in n or "lm_head" in n or "shared" in n]
    assert sorted(names) == [
        "network.backbone.model.shared.weight",
        "network.target.encoder.embed_tokens.weight",
    ]
    again = zoo.load(zoo.save(module, tmp_path / "w.safetensors"))
    batch = one_batch()
    inputs = batch["source"], batch["source_mask"], batch["target"]
    assert torch.equal(module.eval().network(*inputs), again.network(*inputs))
