"""Stable Diffusion behind the interface: a tiny random folder end to end, the real sizes on meta."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from fakes.active_generation import fake_stable_diffusion
from torch import nn

from zoo.actgen.attention import keep_attention
from zoo.actgen.pipeline import PipelineGenerator, load_pipeline
from zoo.actgen.sampling import Guidance, Job, guided_eps, sample_guided, sample_random

NAMES = ["tench", "great white shark"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fake_stable_diffusion(tmp_path_factory.mktemp("sd"))


@pytest.fixture(scope="module")
def generator(folder: Path) -> PipelineGenerator:
    return PipelineGenerator(load_pipeline(str(folder)), NAMES, "a photo of {}", "tiny")


def test_rows_and_tokens_of_a_prompt(generator: PipelineGenerator) -> None:
    found = generator.prompts([0, 1])
    pipe = generator.pipe
    conditional, null = pipe.encode_prompt("a photo of tench", torch.device("cpu"), 1, True)
    assert torch.allclose(found.embeddings[1, 0], conditional[0], atol=1e-6)
    assert torch.allclose(found.embeddings[0, 0], null[0], atol=1e-6)
    assert torch.equal(found.embeddings[0, 0], found.embeddings[0, 1])
    # <bos> a photo of tench: the fourth; of several sub-tokens all
    assert found.tokens.nonzero().tolist() == [[0, 4], [1, 4], [1, 5], [1, 6]]
    ids = pipe.tokenizer("a photo of great white shark").input_ids
    assert pipe.tokenizer.convert_ids_to_tokens(ids)[4:7] == ["great</w>", "white</w>", "shark</w>"]
    assert found.texts == ["a photo of tench", "a photo of great white shark"]


def test_one_step_from_the_same_latents_is_the_pipelines(generator: PipelineGenerator) -> None:
    """diffusers' own loop, prompts and guidance: DDIM in one step ends at x0."""
    from diffusers import DDIMScheduler

    pipe = generator.pipe
    x = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(0))
    ours, pipe.scheduler = pipe.scheduler, DDIMScheduler.from_config(pipe.scheduler.config)
    try:
        theirs = pipe(
            "a photo of tench", num_inference_steps=1, guidance_scale=3.0, latents=x, output_type="latent"
        ).images
        t = int(pipe.scheduler.timesteps[0])
    finally:
        pipe.scheduler = ours
    eps = guided_eps(generator.eps(x, t, generator.prompts([0]).embeddings), 3.0)
    abar = generator.schedule.tables["alpha_bar"][t]
    x0 = (x - (1 - abar).sqrt() * eps) / abar.sqrt()
    assert torch.allclose(x0.float(), theirs, atol=1e-4)


def test_guided_sampling_end_to_end_and_each_image_as_if_alone(generator: PipelineGenerator) -> None:
    torch.manual_seed(0)
    classifier = nn.Sequential(nn.Flatten(), nn.Linear(3 * 64, 2)).requires_grad_(False)
    guides = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(1)) * 2 - 1
    memories = [torch.randn(2, 1024, generator=torch.Generator().manual_seed(i)) for i in (2, 3)]
    settings = Guidance(steps=4, scale=2.0, centre=1.5, gradient_steps=2, margin=100.0)
    asked = Job([0, 1], [5, 6], guides, [True, True], memories)
    made = sample_guided(generator, asked, settings, classifier, 8)
    assert made.images.shape == (2, 3, 32, 32)
    assert all(bool((g > 0).all()) for g in made.gradients)
    assert float(made.masks.max()) > float(made.masks.min())
    for i in range(2):
        one = Job([i], [5 + i], guides[i : i + 1], [True], memories[i : i + 1])
        alone = sample_guided(generator, one, settings, classifier, 8)
        assert torch.allclose(alone.images[0], made.images[i], atol=1e-5)
    parts = [generator.pipe.unet, generator.pipe.vae, generator.pipe.text_encoder]
    assert all(p.grad is None and not p.requires_grad for part in parts for p in part.parameters())
    for sampler in ("ddpm", "pndm"):
        assert torch.isfinite(sample_random(generator, Job([1], [3]), 4, 2.0, sampler).images).all()  # type: ignore[arg-type]


def test_maps_are_kept_at_a_quarter_of_the_latents_alone(generator: PipelineGenerator) -> None:
    fused = generator.eps(torch.ones(1, 4, 16, 16), 501, generator.prompts([0]).embeddings)
    generator.keep_maps(True)
    opened = generator.eps(torch.ones(1, 4, 16, 16), 501, generator.prompts([0]).embeddings)
    assert [m.shape for m in generator.maps()] == [(2, 16, 24)] * 3  # one below, two above; never the middle
    generator.keep_maps(False)
    assert torch.allclose(fused, opened, atol=1e-5)


def test_checkpointed_gradients_are_the_same_and_keep_no_second_map(folder: Path) -> None:
    found = []
    for checkpointing in (False, True):
        own = PipelineGenerator(load_pipeline(str(folder)), NAMES, "a photo of {}", "tiny", checkpointing)
        guides = torch.zeros(1, 3, 32, 32)
        job = Job([1], [5], guides, [False], [torch.zeros(1, 1024)])
        found.append(sample_guided(own, job, Guidance(steps=4, gradient_steps=2, margin=1e3)))
    assert torch.allclose(found[0].latents, found[1].latents, atol=1e-4)
    assert torch.allclose(found[0].masks, found[1].masks, atol=1e-5)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda f: shutil.rmtree(f / "vae"), "has no vae/: a Stable Diffusion folder has"),
        (
            lambda f: (f / "unet" / "diffusion_pytorch_model.safetensors").write_bytes(b"x" * 99),
            "safetensors",
        ),
        (lambda f: (f / "unet" / "config.json").write_text("{"), "config.json"),
        (
            lambda f: (f / "scheduler" / "scheduler_config.json").write_text(
                '{"_class_name": "DDPMScheduler", "prediction_type": "v_prediction"}'
            ),
            "predicts v_prediction",
        ),
    ],
)
def test_a_folder_that_does_not_do_is_one_line(change: Any, said: str, folder: Path, tmp_path: Path) -> None:
    own = tmp_path / "sd"
    shutil.copytree(folder, own)
    change(own)
    with pytest.raises((ValueError, OSError), match=said) as caught:
        PipelineGenerator(load_pipeline(str(own)), NAMES, "a photo of {}", "own")
    assert "\n" not in str(caught.value)


def test_no_such_generator_is_one_line() -> None:
    with pytest.raises(FileNotFoundError, match="no generator at /nowhere/at/all"):
        load_pipeline("/nowhere/at/all")


def test_the_sizes_of_stable_diffusion_2_1() -> None:
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    with torch.device("meta"):
        unet = UNet2DConditionModel(
            sample_size=64, in_channels=4, out_channels=4, layers_per_block=2,
            block_out_channels=(320, 640, 1280, 1280), cross_attention_dim=1024,
            attention_head_dim=(5, 10, 20, 20), use_linear_projection=True,
            down_block_types=(*("CrossAttnDownBlock2D",) * 3, "DownBlock2D"),
            up_block_types=("UpBlock2D", *("CrossAttnUpBlock2D",) * 3),
        )  # fmt: skip
        vae = AutoencoderKL(
            in_channels=3, out_channels=3, latent_channels=4, layers_per_block=2, sample_size=768,
            block_out_channels=(128, 256, 512, 512), down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
        )  # fmt: skip
        text = CLIPTextModel(
            CLIPTextConfig(
                vocab_size=49_408, hidden_size=1024, intermediate_size=4096, num_hidden_layers=23,
                num_attention_heads=16, max_position_embeddings=77, hidden_act="gelu",
            )
        )  # fmt: skip
        sizes = [sum(p.numel() for p in part.parameters()) / 1e6 for part in (unet, vae, text)]
        assert sizes == pytest.approx([865.9, 83.7, 340.4], abs=0.06)
        kept = keep_attention(unet, {16})
    assert sorted(name.split(".")[0] for name in kept) == ["down_blocks"] * 2 + ["up_blocks"] * 3
