"""The traps of language models: labels shifted once, nothing seen ahead, sums over tokens."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

import zoo
from zoo.language.packing import attention_mask
from zoo.language.updates import decay_groups
from zoo.metrics.calibration import CalibrationError
from zoo.metrics.choices import ChoiceAccuracy
from zoo.metrics.perplexity import TokenLikelihood

SMALL: dict[str, Any] = {"width": 32, "layers": 2, "heads": 4, "hidden": 64, "context": 48, "vocab_size": 64}


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def small(model: str = "tiny-llama-bytes", seed: int = 0, **settings: Any) -> zoo.CausalLM:
    torch.manual_seed(seed)
    return zoo.CausalLM(model=model, **{**SMALL, **settings}).eval()


def batch(rows: int = 4, length: int = 24, seed: int = 0) -> dict[str, Tensor]:
    ids = torch.randint(3, 64, (rows, length), generator=torch.Generator().manual_seed(seed))
    return {"input_ids": ids, "labels": ids.clone(), "documents": torch.ones_like(ids)}


def nll(module: zoo.CausalLM, given: dict[str, Tensor]) -> Tensor:
    from zoo.language.likelihood import token_nll

    return token_nll(module._logits(given), given["labels"])


@pytest.mark.parametrize(("shape", "count"), [
    ("gpt2", 124_439_808), ("gpt2-medium", 354_823_168), ("gpt2-xl", 1_557_611_200),
    ("llama-7b", 6_738_415_616), ("tiny-llama-bytes", 824_832),
])  # fmt: skip
def test_named_shapes_have_the_published_numbers_of_parameters(shape: str, count: int) -> None:
    with torch.device("meta"):
        assert zoo.CausalLM(model=shape).cost().parameters == count


def test_the_small_bundled_size_has_115_712_parameters() -> None:
    with torch.device("meta"):
        assert zoo.CausalLM(width=64, layers=2, hidden=172).cost().parameters == 115_712


@pytest.mark.parametrize("shape", ["gpt2", "tiny-llama-bytes"])
def test_residual_projections_begin_smaller_by_the_root_of_twice_the_layers(shape: str) -> None:
    module = small(shape, layers=8, width=64, hidden=256)
    into = [p for n, p in module.network.named_parameters() if n.endswith(("c_proj.weight", "o_proj.weight"))]
    for parameter in into:
        assert float(parameter.std()) == pytest.approx(0.02 / 4, rel=0.1)
    assert float(module.network.model.get_input_embeddings().weight.std()) == pytest.approx(0.02, rel=0.05)


def test_one_batch_is_learnt_by_heart_and_a_control_without_order_is_not() -> None:
    """Labels that were shifted twice, or not at all, would be learnt as well, but for other tokens: the last
    line asks for the next one."""
    given, module = batch(2, 16), small(tied=False)
    optimizer = torch.optim.AdamW(module.parameters(), lr=1e-2)
    fresh = torch.Generator().manual_seed(1)
    control = small(tied=False)
    other = torch.optim.AdamW(control.parameters(), lr=1e-2)
    for _ in range(40):
        for model, step, labels in (
            (module, optimizer, given["labels"]),
            (control, other, given["labels"][:, torch.randperm(16, generator=fresh)]),
        ):
            loss = nll(model, given | {"labels": labels}).sum() / 30
            step.zero_grad()
            loss.backward()
            step.step()
    assert float(nll(module, given).sum() / 30) < 0.05
    assert float(nll(control, given).sum() / 30) > 1.0
    said = module._logits(given).argmax(dim=-1)
    assert said[:, :-1].equal(given["input_ids"][:, 1:])


@pytest.mark.parametrize("shape", ["gpt2", "tiny-llama-bytes"])
def test_a_token_changes_nothing_before_it_with_packing_either(shape: str) -> None:
    module, given = small(shape), batch(2, 20)
    changed = {**given, "input_ids": given["input_ids"].clone()}
    changed["input_ids"][:, 12] = 1
    packed = {
        "documents": torch.tensor([[1] * 9 + [2] * 8 + [0] * 3] * 2),
        "position_ids": torch.tensor([[*range(9), *range(8), 0, 0, 0]] * 2),
    }
    for extra in ({}, packed):
        before, after = module._logits(given | extra), module._logits(changed | extra)
        assert torch.allclose(before[:, :12], after[:, :12], atol=1e-6)
        assert not torch.allclose(before[:, 12], after[:, 12], atol=1e-3)
        assert not bool(before.isnan().any())


@pytest.mark.parametrize("shape", ["gpt2", "tiny-llama-bytes"])
def test_documents_of_a_row_are_read_as_if_each_were_alone(shape: str) -> None:
    module, given = small(shape), batch(1, 20)
    whole = module._logits(
        given
        | {
            "documents": torch.tensor([[1] * 12 + [2] * 8]),
            "position_ids": torch.tensor([[*range(12), *range(8)]]),
        }
    )
    alone = [module(part) for part in given["input_ids"].split([12, 8], dim=1)]
    assert torch.allclose(whole, torch.cat(alone, dim=1), atol=1e-5)


def test_positions_that_begin_again_hide_nothing_where_documents_are_one() -> None:
    """transformers would read documents off such positions."""
    module, given = small(), batch(1, 20)
    positions = torch.tensor([[*range(12), *range(8)]])
    one = module._logits(given | {"position_ids": positions})
    changed = given["input_ids"].clone()
    changed[:, 3] = 1
    assert not torch.allclose(
        one[:, 15],
        module._logits(given | {"position_ids": positions, "input_ids": changed})[:, 15],
        atol=1e-4,
    )


def test_the_mask_is_causal_within_documents_and_padding_sees_itself() -> None:
    mask = attention_mask(torch.tensor([[1, 1, 2, 2, 0]]))[0, 0].int().tolist()
    assert mask == [
        [1, 0, 0, 0, 0],
        [1, 1, 0, 0, 0],
        [0, 0, 1, 0, 0],
        [0, 0, 1, 1, 0],
        [0, 0, 0, 0, 1],
    ]


def test_perplexity_is_of_the_sum_and_not_the_mean_of_batches() -> None:
    metric = TokenLikelihood()
    metric.update(torch.tensor([10.0]), 10)
    metric.update(torch.tensor([2.0]), 1)
    found = metric.compute()
    assert float(found["perplexity"]) == pytest.approx(2.977, abs=5e-4)  # the mean would be 5.054
    assert math.isnan(found["bits_per_byte"])


def test_a_uniform_model_of_bytes_has_5_5568_nats_and_perplexity_259() -> None:
    from zoo.language.likelihood import scored, token_nll

    labels = batch(2, 30)["labels"]
    metric = TokenLikelihood()
    metric.update(token_nll(torch.zeros(2, 30, 259), labels), scored(labels), torch.tensor([29, 29]))
    found = metric.compute()
    assert float(found["loss"]) == pytest.approx(5.5568, abs=1e-4)
    assert float(found["perplexity"]) == pytest.approx(259, abs=1e-3)
    assert float(found["bits_per_byte"]) == pytest.approx(math.log2(259), abs=1e-5)
    assert int(found["tokens"]) == 58


def test_matrices_are_decayed_and_tables_by_choice() -> None:
    network = small("gpt2").network
    with_tables, without = decay_groups(network), decay_groups(network, embeddings=False)
    assert all(p.ndim > 1 for p in with_tables[0]["params"])
    assert all(p.ndim == 1 for p in with_tables[1]["params"])
    assert with_tables[1]["weight_decay"] == 0
    moved = {id(p) for p in without[1]["params"]} - {id(p) for p in with_tables[1]["params"]}
    transformer = network.model.transformer
    assert moved == {id(transformer.wte.weight), id(transformer.wpe.weight)}
    assert sum(len(g["params"]) for g in without) == len([*network.parameters()])


def test_calibration_is_the_gap_in_fifteen_bins() -> None:
    metric = CalibrationError()
    metric.update(torch.tensor([0.95, 0.95, 0.2, 0.2]), torch.tensor([True, True, True, False]))
    # .5 of the predictions are 1 - .95 off, .5 are .5 - .2 off
    assert float(metric.compute()) == pytest.approx(0.5 * 0.05 + 0.5 * 0.3, abs=1e-6)


def test_choices_by_sum_and_by_characters() -> None:
    metric = ChoiceAccuracy()
    likelihood = torch.tensor([-4.0, -6.0, -3.0, -2.0])
    question, choice = torch.tensor([0, 0, 1, 1]), torch.tensor([0, 1, 0, 1])
    gold, characters = torch.tensor([False, True, True, False]), torch.tensor([4, 12, 2, 4])
    metric.update(likelihood, question, choice, gold, characters)
    metric.update(likelihood[:2], question[:2], choice[:2], gold[:2], characters[:2])  # once more: once
    found = metric.compute()
    # question 0: -4 beats -6, but -6 / 12 beats -4 / 4; question 1: the wrong one both ways
    assert (float(found["acc"]), float(found["acc_norm"])) == (0.0, 0.5)
    assert float(found["acc_norm_stderr"]) == pytest.approx(0.5)
