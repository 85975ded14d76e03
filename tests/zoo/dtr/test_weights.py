"""Weights of other projects: parity with their own forward passes, and round trips equal to the bit."""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import cli
import zoo
from zoo.dtr.network import SIZES, position_table
from zoo.dtr.routing import task_masks, window_starts
from zoo.dtr.tables import alpha_of
from zoo.dtr.weights import diffusers_state, official_state
from zoo.hub import weights as hub

Captured = pytest.CaptureFixture[str]
WIDTH, DEPTH, HEADS, PATCH, SIZE, CLASSES = 32, 3, 4, 2, 8, 10


def sincos_1d(dim: int, positions: np.ndarray) -> np.ndarray:
    omega = 1.0 / 10000 ** (np.arange(dim // 2, dtype=np.float64) / (dim / 2.0))
    out = np.einsum("m,d->md", positions.reshape(-1), omega)
    return np.concatenate([np.sin(out), np.cos(out)], axis=1)


def sincos_2d(dim: int, grid: int) -> np.ndarray:
    """MAE's table: np.meshgrid(w, h), so its first half is the column."""
    column, row = np.meshgrid(np.arange(grid, dtype=np.float32), np.arange(grid, dtype=np.float32))
    return np.concatenate([sincos_1d(dim // 2, column), sincos_1d(dim // 2, row)], axis=1)


class OfficialAttention(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        b, n, c = x.shape
        q, k, v = self.qkv(x).reshape(b, n, 3, self.heads, c // self.heads).permute(2, 0, 3, 1, 4)
        weights = (q @ k.transpose(-2, -1) / math.sqrt(c // self.heads)).softmax(dim=-1)
        return self.proj((weights @ v).transpose(1, 2).reshape(b, n, c))


class OfficialRouting(nn.Module):
    def __init__(self, table: Tensor) -> None:
        super().__init__()
        self.register_buffer("_unit_mapping", table)


class OfficialBlock(nn.Module):
    def __init__(self, width: int, heads: int, table: Tensor | None) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, elementwise_affine=False, eps=1e-6)
        self.norm2 = nn.LayerNorm(width, elementwise_affine=False, eps=1e-6)
        self.attn = OfficialAttention(width, heads)
        self.mlp = nn.Module()
        self.mlp.fc1, self.mlp.fc2 = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(width, 6 * width))
        if table is not None:
            self.routing = OfficialRouting(table)

    def forward(self, z: Tensor, c: Tensor, t: Tensor) -> Tensor:
        m = self.routing._unit_mapping[t].unsqueeze(1) if hasattr(self, "routing") else torch.ones(1)
        sh1, sc1, g1, sh2, sc2, g2 = (x.unsqueeze(1) for x in self.adaLN_modulation(c).chunk(6, dim=1))
        r = m * z
        h = r + g1 * self.attn(self.norm1(r) * (1 + sc1) + sh1)
        hidden = nn.functional.gelu(self.mlp.fc1(self.norm2(h) * (1 + sc2) + sh2), approximate="tanh")
        h = h + g2 * self.mlp.fc2(hidden)
        return h + (1 - m) * z


class OfficialDiT(nn.Module):
    def __init__(self, tables: Any = None, classes: int = CLASSES, sigma: bool = True) -> None:
        super().__init__()
        self.channels = 8 if sigma else 4
        self.x_embedder = nn.Module()
        self.x_embedder.proj = nn.Conv2d(4, WIDTH, PATCH, PATCH)
        self.t_embedder = nn.Module()
        self.t_embedder.mlp = nn.Sequential(nn.Linear(256, WIDTH), nn.SiLU(), nn.Linear(WIDTH, WIDTH))
        self.y_embedder = nn.Module()
        self.y_embedder.embedding_table = nn.Embedding(classes + 1 if classes > 1 else 1, WIDTH)
        table = torch.from_numpy(sincos_2d(WIDTH, SIZE // PATCH)).float().unsqueeze(0)
        self.pos_embed = nn.Parameter(table, requires_grad=False)
        tables = tables or [None] * DEPTH
        self.blocks = nn.ModuleList(OfficialBlock(WIDTH, HEADS, t) for t in tables)
        self.final_layer = nn.Module()
        self.final_layer.linear = nn.Linear(WIDTH, PATCH * PATCH * self.channels)
        self.final_layer.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(WIDTH, 2 * WIDTH))
        generator = torch.Generator().manual_seed(7)
        for p in self.parameters():
            if p.requires_grad:  # gates and biases included: no term of the block may vanish
                p.data = torch.randn(p.shape, generator=generator) * 0.15

    @torch.no_grad()
    def forward(self, x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        w = torch.exp(-math.log(10000) * torch.arange(128, dtype=torch.float32) / 128)
        args = t[:, None].float() * w[None]
        c = self.t_embedder.mlp(torch.cat([torch.cos(args), torch.sin(args)], dim=-1))
        c = c + self.y_embedder.embedding_table(y)
        z = self.x_embedder.proj(x).flatten(2).transpose(1, 2) + self.pos_embed
        for block in self.blocks:
            z = block(z, c, t)
        shift, scale = (v.unsqueeze(1) for v in self.final_layer.adaLN_modulation(c).chunk(2, dim=1))
        z = nn.functional.layer_norm(z, (WIDTH,), eps=1e-6) * (1 + scale) + shift
        z = self.final_layer.linear(z)
        g = SIZE // PATCH
        z = z.reshape(len(x), g, g, PATCH, PATCH, self.channels)
        return torch.einsum("nhwpqc->nchpwq", z).reshape(len(x), self.channels, SIZE, SIZE)


def random_tables() -> list[Tensor]:
    generator = torch.Generator().manual_seed(3)
    k = int(WIDTH * 0.8)
    rows = torch.rand(DEPTH, 1000, WIDTH, generator=generator).argsort(dim=-1) < k
    return list(rows.float())


def inputs(classes: int = CLASSES) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    t = torch.tensor([0, 250, 500, 900, 999])
    x = torch.randn(5, 4, SIZE, SIZE, generator=generator)
    return x, t, torch.arange(5) * 2 + 2 if classes > 1 else torch.zeros(5, dtype=torch.long)


def convert(source: Path, out: Path, *arguments: str) -> Path:
    assert cli.main(["convert", str(source), "--out", str(out), *arguments]) == 0
    return out


def converted(source: Path, *arguments: str) -> zoo.DTR:
    out = source.with_name(source.stem + "_zoo.safetensors")
    return hub.load(convert(source, out, "--method", "dtr", *arguments))


def failure(capsys: Captured, *arguments: str) -> str:
    """The one line that ``zoo convert`` fails with."""
    capsys.readouterr()
    assert cli.main(["convert", *arguments]) == 1
    text = capsys.readouterr().err
    assert text.startswith("zoo: error: ")
    assert text.count("\n") == 1
    return text


def save(content: Any, path: Path) -> Path:
    torch.save(content, path)
    return path


def random_module(**arguments: Any) -> zoo.DTR:
    """A small model with every weight random, zero-initialised gates included."""
    sizes = {"width": WIDTH, "depth": DEPTH, "heads": HEADS, "patch_size": PATCH}
    data = {"input_size": SIZE, "num_classes": CLASSES}
    module = zoo.DTR(**(sizes | data | arguments)).eval()
    generator = torch.Generator().manual_seed(5)
    for p in module.network.parameters():
        p.data = torch.randn(p.shape, generator=generator) * 0.15
    return module


def assert_equal_states(a: dict[str, Tensor], b: dict[str, Tensor]) -> None:
    assert (sorted(a), [k for k in a if not torch.equal(a[k], b[k])]) == (sorted(b), [])


@pytest.mark.parametrize("kind", ["none", "dtr", "random", "unconditional", "no_sigma"])
@torch.no_grad()
def test_converted_weights_compute_what_the_official_block_computes(tmp_path: Path, kind: str) -> None:
    window = task_masks(WIDTH, alpha=4.0, beta=0.8).float()
    tables = {"dtr": [window] * DEPTH, "random": random_tables()}.get(kind)
    classes = 1 if kind == "unconditional" else CLASSES
    official = OfficialDiT(tables, classes, sigma=kind != "no_sigma")
    module = converted(save(official.state_dict(), tmp_path / "dit.pt"), "--set", "heads=4")
    assert module.network.routing.kind == (kind if tables else "none")
    assert (module.hparams["learn_sigma"], module.hparams["num_classes"]) == (kind != "no_sigma", classes)
    assert module.hparams["input_size"] == SIZE
    x, t, y = inputs(classes)
    expected = official(x, t, y)
    assert expected.std() > 0.3
    torch.testing.assert_close(module.network(x, t, y), expected, rtol=0, atol=1e-5)


@torch.no_grad()
def test_routing_changes_the_output_so_that_parity_is_not_vacuous() -> None:
    x, t, y = inputs()
    plain, routed = OfficialDiT(), OfficialDiT([task_masks(WIDTH).float()] * DEPTH)
    assert (plain(x, t, y) - routed(x, t, y)).abs().max() > 0.1


def test_position_table_is_the_official_one_to_the_bit() -> None:
    for width, grid in ((32, 4), (384, 16), (1152, 16)):
        expected = torch.from_numpy(sincos_2d(width, grid)).float()
        assert torch.equal(position_table(width, grid)[0], expected)


@pytest.mark.parametrize("kind", ["none", "dtr", "random"])
def test_official_file_survives_the_round_trip_to_the_bit(tmp_path: Path, kind: str) -> None:
    tables = {"dtr": [task_masks(WIDTH).float()] * DEPTH, "random": random_tables()}.get(kind)
    state = OfficialDiT(tables).state_dict()
    ours = tmp_path / "ours.safetensors"
    convert(save(state, tmp_path / "dit.pt"), ours, "--method", "dtr", "--set", "heads=4")
    back = convert(ours, tmp_path / "back.pt", "--to", "official")
    assert_equal_states(torch.load(back, weights_only=True), state)


@pytest.mark.parametrize("routing", ["none", "dtr", "random"])
def test_our_weights_survive_the_round_trip_through_the_official_format(tmp_path: Path, routing: str) -> None:
    own = {"dtr": {"alpha": 2.5, "beta": 0.7}, "random": {"beta": 0.7, "routing_seed": 9}, "none": {}}
    module = random_module(routing=routing, **own[routing])
    ours = hub.save(module, tmp_path / "ours.safetensors")
    official = convert(ours, tmp_path / "official.pt", "--to", "official")
    back = converted(official, "--set", "heads=4")
    assert_equal_states(back.state_dict(), module.state_dict())
    x, t, y = inputs()
    with torch.no_grad():
        assert torch.equal(back.network(x, t, y), module.network(x, t, y))


def test_a_safetensors_file_with_official_names_is_read_too(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    save_file(OfficialDiT().state_dict(), tmp_path / "dit.safetensors")
    assert converted(tmp_path / "dit.safetensors", "--set", "heads=4").hparams["depth"] == DEPTH


def test_sizes_of_the_table_need_no_heads(tmp_path: Path, capsys: Captured) -> None:
    module = random_module(width=None, depth=None, heads=None, size="S", routing="none", num_classes=3)
    path = save(official_state(module), tmp_path / "s.pt")
    back = converted(path)
    assert (back.hparams["size"], back.hparams["width"], back.network.blocks[0].attn.heads) == ("S", None, 6)
    small = save(OfficialDiT().state_dict(), tmp_path / "small.pt")
    line = failure(capsys, str(small), "--method", "dtr", "--out", str(tmp_path / "x.safetensors"))
    assert "--set heads=N" in line
    assert "S 384 x 12" in line


def test_trainer_checkpoint_gives_its_ema_weights(tmp_path: Path) -> None:
    ema = OfficialDiT().state_dict()
    raw = {f"module.{k}": torch.zeros_like(v) for k, v in ema.items()}
    arguments = argparse.Namespace(model="DiT-XL/2", image_size=256, num_classes=CLASSES, vae="ema")
    content = {"model": raw, "ema": ema, "opt": {"state": {}, "param_groups": []}, "args": arguments}
    module = converted(save(content, tmp_path / "0400000.pt"), "--set", "heads=4")
    assert torch.equal(module.network.blocks[1].mlp.fc1.weight, ema["blocks.1.mlp.fc1.weight"])


@pytest.mark.parametrize(
    ("content", "guided"),
    [
        (lambda plain, routed: plain, 3),
        (lambda plain, routed: {"ema": plain, "args": argparse.Namespace(model="DiT-XL/2")}, 3),
        (
            lambda plain, routed: {"ema": plain, "config": {"routing": False}},
            None,
        ),  # the baseline of DTR's trainer
        (lambda plain, routed: routed, None),
    ],
    ids=["dit", "dit trainer", "dtr trainer", "dtr"],
)
def test_guidance_is_of_the_channels_that_the_files_own_code_guides(
    content: Any, guided: int | None, tmp_path: Path, capsys: Captured
) -> None:
    routed = OfficialDiT([task_masks(WIDTH).float()] * DEPTH).state_dict()
    path = save(content(OfficialDiT().state_dict(), routed), tmp_path / "dit.pt")
    assert converted(path, "--set", "heads=4").hparams["cfg_channels"] == guided
    assert ("cfg_channels: 3: DiT's code" in capsys.readouterr().out) == (guided == 3)
    path = path.rename(path.with_name("again.pt"))
    assert converted(path, "--set", "heads=4", "--set", "cfg_channels=null").hparams["cfg_channels"] is None


def test_prefixes_of_ddp_and_compile_are_dropped(tmp_path: Path) -> None:
    state = OfficialDiT().state_dict()
    path = save({f"module._orig_mod.{k}": v for k, v in state.items()}, tmp_path / "ddp.pt")
    module = converted(path, "--set", "heads=4")
    assert torch.equal(module.network.x_embedder.proj.weight, state["x_embedder.proj.weight"])


def test_dtr_checkpoint_brings_the_loss_weights_of_uw(tmp_path: Path) -> None:
    scales = torch.linspace(-4, 1, 8)
    ema = OfficialDiT([task_masks(WIDTH).float()] * DEPTH).state_dict()
    content = {"model": {}, "ema": ema, "opt": {}, "config": {"a": 1}, "uw": {"log_vars": scales}}
    module = converted(save(content, tmp_path / "dtr.pt"), "--set", "heads=4", "--set", "schedule=cosine")
    assert module.uncertainty is not None
    assert torch.equal(module.uncertainty.log_variances, scales)
    assert module.hparams["schedule"] == "cosine"


@pytest.mark.parametrize("width", [384, 768, 1024, 1152])
@pytest.mark.parametrize(("alpha", "beta"), [(4.0, 0.8), (1.0, 0.8), (2.0, 0.5), (8.0, 0.8), (0.5, 0.75)])
def test_alpha_is_found_from_the_row_starts(width: int, alpha: float, beta: float) -> None:
    assert alpha_of(window_starts(width, 1000, alpha, beta), width, beta) == alpha


@pytest.mark.parametrize("odd", [0.3333, 2.7183, 3.1416, 12.345])
def test_odd_alpha_is_found_up_to_an_equal_table(odd: float) -> None:
    starts = window_starts(1024, 1000, odd, 0.8)
    alpha = alpha_of(starts, 1024, 0.8)
    assert alpha is not None
    assert abs(alpha - odd) < 0.02
    assert torch.equal(window_starts(1024, 1000, alpha, 0.8), starts)


def test_alpha_of_an_unreproducible_table_is_none() -> None:
    starts = window_starts(1024, 1000, 4.0, 0.8)
    starts[700] += 1
    assert alpha_of(starts, 1024, 0.8) is None
    assert alpha_of(window_starts(1024, 1000, 4.0, 0.8), 1024, 0.8, given=2.0) is None


@pytest.mark.parametrize(("alpha", "beta"), [(4.0, 0.8), (2.0, 0.5), (4.0, 1.0)])
def test_converted_routing_has_the_files_alpha_and_beta(tmp_path: Path, alpha: float, beta: float) -> None:
    table = task_masks(WIDTH, alpha=alpha, beta=beta).float()
    path = save(OfficialDiT([table] * DEPTH).state_dict(), tmp_path / "dtr.pt")
    hparams = converted(path, "--set", "heads=4").hparams
    assert (hparams["routing"], hparams["beta"]) == ("dtr", beta)
    assert torch.equal(task_masks(WIDTH, 1000, hparams["alpha"], beta).float(), table)


def test_another_window_than_dtrs_fails_loudly(tmp_path: Path, capsys: Captured) -> None:
    table = task_masks(WIDTH).float()
    table[700] = table[700].roll(1)
    cases = {
        "no alpha gives": [table] * DEPTH,
        "as many in each row": [torch.tril(torch.ones(1000, WIDTH))] * DEPTH,
        "table of 0 and 1": [task_masks(WIDTH).float() * 0.5] * DEPTH,
    }
    for text, tables in cases.items():
        path = save(OfficialDiT(tables).state_dict(), tmp_path / "odd.pt")
        out = str(tmp_path / "x.safetensors")
        assert text in failure(capsys, str(path), "--method", "dtr", "--set", "heads=4", "--out", out)


def test_settings_that_contradict_the_file_are_refused(tmp_path: Path, capsys: Captured) -> None:
    path = save(OfficialDiT([task_masks(WIDTH).float()] * DEPTH).state_dict(), tmp_path / "dtr.pt")
    out = ["--out", str(tmp_path / "x.safetensors"), "--method", "dtr", "--set", "heads=4"]
    settings = ("alpha=2", "beta=0.5", "depth=4", "routing=none", "input_size=32", "size=S", "timesteps=500")
    for setting in settings:
        line = failure(capsys, str(path), *out, "--set", setting)
        assert "contradicts" in line or "alpha=2.0 gives" in line or "alpha=2 gives" in line


def test_missing_table_of_one_block_is_an_error(tmp_path: Path, capsys: Captured) -> None:
    state = OfficialDiT([task_masks(WIDTH).float()] * DEPTH).state_dict()
    del state["blocks.1.routing._unit_mapping"]
    path = save(state, tmp_path / "dtr.pt")
    out = ["--out", str(tmp_path / "x.safetensors")]
    line = failure(capsys, str(path), "--method", "dtr", "--set", "heads=4", *out)
    assert "2 routing tables for 3 blocks" in line


def diffusers_model(path: Path, shift: float) -> nn.Module:
    from diffusers import DiTTransformer2DModel

    model = DiTTransformer2DModel.from_pretrained(path).eval()
    for block in model.transformer_blocks:
        block.norm1.emb.time_proj.downscale_freq_shift = shift
    return model


@torch.no_grad()
def test_exported_folder_computes_the_same_in_diffusers(tmp_path: Path) -> None:
    module = random_module(routing="none")
    for p in module.network.parameters():
        p.data /= 3  # with a time embedder of large weights the frequencies move the output by more than 1 %
    ours = hub.save(module, tmp_path / "ours.safetensors")
    folder = convert(ours, tmp_path / "folder", "--to", "diffusers")
    assert json.loads((folder / "config.json").read_text())["norm_eps"] == 1e-6  # theirs is 1e-5 by default
    x, t, y = inputs()
    expected = module.network(x, t, y)
    same = diffusers_model(folder, shift=0)(x, t, y).sample
    other = diffusers_model(folder, shift=1)(x, t, y).sample
    span = float(expected.max() - expected.min())
    print(f"shift 0: {(same - expected).abs().max():.2e}, 1: {(other - expected).abs().max() / span:.4f}")
    torch.testing.assert_close(same, expected, rtol=0, atol=1e-5)
    assert (other - expected)[t == 0].abs().max() < 1e-6
    assert 1e-3 < (other - expected).abs().max() / span < 0.015


@torch.no_grad()
def test_diffusers_folder_is_read_and_computes_the_same_here(tmp_path: Path) -> None:
    from diffusers import DiTTransformer2DModel

    torch.manual_seed(0)
    sizes = {"num_attention_heads": HEADS, "attention_head_dim": WIDTH // HEADS, "num_layers": DEPTH}
    sizes |= {"out_channels": 8, "sample_size": SIZE, "num_embeds_ada_norm": CLASSES}
    model = DiTTransformer2DModel(**sizes, norm_eps=1e-6).eval()
    for p in model.parameters():
        p.data = torch.randn(p.shape) * 0.15
    first = model.transformer_blocks[0].norm1.emb
    for block in model.transformer_blocks:
        block.norm1.emb.load_state_dict(first.state_dict())
        block.norm1.emb.time_proj.downscale_freq_shift = 0
    model.save_pretrained(tmp_path / "pipeline" / "transformer")
    module = converted(tmp_path / "pipeline")
    assert module.hparams["heads"] == HEADS
    x, t, y = inputs()
    torch.testing.assert_close(module.network(x, t, y), model(x, t, y).sample, rtol=0, atol=1e-5)


@pytest.mark.parametrize("classes", [CLASSES, 1])
def test_diffusers_round_trip_is_equal_to_the_bit(tmp_path: Path, classes: int) -> None:
    module = random_module(routing="none", num_classes=classes)
    ours = hub.save(module, tmp_path / "ours.safetensors")
    folder = convert(ours, tmp_path / "folder", "--to", "diffusers")
    back = converted(folder)
    assert_equal_states(back.state_dict(), module.state_dict())
    again = convert(tmp_path / "folder_zoo.safetensors", tmp_path / "again", "--to", "diffusers")
    for name in ("config.json", "diffusion_pytorch_model.safetensors"):
        assert (again / name).read_bytes() == (folder / name).read_bytes()


def test_pickled_weights_of_a_diffusers_folder_are_read(tmp_path: Path) -> None:
    module = random_module(routing="none")
    config, state = diffusers_state(module)
    (tmp_path / "old").mkdir()
    config |= {"_class_name": "Transformer2DModel", "norm_eps": 1e-5}
    (tmp_path / "old" / "config.json").write_text(json.dumps(config))
    save(state, tmp_path / "old" / "diffusion_pytorch_model.bin")
    assert_equal_states(converted(tmp_path / "old").state_dict(), module.state_dict())


def test_routing_is_refused_by_diffusers_unless_beta_is_one(tmp_path: Path, capsys: Captured) -> None:
    ours = hub.save(random_module(), tmp_path / "ours.safetensors")
    line = failure(capsys, str(ours), "--to", "diffusers", "--out", str(tmp_path / "folder"))
    assert "no task routing" in line
    assert "25 of 32 channels" in line
    assert not (tmp_path / "folder").exists()
    plain = hub.save(random_module(beta=1.0), tmp_path / "plain.safetensors")
    convert(plain, tmp_path / "folder", "--to", "diffusers")
    assert "i/127" in capsys.readouterr().out


@pytest.mark.parametrize(("to", "name"), [("official", "x.pt"), ("diffusers", "folder")])
def test_the_unet_backbone_has_no_other_format(tmp_path: Path, capsys: Captured, to: str, name: str) -> None:
    sizes = {"unet_channels": 64, "unet_multipliers": [1], "unet_res_blocks": 1, "unet_attention": []}
    unet = zoo.DTR(backbone="unet", input_size=SIZE, num_classes=CLASSES, **sizes)
    ours = hub.save(unet, tmp_path / "unet.safetensors")
    assert "DiT backbone" in failure(capsys, str(ours), "--to", to, "--out", str(tmp_path / name))


def test_embedders_that_differ_between_blocks_are_an_error(tmp_path: Path, capsys: Captured) -> None:
    config, state = diffusers_state(random_module(routing="none"))
    state["transformer_blocks.2.norm1.emb.timestep_embedder.linear_1.bias"][3] += 1e-3
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "config.json").write_text(json.dumps(config))
    save(state, tmp_path / "folder" / "diffusion_pytorch_model.bin")
    out = ["--out", str(tmp_path / "x.safetensors")]
    line = failure(capsys, str(tmp_path / "folder"), "--method", "dtr", *out)
    assert "transformer_blocks.2.norm1.emb.timestep_embedder.linear_1.bias differs" in line


@pytest.mark.parametrize(("change", "text"), [
    ({"_class_name": "PixArtTransformer2DModel"}, "expected DiTTransformer2DModel"),
    ({"activation_fn": "geglu"}, "activation_fn is 'geglu'"),
    ({"num_attention_heads": "4"}, "must be integers"),
])  # fmt: skip
def test_configs_of_other_transformers_are_refused(
    tmp_path: Path, capsys: Captured, change: dict[str, Any], text: str
) -> None:
    config, state = diffusers_state(random_module(routing="none"))
    (tmp_path / "config.json").write_text(json.dumps(config | change))
    save(state, tmp_path / "diffusion_pytorch_model.bin")
    out = ["--out", str(tmp_path / "x.safetensors")]
    assert text in failure(capsys, str(tmp_path), "--method", "dtr", *out)


class Hostile:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (open, (str(self.path), "w"))


@pytest.mark.parametrize("legacy", [False, True])
def test_pickled_code_is_refused_and_not_run(tmp_path: Path, capsys: Captured, legacy: bool) -> None:
    proof = tmp_path / "executed"
    content = {"ema": OfficialDiT().state_dict(), "args": Hostile(proof)}
    torch.save(content, tmp_path / "evil.pt", _use_new_zipfile_serialization=not legacy)
    out = ["--out", str(tmp_path / "x.safetensors")]
    line = failure(capsys, str(tmp_path / "evil.pt"), "--method", "dtr", "--set", "heads=4", *out)
    assert "refused, nothing was run" in line
    assert "weights_only" not in line
    assert not proof.exists()


def test_legacy_files_of_old_torch_are_read(tmp_path: Path) -> None:
    torch.save(OfficialDiT().state_dict(), tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    assert converted(tmp_path / "old.pt", "--set", "heads=4").hparams["depth"] == DEPTH


def test_broken_and_foreign_files_fail_in_one_line(tmp_path: Path, capsys: Captured) -> None:
    whole = save(OfficialDiT().state_dict(), tmp_path / "whole.pt").read_bytes()
    (tmp_path / "cut.pt").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "empty.pt").write_bytes(b"")
    (tmp_path / "text.pt").write_text("hello")
    save({"fc.weight": torch.zeros(2, 2)}, tmp_path / "resnet.pt")
    save([1, 2], tmp_path / "list.pt")
    save({"model": OfficialDiT().state_dict(), "opt": {}}, tmp_path / "no_ema.pt")
    other = OfficialDiT().state_dict()
    other["blocks.0.attn.q_norm.weight"] = torch.ones(8)
    save(other, tmp_path / "qk_norm.pt")
    learned = OfficialDiT().state_dict()
    learned["pos_embed"] = torch.randn(1, 16, WIDTH)
    save(learned, tmp_path / "learned.pt")
    (tmp_path / "no_folder").mkdir()
    cases = {
        "cut.pt": "damaged",
        "empty.pt": "damaged",
        "text.pt": "damaged or no PyTorch file",
        "resnet.pt": "x_embedder.proj.weight is missing",
        "list.pt": "holds a list",
        "no_ema.pt": "without 'ema'",
        "qk_norm.pt": "network.blocks.0.attn.q_norm.weight",
        "learned.pt": "pos_embed is not DiT's",
        "no_folder": "no config.json",
        "absent.pt": "neither a file nor a registered name",
    }
    for name, text in cases.items():
        out = ["--out", str(tmp_path / "x.safetensors"), "--set", "heads=4"]
        line = failure(capsys, str(tmp_path / name), "--method", "dtr", *out)
        assert text in line, line
        assert not (tmp_path / "x.safetensors").exists()


def test_no_size_of_the_table_is_ambiguous() -> None:
    assert len({(s["width"], s["depth"]) for s in SIZES.values()}) == len(SIZES)
