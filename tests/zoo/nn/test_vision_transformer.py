"""Vision transformers: known sizes, the outputs of transformers' with the same weights, timm's start."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from transformers import ViTConfig, ViTForImageClassification

from zoo.nn.vision_transformer import StochasticDepth, VisionTransformer


def size_of(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("vit_tiny_patch16_224", 5_717_416),
        ("vit_small_patch16_224", 22_050_664),
        ("deit_base_patch16_224", 86_567_656),
    ],
)
def test_parameters_are_counted_as_published(name: str, size: int) -> None:
    with torch.device("meta"):
        assert size_of(VisionTransformer(name)) == size


# ours, behind ``blocks.N.`` -> transformers', behind the layer's number
LAYER = {
    "norm1": ("layernorm_before",),
    "norm2": ("layernorm_after",),
    "attn.qkv": ("attention.q_proj", "attention.k_proj", "attention.v_proj"),
    "attn.proj": ("attention.o_proj",),
    "mlp.fc1": ("mlp.fc1",),
    "mlp.fc2": ("mlp.fc2",),
}
REST = {
    "cls_token": "vit.embeddings.cls_token",
    "pos_embed": "vit.embeddings.position_embeddings",
    "patch_embed.proj": "vit.embeddings.patch_embeddings.projection",
    "norm": "vit.layernorm",
    "head": "classifier",
}


def timms(state: dict[str, Tensor], names: list[str]) -> dict[str, Tensor]:
    """The weights of transformers' ViT under our names."""
    found = {}
    for name in names:
        module, _, leaf = name.rpartition(".")
        if name in REST:
            found[name] = state[REST[name]]
        elif module in REST:
            found[name] = state[f"{REST[module]}.{leaf}"]
        else:
            _, layer, part = module.split(".", 2)
            theirs = [state[f"vit.layers.{layer}.{p}.{leaf}"] for p in LAYER[part]]
            found[name] = torch.cat(theirs)
    return found


def test_the_outputs_are_those_of_transformers() -> None:
    config = ViTConfig(
        hidden_size=192,
        num_hidden_layers=12,
        num_attention_heads=3,
        intermediate_size=768,
        image_size=32,
        patch_size=8,
        layer_norm_eps=1e-6,
        num_labels=5,
    )
    other = ViTForImageClassification(config).eval()
    g = torch.Generator().manual_seed(0)
    state = {k: torch.randn(v.shape, generator=g) * 0.1 for k, v in other.state_dict().items()}
    other.load_state_dict(state)
    ours = VisionTransformer("vit_tiny_patch16_224", 5, image_size=32, patch_size=8).eval()
    ours.load_state_dict(timms(state, list(ours.state_dict())))
    x = torch.randn(2, 3, 32, 32, generator=g)
    with torch.no_grad():
        torch.testing.assert_close(ours(x), other(x).logits, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(ours.tokens(x), other.vit(x).last_hidden_state, atol=1e-5, rtol=1e-5)


def test_it_begins_as_timm_begins() -> None:
    torch.manual_seed(0)
    network = VisionTransformer("vit_tiny_patch16_224", 10)
    for weight in (network.pos_embed, network.blocks[3].mlp.fc1.weight, network.head.weight):
        assert float(weight.std()) == pytest.approx(0.02, rel=0.05)
    assert 0 < float(network.cls_token.std()) < 2e-6
    assert not any(m.bias.any() for m in network.modules() if isinstance(m, nn.Linear))
    bound = (3 * 16 * 16) ** -0.5  # torch's own start of a convolution, uniform
    assert float(network.patch_embed.proj.weight.abs().max()) == pytest.approx(bound, rel=1e-3)


def test_stochastic_depth_rises_to_its_rate_and_keeps_the_mean() -> None:
    network = VisionTransformer("vit_tiny_patch16_224", None, image_size=32, drop_path=0.11)
    rates = [block.drop_path2.rate for block in network.blocks]
    assert rates == pytest.approx([0.01 * i for i in range(12)])
    assert all(d.rescale for b in network.blocks for d in (b.drop_path1, b.drop_path2))
    branch = torch.ones(20_000, 2, 3)
    torch.manual_seed(0)
    kept = StochasticDepth(0.25, rescale=True).train()(branch)
    assert sorted(set(kept.flatten().tolist())) == pytest.approx([0, 4 / 3])
    assert torch.equal(kept[:, 0, 0], kept[:, 1, 2])  # a whole example
    assert float(kept.mean()) == pytest.approx(1, abs=0.02)
    assert torch.equal(StochasticDepth(0.25, rescale=True).eval()(branch), branch)
    x = torch.rand(2, 3, 32, 32)
    assert not torch.equal(network.train()(x), network(x))
    assert torch.equal(network.eval()(x), network(x))


@pytest.mark.parametrize(
    ("given", "word"),
    [
        ({"name": "vit_huge"}, "vit_small_patch16_224"),
        ({"name": "vit_tiny_patch16_224", "image_size": 100}, "multiple of patch_size, got 100 and 16"),
        ({"name": "vit_tiny_patch16_224", "drop_path": 1.0}, "drop_path is 1.0"),
    ],
)
def test_what_makes_no_network_is_refused(given: dict[str, object], word: str) -> None:
    with pytest.raises(ValueError, match=word):
        VisionTransformer(**given)


def test_pictures_of_another_side_are_refused() -> None:
    with pytest.raises(ValueError, match="32 x 40 pixels meet a vision transformer for 32 x 32"):
        VisionTransformer("vit_tiny_patch16_224", 5, image_size=32)(torch.rand(1, 3, 32, 40))
