"""The network against the spec's numbers and traps: sizes, cost, who can see whom."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from zoo.mbt.bottleneck import bottleneck_layer, temporal_indices
from zoo.mbt.cost import macs
from zoo.mbt.network import Block, FusionNetwork, build, fused_logits
from zoo.mbt.rollout import attention_rollout
from zoo.nn.vision_transformer import StochasticDepth

TINY: dict[str, Any] = {
    "num_classes": 3, "width": 16, "depth": 4, "heads": 2, "mlp": 32, "image_size": 8, "patch_size": 4,
    "frames": 2, "spectrogram_frames": 12, "mel_bins": 8, "spectrogram_patch": 4, "fusion_layer": 2,
}  # fmt: skip


def network(**changes: Any) -> FusionNetwork:
    """A small network in double precision whose head and CLS tokens are not 0."""
    torch.manual_seed(0)
    made = build(**{**TINY, **changes}).double().eval()
    for parameter in made.parameters():
        if not parameter.detach().any():
            nn.init.normal_(parameter, std=0.5)
    return made


def clips(seed: int = 1, batch: int = 2) -> dict[str, Tensor]:
    g = torch.Generator().manual_seed(seed)
    return {
        "rgb": torch.randn(batch, 3, 2, 8, 8, generator=g, dtype=torch.float64),
        "spectrogram": torch.randn(batch, 1, 12, 8, generator=g, dtype=torch.float64),
    }


@pytest.mark.parametrize(
    ("changes", "count"),
    [
        ({"extra_bottleneck": True}, 173_215_247),
        ({}, 173_215_247 - 768),
        ({"fusion": "cross_attention"}, 173_211_407),
        ({"fusion": "late"}, 173_211_407),
        ({"extra_bottleneck": True, "num_classes": 309}, 173_047_605),
        ({"extra_bottleneck": True, "num_classes": 397, "frames": 32}, 176_727_949),
        ({"fusion": "shared_self_attention"}, 88_156_943),
        ({"share_encoder": True, "extra_bottleneck": True}, 88_160_783),
        ({"modalities": ["spectrogram"]}, 86_360_591),
        ({"modalities": ["rgb"]}, 87_257_615),
    ],
)
def test_parameter_counts_are_the_official_ones(changes: dict[str, Any], count: int) -> None:
    with torch.device("meta"):
        assert sum(p.numel() for p in build(**changes).parameters()) == count


@pytest.mark.parametrize(("fusion", "by_layer"), [
    ("bottleneck", {0: 218.0, 12: 216.8}), ("cross_attention", {8: 233.8}),
    ("shared_self_attention", {8: 224.6}),
])  # fmt: skip
def test_measured_cost_follows_the_table(fusion: str, by_layer: dict[int, float]) -> None:
    for layer, expected in by_layer.items():
        extra = fusion == "bottleneck"
        found = macs(fusion=fusion, fusion_layer=layer, extra_bottleneck=extra) / 1e9
        assert found == pytest.approx(expected, abs=0.05), layer


def test_cost_of_many_bottlenecks() -> None:
    """tests/benchmarks/test_mbt.py counts the whole table."""
    assert macs(num_bottlenecks=1024, extra_bottleneck=True) / 1e9 == pytest.approx(312.6, abs=0.05)


def test_tokens_are_counted_as_in_the_paper() -> None:
    with torch.device("meta"):
        made, tubes = build(), build(frames=32, patch_mode="tubelet")
    assert made.positions["rgb"].shape == (1, 1569, 768)
    assert made.positions["spectrogram"].shape == (1, 401, 768)
    assert tubes.positions["rgb"].shape == (1, 3137, 768)
    assert tubes.patch["rgb"].weight.shape == (768, 3, 2, 16, 16)


@pytest.mark.parametrize("fusion", ["bottleneck", "cross_attention", "shared_self_attention"])
def test_the_order_of_the_modalities_does_not_matter(fusion: str) -> None:
    a = network(fusion=fusion)
    b = network(fusion=fusion, modalities=["spectrogram", "rgb"])
    b.load_state_dict(a.state_dict())
    with torch.no_grad():
        assert torch.allclose(a(**clips()), b(**clips()).flip(1), atol=1e-12)


def test_the_sequential_update_is_another_function() -> None:
    a, b = network(), network(bottleneck_update="sequential")
    c = network(bottleneck_update="sequential", modalities=["spectrogram", "rgb"])
    for other in (b, c):
        other.load_state_dict(a.state_dict())
    with torch.no_grad():
        outputs = [a(**clips()), b(**clips()), c(**clips()).flip(1)]
    # the order matters, and the second modality hears of the first one layer earlier
    assert (
        min(float((x - y).abs().max()) for x, y in ((outputs[0], outputs[1]), (outputs[1], outputs[2])))
        > 1e-4
    )


def flow(made: FusionNetwork) -> tuple[float, float]:
    """Largest gradient of the rgb logits by the sound, and of the sound's logits by the frames."""
    inputs = {k: x.requires_grad_() for k, x in clips().items()}
    logits = made(**inputs)
    own = {m: logits[:, i].sum() for i, m in enumerate(made.modalities)}
    by_sound = torch.autograd.grad(own["rgb"], inputs["spectrogram"], retain_graph=True, allow_unused=True)[0]
    by_frames = torch.autograd.grad(own["spectrogram"], inputs["rgb"], allow_unused=True)[0]
    return tuple(0.0 if g is None else float(g.abs().max()) for g in (by_sound, by_frames))  # type: ignore[return-value]


@pytest.mark.parametrize(
    ("fusion", "layer", "flows"),
    [
        ("bottleneck", 4, False),
        ("bottleneck", 3, False),  # its CLS reads tokens that nobody has written yet
        ("bottleneck", 2, True),
        ("cross_attention", 4, False),
        ("cross_attention", 3, True),
        ("shared_self_attention", 4, False),
        ("shared_self_attention", 3, True),
        ("late", 0, False),
    ],
)
def test_who_sees_whom(fusion: str, layer: int, flows: bool) -> None:
    found = flow(network(fusion=fusion, fusion_layer=layer))
    assert min(found) > 1e-6 if flows else found == (0.0, 0.0)


@pytest.mark.parametrize("order", [["rgb", "spectrogram"], ["spectrogram", "rgb"]])
def test_in_a_sequential_update_the_second_modality_hears_the_first(order: list[str]) -> None:
    """In one fusion layer: the first reads what nobody has written, the second what the first wrote."""
    found = dict(
        zip(
            ("rgb", "spectrogram"),
            flow(network(bottleneck_update="sequential", fusion_layer=3, modalities=order)),
            strict=True,
        )
    )
    assert found[order[0]] == 0.0
    assert found[order[1]] > 1e-6


def test_late_fusion_is_two_independent_streams() -> None:
    made = network(fusion_layer=4)
    a, b = clips(), clips()
    b["spectrogram"] = torch.randn_like(b["spectrogram"])
    with torch.no_grad():
        first, second = made(**a), made(**b)
    assert torch.equal(first[:, 0], second[:, 0])
    assert not torch.equal(first[:, 1], second[:, 1])


@pytest.mark.parametrize("fusion", ["bottleneck", "cross_attention", "shared_self_attention", "late"])
@pytest.mark.parametrize("layer", [0, 3, 4])
def test_whatever_can_have_a_gradient_has_one(fusion: str, layer: int) -> None:
    """DistributedDataParallel stops at the second step otherwise."""
    made = network(fusion=fusion, fusion_layer=layer).train()
    made(**clips()).square().sum().backward()
    assert [k for k, p in made.named_parameters() if p.requires_grad and p.grad is None] == []


def test_without_bottlenecks_the_same_weights_are_late_fusion() -> None:
    made, late = network(), network(fusion="late")
    late.load_state_dict({k: v for k, v in made.state_dict().items() if k != "bottleneck"})
    with torch.no_grad():
        assert torch.equal(made(**clips(), fuse=False), late(**clips()))
        assert not torch.allclose(made(**clips()), late(**clips()))


def test_cross_attention_equals_the_whole_concatenation() -> None:
    """The official code runs [z_j ; z_i] through the block and keeps the last rows."""
    made = network(fusion="cross_attention", fusion_layer=3)
    with torch.no_grad():
        streams = made.embed(**clips())
        z = dict(streams)
        for layer in range(3):
            z = {k: made.blocks[k][layer](x) for k, x in z.items()}
        whole = {}
        for own, other in (("rgb", "spectrogram"), ("spectrogram", "rgb")):
            joint = made.blocks[own][3](torch.cat([z[other], z[own]], dim=1))
            whole[own] = joint[:, -z[own].shape[1] :]
        assert torch.allclose(made.classify(whole), made(**clips()), atol=1e-10)


def test_a_bottleneck_of_three_streams_is_the_mean_of_the_present() -> None:
    """Streams that each add their own number to every token: 1, 2 and 4."""
    blocks = [lambda z, n=n: z + n for n in (1.0, 2.0, 4.0)]
    streams = [torch.zeros(2, tokens, 5) for tokens in (3, 2, 4)]
    bottleneck = torch.zeros(2, 2, 5)
    moved, mean = bottleneck_layer(blocks, streams, bottleneck)
    assert [float(z.mean()) for z in moved] == [1.0, 2.0, 4.0]
    assert torch.allclose(mean, torch.full_like(mean, 7 / 3))
    present = torch.tensor([[True, False, True], [True, True, False]])
    _, mean = bottleneck_layer(blocks, streams, bottleneck, present=present)
    assert [x.unique().tolist() for x in mean] == [[2.5], [1.5]]
    _, last = bottleneck_layer(blocks, streams, bottleneck, "sequential", present)
    assert [x.unique().tolist() for x in last] == [[5.0], [3.0]]


def test_an_absent_modality_reaches_nobody() -> None:
    """Of a sample without sound the rgb logits are those of the stream alone with its bottleneck."""
    for fusion in ("bottleneck", "cross_attention", "shared_self_attention"):
        made = network(fusion=fusion)
        inputs = clips()
        present = torch.tensor([[True, False], [True, True]])
        with torch.no_grad():
            logits = made(**inputs, present=present)
            alone = made(rgb=inputs["rgb"])
            both = made(**inputs)
        assert torch.allclose(logits[0, 0], alone[0, 0], atol=1e-10), fusion
        assert torch.allclose(logits[1], both[1], atol=1e-10), fusion
        assert torch.equal(fused_logits(logits, present)[0], logits[0, 0])
        assert torch.allclose(fused_logits(logits, present)[1], logits[1].mean(dim=0))


@pytest.mark.parametrize(
    ("frames", "wanted", "expected"),
    [
        (32, 8, [4, 7, 11, 14, 18, 21, 25, 28]),
        (200, 8, [22, 44, 67, 89, 111, 133, 156, 178]),
        (64, 8, [7, 14, 21, 28, 36, 43, 50, 57]),
        (4, 2, [1, 3]),  # the official arange gives three
        (4, 8, [0, 1, 2, 3]),
    ],
)
def test_frames_that_are_kept(frames: int, wanted: int, expected: list[int]) -> None:
    assert temporal_indices(frames, wanted) == expected


def test_tokens_are_frame_row_column_and_time_major() -> None:
    made = network(spectrogram_channels=1)
    inputs = clips()
    tokens = made.embed(**inputs)
    moved = {k: x.clone() for k, x in inputs.items()}
    moved["rgb"][:, :, 1, 0:4, 4:8] += 1  # frame 1, row 0, column 1 of a 2 x 2 grid
    moved["spectrogram"][:, :, 4:8, 4:8] += 1  # time patch 1, mel patch 1 of 3 x 2
    changed = {k: (made.embed(**moved)[k] - z).abs().amax(dim=(0, 2)) > 1e-9 for k, z in tokens.items()}
    assert changed["rgb"].nonzero()[:, 0].tolist() == [1 + 4 + 1]
    assert changed["spectrogram"].nonzero()[:, 0].tolist() == [1 + 2 + 1]


def test_a_one_channel_kernel_is_the_sum_of_three() -> None:
    three, one = network(), network(spectrogram_channels=1)
    state = three.state_dict()
    state["patch.spectrogram.weight"] = state["patch.spectrogram.weight"].sum(dim=1, keepdim=True)
    one.load_state_dict(state)
    with torch.no_grad():
        assert torch.allclose(one(**clips()), three(**clips()), atol=1e-12)


def test_stochastic_depth_does_not_rescale_and_grows_with_the_layer() -> None:
    made = network(stochastic_depth=0.3)
    rates = [made.blocks["rgb"][i].drop1.rate for i in range(4)]
    assert rates == pytest.approx([0, 0.1, 0.2, 0.3])
    plain, timm = StochasticDepth(0.5).train(), StochasticDepth(0.5, rescale=True).train()
    ones = torch.ones(4000, 1, 1)
    assert (set(plain(ones).unique().tolist()), set(timm(ones).unique().tolist())) == ({0.0, 1.0}, {0.0, 2.0})
    assert float(plain(ones).mean()) == pytest.approx(0.5, abs=0.03)
    assert torch.equal(plain.eval()(ones), ones)


def test_attention_and_mlp_branch_drop_apart() -> None:
    block = Block(8, 2, 16, drop_path=0.5).train()
    masks = []
    for drop in (block.drop1, block.drop2):
        drop.register_forward_hook(lambda m, i, o: masks.append((o != 0).any(dim=(1, 2)).flatten()))  # type: ignore[arg-type]
    block(torch.randn(64, 3, 8))
    assert not torch.equal(masks[0].bool(), masks[1].bool())


def test_gap_has_no_cls_tokens_and_one_logit_vector() -> None:
    made = network(classifier="gap")
    assert (made.positions["rgb"].shape[1], len(made.cls)) == (8, 0)
    with torch.no_grad():
        logits = made(**clips())
        streams = made.encode(made.embed(**clips()))
        tokens = torch.cat([made.norm(z) for z in streams.values()], dim=1)
    assert logits.shape == (2, 1, 3)
    assert torch.allclose(logits[:, 0], made.head(tokens.mean(dim=1)), atol=1e-12)


def test_a_fresh_network_says_nothing() -> None:
    torch.manual_seed(0)
    inputs = {k: x.float() for k, x in clips().items()}
    assert not build(**TINY)(**inputs).any()


def test_initialisation_has_the_official_spreads() -> None:
    torch.manual_seed(0)
    made = build(width=192, depth=2, heads=4, mlp=768, fusion_layer=1)
    assert made.bottleneck is not None
    block = made.blocks["rgb"][0]
    bound = (6 / (192 + 192)) ** 0.5  # each of q, k and v is a kernel of its own
    for part in block.qkv.weight.chunk(3):
        assert float(part.detach().abs().max()) == pytest.approx(bound, rel=0.01)
    assert float(block.fc1.weight.detach().abs().max()) == pytest.approx((6 / (192 + 768)) ** 0.5, rel=0.01)
    assert float(made.positions["rgb"].std()) == pytest.approx(0.02, rel=0.02)
    assert float(made.bottleneck.std()) == pytest.approx(0.02, rel=0.1)
    assert float(made.patch["rgb"].weight.std()) == pytest.approx(768**-0.5, rel=0.02)
    assert float(block.fc1.bias.detach().abs().max()) < 1e-5
    assert not block.qkv.bias.any()


@pytest.mark.parametrize("fusion", ["bottleneck", "cross_attention", "shared_self_attention", "late"])
def test_rollout_is_a_share_of_attention(fusion: str) -> None:
    made = network(fusion=fusion)
    maps = attention_rollout(made, clips())
    assert (maps["rgb"].shape, maps["spectrogram"].shape) == ((2, 2, 2, 2), (2, 3, 2))
    total = sum(m.flatten(1).sum(dim=1) for m in maps.values())
    assert float(total.max()) <= 1 + 1e-6  # the rest lies on CLS and bottleneck
    assert min(float(m.min()) for m in maps.values()) > 0
    assert made.blocks[next(iter(made.blocks))][0].recorded is None
    crossing = attention_rollout(made, clips(), source="rgb")["spectrogram"].sum()
    assert (float(crossing) > 1e-6) == (fusion != "late")


@pytest.mark.parametrize("fusion", ["bottleneck", "cross_attention", "shared_self_attention", "late"])
def test_rollout_of_an_absent_modality_is_zero(fusion: str) -> None:
    made, inputs = network(fusion=fusion), clips()
    maps = attention_rollout(made, inputs, present=torch.tensor([[True, False], [True, True]]))
    assert not maps["spectrogram"][0].any()
    alone = attention_rollout(made, {"rgb": inputs["rgb"]})["rgb"]
    assert torch.allclose(maps["rgb"][0], alone[0], atol=1e-6)
    both = attention_rollout(made, inputs)
    assert all(torch.allclose(maps[k][1], both[k][1], atol=1e-6) for k in maps)


def test_activation_checkpointing_changes_nothing() -> None:
    grads = []
    for used in (False, True):
        made = network(activation_checkpointing=used).train()
        made(**clips()).square().sum().backward()
        grads.append([p.grad for p in made.parameters()])
    assert all(torch.allclose(a, b, atol=1e-10) for a, b in zip(*grads, strict=True))


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"fusion_layer": 5}, "fusion_layer must lie in 0..4"),
        ({"heads": 3}, "heads must divide width"),
        ({"patch_size": 3}, "patch_size must divide image_size, got 3 and 8"),
        ({"spectrogram_frames": 3}, "spectrogram_patch must not exceed spectrogram_frames, got 4 and 3"),
        ({"modalities": ["text"]}, "modalities must be of rgb, spectrogram"),
        ({"fusion": "middle"}, "fusion must be one of"),
    ],
)
def test_impossible_sizes_are_refused(changes: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        build(**{**TINY, **changes})


@pytest.mark.parametrize(("seconds", "times"), [(2, 12), (3, 18), (6, 37), (8, 50), (10, 62)])
def test_any_whole_number_of_seconds_makes_a_grid(seconds: int, times: int) -> None:
    with torch.device("meta"):
        made = build(spectrogram_frames=100 * seconds, modalities=["spectrogram"], depth=1)
    assert (made.grids["spectrogram"], made.positions["spectrogram"].shape[1]) == ((times, 8), 1 + times * 8)


def test_frames_beyond_the_last_whole_patch_are_not_seen() -> None:
    made = build(spectrogram_frames=200, modalities=["spectrogram"], depth=1, width=8, heads=1, mlp=8)
    sound = torch.randn(1, 1, 200, 128)
    last, beyond = sound.clone(), sound.clone()
    beyond[:, :, 192:] += 1
    last[:, :, 191:] += 1
    tokens = [made.embed(None, x)["spectrogram"] for x in (sound, beyond, last)]
    assert torch.equal(tokens[0], tokens[1])
    assert not torch.equal(tokens[0], tokens[2])


def test_another_length_of_sound_is_one_clear_line() -> None:
    inputs = clips()
    with pytest.raises(ValueError, match=r"spectrogram of shape .* gives 5 tokens, .* positions for 7"):
        network()(rgb=inputs["rgb"], spectrogram=inputs["spectrogram"][:, :, :8])


def test_a_transposed_spectrogram_gives_other_logits() -> None:
    """Same number of patches, other order: time must come first."""
    made = network(spectrogram_channels=1)
    inputs = clips()
    with torch.no_grad():
        right = made(**inputs)
        wrong = made(rgb=inputs["rgb"], spectrogram=inputs["spectrogram"].transpose(2, 3))
    assert (right - wrong).abs().max() > 1e-3
