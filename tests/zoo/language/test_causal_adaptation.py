"""New weights beside frozen ones: how many, nothing changed at first, only they learn, merged alike."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import zoo
from zoo.hub.convert import convert
from zoo.language.adaptation import add_lora, merged, scale_of, trainable
from zoo.language.folders import start_from

SMALL: dict[str, Any] = {"width": 32, "layers": 2, "heads": 4, "hidden": 64, "context": 48, "vocab_size": 64}
IDS = torch.randint(3, 64, (2, 20), generator=torch.Generator().manual_seed(0))
KINDS = ("lora", "ia3", "adapters", "prefix", "prompt")


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def small(model: str = "tiny-llama-bytes", **settings: Any) -> zoo.CausalLM:
    torch.manual_seed(0)
    return zoo.CausalLM(model=model, **{**SMALL, **settings}).eval()


def learnt(module: zoo.CausalLM) -> None:
    """A few steps on one batch."""
    step = torch.optim.SGD([p for p in module.parameters() if p.requires_grad], lr=0.5)
    for _ in range(5):
        loss = torch.nn.functional.cross_entropy(module(IDS)[:, :-1].flatten(0, 1), IDS[:, 1:].flatten())
        step.zero_grad()
        loss.backward()
        step.step()


@pytest.mark.parametrize(
    ("shape", "settings", "count"),
    [
        ("gpt2", {"adapt": "lora", "rank": 4}, 147_456),
        ("gpt2", {"adapt": "lora", "rank": 8}, 294_912),
        ("gpt2", {"adapt": "lora", "rank": 16}, 589_824),
        ("tiny-llama-bytes", {"adapt": "lora", "rank": 8}, 16_384),
        ("tiny-llama-bytes", {"adapt": "lora", "rank": 8, "targets": ["all-linear"]}, 78_080),
        ("tiny-llama-bytes", {"adapt": "prompt", "virtual_tokens": 20}, 2_560),
        ("tiny-llama-bytes", {"adapt": "prefix", "virtual_tokens": 20}, 20_480),
        ("tiny-llama-bytes", {"adapt": "ia3"}, 2_400),
        ("tiny-llama-bytes", {"adapt": "adapters", "bottleneck": 16}, 4 * 2 * (2 * 128 * 16 + 16 + 128)),
    ],
)
def test_as_many_weights_learn_as_published(shape: str, settings: dict[str, Any], count: int) -> None:
    with torch.device("meta"):
        assert trainable(zoo.CausalLM(model=shape, **settings).network)[0] == count


@pytest.mark.parametrize("shape", ["gpt2", "tiny-llama-bytes"])
@pytest.mark.parametrize("kind", KINDS)
def test_at_first_nothing_changes_and_then_only_the_new_weights(kind: str, shape: str) -> None:
    plain, module = small(shape), small(shape, adapt=kind)
    held = plain.network.state_dict()
    own = module.network.state_dict()
    assert {k for k in held if k not in own} == set()  # under the names that they had
    module.network.load_state_dict({**own, **held})
    if kind in ("lora", "ia3", "adapters"):
        assert float((module(IDS) - plain(IDS)).abs().max()) == 0.0
    learnt(module)
    after = module.network.state_dict()
    assert all(after[k].equal(v) for k, v in held.items())
    assert not torch.allclose(module(IDS), plain(IDS), atol=1e-4)


@pytest.mark.parametrize("shape", ["gpt2", "tiny-llama-bytes"])
@pytest.mark.parametrize(
    "settings", [{"adapt": "lora"}, {"adapt": "lora", "targets": ["all-linear"], "rs_lora": True},
                 {"adapt": "ia3"}, {"adapt": "lora", "targets": ["table"]}],
)  # fmt: skip
def test_merged_saved_and_reloaded_the_logits_are_the_same(
    settings: dict[str, Any], shape: str, tmp_path: Path
) -> None:
    """Also where LoRA lies beside a table of tokens that is tied to the output layer."""
    from transformers import AutoModelForCausalLM

    if settings.get("targets") == ["table"]:
        settings = {**settings, "targets": [{"gpt2": "wte"}.get(shape, "embed_tokens")]}
    module = small(shape, **settings)
    learnt(module)
    wanted = module(IDS)
    assert torch.allclose(merged(module.network.model)(IDS).logits, wanted, atol=1e-5)
    zoo.save(module, tmp_path / "kept.safetensors")
    assert zoo.load(tmp_path / "kept.safetensors")(IDS).equal(wanted)
    assert [*convert(tmp_path / "kept.safetensors", tmp_path / "out", None, "transformers", (), False)]
    back = AutoModelForCausalLM.from_pretrained(tmp_path / "out").eval()
    assert torch.allclose(back(IDS).logits, wanted, atol=1e-5)


@pytest.mark.parametrize("kind", ["prefix", "prompt"])
def test_every_document_sees_the_virtual_tokens_and_a_cache_changes_nothing(kind: str) -> None:
    module = small(adapt=kind, virtual_tokens=5)
    learnt(module)
    packed = module(IDS[:1], torch.tensor([[*range(12), *range(8)]]), torch.tensor([[1] * 12 + [2] * 8]))
    alone = torch.cat([module(part) for part in IDS[:1].split([12, 8], dim=1)], dim=1)
    assert torch.allclose(packed, alone, atol=1e-5)
    prompts = (IDS[0, :7].tolist(), IDS[1, :3].tolist())
    found = module.network.continued(prompts, 6, None)
    for prompt, row in zip(prompts, found, strict=True):
        ids = list(prompt)
        for token in row:
            assert int(module(torch.tensor([ids]))[0, -1].argmax()) == token
            ids.append(token)


def test_a_folder_is_adapted_and_its_weights_go_where_they_belong(tmp_path: Path) -> None:
    plain = small("gpt2")
    plain.network.model.save_pretrained(tmp_path)
    module = zoo.CausalLM(pretrained=str(tmp_path), adapt="lora", rank=2).eval()
    start_from(module.network.model, str(tmp_path))
    assert float((module(IDS) - plain(IDS)).abs().max()) == 0.0


def test_scales_and_what_cannot_be() -> None:
    assert (scale_of(8, None, False), scale_of(8, 8.0, False), scale_of(16, 8.0, True)) == (2.0, 1.0, 2.0)
    for settings, words in (
        ({"adapt": "lorra"}, "adapt must be one of none, lora"),
        ({"rank": 4}, "rank is 4, which adapt: none does not use"),
        ({"adapt": "prefix", "checkpointing": True}, "a prefix lies in a cache"),
        ({"adapt": "prompt", "virtual_tokens": 48}, "the context has 48"),
    ):
        with pytest.raises(ValueError, match=words):
            small(**settings)
    with pytest.raises(ValueError, match="no layer is called 'q'"):
        add_lora(small().network.model, 4, targets=["q"])
    module = small(adapt="adapters")
    with pytest.raises(ValueError, match="adapters do not merge"):
        module.network.plain()
