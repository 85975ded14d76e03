"""Text that goes on from a prompt: with a cache as without, alone as in a batch, seeded by place."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import zoo
from datamodules.text.byte_tokens import byte_document

SMALL: dict[str, Any] = {"width": 32, "layers": 2, "heads": 4, "hidden": 64, "context": 48, "vocab_size": 259}
PROMPTS = ([1, 40, 41, 42, 43, 44, 45], [1, 70], [1, 90, 91, 92])


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def small(model: str = "tiny-llama-bytes", **settings: Any) -> zoo.CausalLM:
    torch.manual_seed(0)
    module = zoo.CausalLM(model=model, **{**SMALL, **settings}).eval()
    with torch.no_grad():  # as far from uniform as a trained one
        for parameter in module.network.parameters():
            parameter.mul_(4.0)
    module.vocabulary.fill(byte_document())
    return module


def greedy(module: zoo.CausalLM, prompt: list[int], most: int) -> list[int]:
    """By the definition: the whole row again for each token."""
    ids, found = list(prompt), []
    for _ in range(most):
        logits = module(torch.tensor([ids]))[0, -1]
        logits[[0, 1]] = -torch.inf  # pad and bos are never written
        token = int(logits.argmax())
        if token == 2:
            break
        found.append(token)
        ids.append(token)
    return found


@pytest.mark.parametrize("shape", ["gpt2", "tiny-llama-bytes"])
def test_the_cache_and_padding_on_the_left_change_nothing(shape: str) -> None:
    module = small(shape)
    together = module._continued(PROMPTS, range(3), 0, max_new_tokens=12)
    assert together == [greedy(module, p, 12) for p in PROMPTS]
    assert len({tuple(row) for row in together}) == 3


def test_logits_with_a_cache_are_those_without_and_know_no_later_token() -> None:
    module, ids = small(), torch.tensor([PROMPTS[0]])
    whole, past = module(ids), None
    for place in range(ids.shape[1]):
        found = module.network.model(
            input_ids=ids[:, place : place + 1], past_key_values=past, use_cache=True
        )
        past = found.past_key_values
        assert torch.allclose(found.logits[:, 0], whole[:, place], atol=1e-5)


def test_a_draw_is_a_function_of_seed_and_place_alone() -> None:
    module = small()
    settings: dict[str, Any] = {"decoding": "sample", "max_new_tokens": 10, "temperature": 2.0, "top_k": 50}
    together = module._continued(PROMPTS, [5, 6, 7], 3, **settings)
    assert together[2:] == module._continued(PROMPTS[2:], [7], 3, **settings)
    assert together != module._continued(PROMPTS, [5, 6, 7], 4, **settings)
    assert module.generate("ab", seed=1, **settings) == module.generate(["ab"], seed=1, **settings)


def test_a_beam_search_finds_what_that_of_transformers_finds() -> None:
    from transformers import GenerationConfig

    module = small()
    settings = GenerationConfig(
        num_beams=3, max_new_tokens=8, do_sample=False, eos_token_id=2, pad_token_id=2, bos_token_id=1,
        length_penalty=0.0, early_stopping=False,
    )  # fmt: skip
    for prompt in PROMPTS:
        theirs = module.network.model.generate(torch.tensor([prompt]), generation_config=settings)
        wanted = [t for t in theirs[0, len(prompt) :].tolist() if t != 2]
        assert module.network.continued([prompt], 8, 2, beams=3) == [wanted]


def test_a_prompt_longer_than_the_context_loses_its_beginning() -> None:
    module = small()
    text = "x" * 100
    kept = module._continued([[ord("x") + 3] * 40], [0], 0, max_new_tokens=8)
    assert module.generate(text, 8) == [module._text(kept[0])]


def test_what_is_no_setting_is_refused_in_one_line() -> None:
    module = small()
    for settings, words in (
        ({"temperature": 0.0}, "temperature is 0.0"),
        ({"beam": 3}, "'beam' is no setting"),
        ({"decoding": "magic"}, "greedy, sample or beam"),
        ({"max_new_tokens": 48}, "the context has 48"),
        ({"max_new_tokens": 0}, "max_new_tokens is 0"),
    ):
        with pytest.raises(ValueError, match=words) as caught:
            module.generate("a", **settings)
        assert "\n" not in str(caught.value)
    with pytest.raises(ValueError, match="half a character"):
        module.generate("\ud800")
    assert module.generate([]) == []


def test_text_is_written_beside_its_prompt(tmp_path: Path) -> None:
    from zoo.language.causal.report import GeneratedText

    (tmp_path / "parts").mkdir()
    for part in (GeneratedText(["def f"], ["(x):"], torch.tensor([1]), ["(y)"]),
                 GeneratedText(["a"], ["\nb"], torch.tensor([0]), [""])):  # fmt: skip
        part.write(tmp_path)
    lines, text = (path.read_text() for path in GeneratedText.merge(tmp_path))
    assert lines.splitlines() == [
        '{"index": 0, "prompt": "a", "generated": "\\nb"}',
        '{"index": 1, "prompt": "def f", "generated": "(x):", "reference": "(y)"}',
    ]
    assert "def f>>>(x):" in text
