"""Official checkpoints and ViT weights, on random files in the official formats."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.ndimage import zoom
from torch import Tensor, nn

import cli
import zoo
from zoo.mbt.network import build
from zoo.mbt.pretrained import bottleneck_positions, inflate, initialise, read_vit, resize_grid
from zoo.mbt.weights import official_state, read, write

SMALL: dict[str, Any] = {
    "num_classes": 5, "width": 24, "depth": 2, "heads": 3, "mlp": 40, "image_size": 32, "patch_size": 16,
    "frames": 4, "spectrogram_frames": 96, "mel_bins": 128, "spectrogram_patch": 16, "fusion_layer": 0,
    "extra_bottleneck": True,
}  # fmt: skip
D, H, MLP = 24, 3, 40


def official_file(
    path: Path,
    *,
    tubelet: bool = False,
    streams: tuple[str, ...] = ("", "_spectrogram"),
    shared: bool = False,
    gap: bool = False,
    bottleneck: bool = True,
) -> Path:
    """A random checkpoint with the keys and shapes of section 10 of the spec."""
    rng = np.random.default_rng(0)
    token = not gap
    shapes: dict[str, tuple[int, ...]] = {}
    if "" in streams:
        shapes["embedding/kernel"] = (2, 16, 16, 3, D) if tubelet else (16, 16, 3, D)
        shapes["embedding/bias"] = (D,)
        shapes["Transformer/posembed_input/pos_embedding"] = (1, token + 4 * (2 if tubelet else 4), D)
    if token:
        shapes["cls"] = (1, 1, D)
    if "_spectrogram" in streams:
        shapes["embedding_spectrogram/kernel"] = (16, 16, 3, D)
        shapes["embedding_spectrogram/bias"] = (D,)
        shapes["Transformer/posembed_input_spectrogram/pos_embedding"] = (1, token + 6 * 8, D)
    if len(streams) == 2 and token:
        shapes["clsspectrogram"] = (1, 1, D)
    if len(streams) == 2 and bottleneck:
        shapes["bottleneck"] = (1, 4 + token, D)
    for suffix in ("",) if shared else streams:
        for layer in range(2):
            block = f"Transformer/encoderblock_{layer}{suffix}"
            for norm in (0, 1):
                shapes |= {f"{block}/LayerNorm_{norm}/{leaf}": (D,) for leaf in ("scale", "bias")}
            attention = f"{block}/MultiHeadDotProductAttention_0"
            for name in ("query", "key", "value"):
                shapes |= {
                    f"{attention}/{name}/kernel": (D, H, D // H),
                    f"{attention}/{name}/bias": (H, D // H),
                }
            shapes |= {f"{attention}/out/kernel": (H, D // H, D), f"{attention}/out/bias": (D,)}
            shapes |= {
                f"{block}/MlpBlock_0/Dense_0/kernel": (D, MLP),
                f"{block}/MlpBlock_0/Dense_0/bias": (MLP,),
            }
            shapes |= {
                f"{block}/MlpBlock_0/Dense_1/kernel": (MLP, D),
                f"{block}/MlpBlock_0/Dense_1/bias": (D,),
            }
    shapes |= {f"Transformer/encoder_norm/{leaf}": (D,) for leaf in ("scale", "bias")}
    shapes |= {"output_projection/kernel": (D, 5), "output_projection/bias": (5,)}
    np.savez(path, **{k: rng.normal(size=s).astype(np.float32) for k, s in shapes.items()})
    return path


def flax_block(z: np.ndarray[Any, Any], p: dict[str, Any], at: str) -> np.ndarray[Any, Any]:
    """A pre-norm block in NumPy, written from Flax's layout."""

    def norm(x: np.ndarray[Any, Any], name: str) -> np.ndarray[Any, Any]:
        x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6)
        return x * p[f"{at}/{name}/scale"] + p[f"{at}/{name}/bias"]

    attention = f"{at}/MultiHeadDotProductAttention_0"
    x = norm(z, "LayerNorm_0")
    q, k, v = (
        np.einsum("bnd,dhe->bnhe", x, p[f"{attention}/{n}/kernel"]) + p[f"{attention}/{n}/bias"]
        for n in ("query", "key", "value")
    )
    scores = np.einsum("bqhe,bkhe->bhqk", q, k) / np.sqrt(q.shape[-1])
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    weights /= weights.sum(-1, keepdims=True)
    mixed = np.einsum("bhqk,bkhe->bqhe", weights, v)
    y = z + np.einsum("bqhe,hed->bqd", mixed, p[f"{attention}/out/kernel"]) + p[f"{attention}/out/bias"]
    h = norm(y, "LayerNorm_1") @ p[f"{at}/MlpBlock_0/Dense_0/kernel"] + p[f"{at}/MlpBlock_0/Dense_0/bias"]
    h = 0.5 * h * (1 + np.tanh(np.sqrt(2 / np.pi) * (h + 0.044715 * h**3)))
    return y + h @ p[f"{at}/MlpBlock_0/Dense_1/kernel"] + p[f"{at}/MlpBlock_0/Dense_1/bias"]


def flax_mbt(
    p: dict[str, Any], rgb: np.ndarray[Any, Any], sound: np.ndarray[Any, Any]
) -> np.ndarray[Any, Any]:
    """The official model over 4 frames of 32 x 32 and 96 x 128 features, fusion from layer 0, in NumPy."""
    kernel = p["embedding/kernel"]
    kernel = kernel[None] if kernel.ndim == 4 else kernel  # a tube of one frame
    tube = len(kernel)
    frames = rgb.reshape(-1, 3, 4 // tube, tube, 2, 16, 2, 16).transpose(
        0, 2, 4, 6, 3, 5, 7, 1
    )  # b t h w f p q c
    z = np.einsum("bthwfpqc,fpqcd->bthwd", frames, kernel).reshape(len(rgb), -1, D)
    patches = np.repeat(sound.reshape(-1, 1, 6, 16, 8, 16), 3, axis=1).transpose(0, 2, 4, 3, 5, 1)
    s = np.einsum("bhwpqc,pqcd->bhwd", patches, p["embedding_spectrogram/kernel"]).reshape(len(rgb), 48, D)
    streams = []
    for tokens, suffix, cls in ((z, "", "cls"), (s, "_spectrogram", "clsspectrogram")):
        tokens = tokens + p[f"embedding{suffix}/bias"]
        tokens = np.concatenate([np.repeat(p[cls], len(tokens), axis=0), tokens], axis=1)
        streams.append(tokens + p[f"Transformer/posembed_input{suffix}/pos_embedding"])
    fusion = np.repeat(p["bottleneck"], len(rgb), axis=0)
    shared = "Transformer/encoderblock_0_spectrogram/LayerNorm_0/scale" not in p
    for layer in range(2):
        copies = []
        for i, suffix in enumerate(("", "" if shared else "_spectrogram")):
            n = streams[i].shape[1]
            joint = np.concatenate([streams[i], fusion], axis=1)
            joint = flax_block(joint, p, f"Transformer/encoderblock_{layer}{suffix}")
            streams[i] = joint[:, :n]
            copies.append(joint[:, n:])
        fusion = np.mean(copies, axis=0)
    tokens = np.stack([x[:, 0] for x in streams], axis=1)
    tokens = (tokens - tokens.mean(-1, keepdims=True)) / np.sqrt(tokens.var(-1, keepdims=True) + 1e-6)
    tokens = tokens * p["Transformer/encoder_norm/scale"] + p["Transformer/encoder_norm/bias"]
    return tokens @ p["output_projection/kernel"] + p["output_projection/bias"]


GIVEN = {"image_size": 32, "fusion_layer": 0}


@pytest.mark.parametrize("options", [{}, {"tubelet": True}, {"shared": True}])
def test_a_converted_checkpoint_computes_what_the_official_model_does(
    options: dict[str, Any], tmp_path: Path
) -> None:
    path = official_file(tmp_path / "official.npz", **options)
    weights, lines = read(path, GIVEN)
    module = zoo.MBT(**weights.hparams)
    module.load_state_dict(weights.state_dict)
    network = module.network.double().eval()
    rng = np.random.default_rng(1)
    rgb, sound = rng.normal(size=(2, 3, 4, 32, 32)), rng.normal(size=(2, 1, 96, 128))
    with np.load(path) as file:
        expected = flax_mbt({k: file[k].astype(np.float64) for k in file.files}, rgb, sound)
    with torch.no_grad():
        found = network(torch.from_numpy(rgb), torch.from_numpy(sound)).numpy()
    assert np.abs(found - expected).max() < 1e-9 * np.abs(expected).max()
    assert "5 classes, 5 bottleneck tokens" in lines[0]


@pytest.mark.parametrize(("options", "expected"), [
    ({"shared": True}, {"share_encoder": True, "fusion": "bottleneck", "extra_bottleneck": True}),
    ({"gap": True}, {"classifier": "gap", "num_bottlenecks": 4, "extra_bottleneck": False}),
    ({"bottleneck": False}, {"classifier": "token", "fusion": "cross_attention"}),
    ({"gap": True, "bottleneck": False}, {"classifier": "gap", "fusion": "cross_attention"}),
    ({},
     {"modalities": ["rgb", "spectrogram"], "frames": 4, "spectrogram_frames": 96, "num_bottlenecks": 4}),
    ({"tubelet": True}, {"frames": 4, "patch_mode": "tubelet", "tubelet_frames": 2}),
    ({"streams": ("_spectrogram",)}, {"modalities": ["spectrogram"], "heads": 3}),
    ({"streams": ("",)}, {"modalities": ["rgb"], "depth": 2}),
])  # fmt: skip
def test_sizes_are_told_by_the_file_and_the_way_back_is_the_same(
    options: dict[str, Any], expected: dict[str, Any], tmp_path: Path
) -> None:
    path = official_file(tmp_path / "official.npz", **options)
    weights, _ = read(
        path, GIVEN if options.get("bottleneck", True) else {**GIVEN, "fusion": "cross_attention"}
    )
    assert expected.items() <= weights.hparams.items()
    module = zoo.MBT(**weights.hparams)
    module.load_state_dict(weights.state_dict)
    back = official_state(module)
    with np.load(path) as file:
        assert set(back) == set(file.files)
        assert all(np.array_equal(back[k].numpy(), file[k]) for k in file.files)


def test_frames_that_are_no_whole_patches_are_told(tmp_path: Path) -> None:
    """A table of 6 patches fits 96 to 111 frames."""
    path = official_file(tmp_path / "official.npz")
    for frames in (96, 100, 111):
        assert read(path, GIVEN | {"spectrogram_frames": frames})[0].hparams["spectrogram_frames"] == frames
    with pytest.raises(ValueError, match="its spectrogram_frames is 96, which contradicts"):
        read(path, GIVEN | {"spectrogram_frames": 112})


def test_convert_on_the_command_line_and_back(tmp_path: Path) -> None:
    path, ours, again = official_file(tmp_path / "a.npz"), tmp_path / "b.safetensors", tmp_path / "c.npz"
    settings = ["--set", "image_size=32", "--set", "fusion_layer=0"]
    assert cli.main(["convert", str(path), "--method", "mbt", "--out", str(ours), *settings]) == 0
    assert cli.main(["convert", str(ours), "--to", "official", "--out", str(again)]) == 0
    with np.load(path) as a, np.load(again) as b:
        assert all(np.array_equal(a[k], b[k]) for k in a.files)


def test_what_the_official_model_does_not_compute_is_refused_or_told(tmp_path: Path) -> None:
    out = tmp_path / "c.npz"
    with pytest.raises(ValueError, match=r"mean update .* bottleneck_update sequential"):
        write(zoo.MBT(**SMALL, bottleneck_update="sequential"), out, "official")
    assert not out.exists()
    assert len(write(zoo.MBT(**SMALL), out, "official")) == 1
    for changes, told in (
        ({"activation": "gelu"}, "this model gelu with eps 1e-06"),
        ({"layer_norm_eps": 1e-12}, "this model gelu_tanh with eps 1e-12"),
    ):
        _, warning = write(zoo.MBT(**SMALL, **changes), out, "official")
        assert warning.startswith("WARNING")
        assert told in warning
        assert changes.items() <= read(out, {**GIVEN, **changes})[0].hparams.items()


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda s: s.pop("cls"), "contradicts|no frames|does not fit|positions"),
        (
            lambda s: s.pop("Transformer/encoderblock_1/MlpBlock_0/Dense_0/bias"),
            "fc1.bias does not fit: it is missing in the file",
        ),
        (lambda s: s.update(strange=np.zeros(3)), "strange is no parameter of MBT"),
        (lambda s: s.pop("embedding_spectrogram/kernel"), "does not fit|is missing|no parameter|positions"),
        (lambda s: s.update({"bottleneck": np.zeros((1, 5, 8), np.float32)}), "bottleneck does not fit"),
        (lambda s: s.clear(), "no weights of MBT: embedding/kernel is missing"),
    ],
)
def test_files_that_do_not_fit_are_refused(change: Any, text: str, tmp_path: Path) -> None:
    with np.load(official_file(tmp_path / "a.npz")) as file:
        state = {k: file[k] for k in file.files}
    change(state)
    np.savez(tmp_path / "b.npz", **state)
    with pytest.raises(ValueError, match=text) as caught:
        read(tmp_path / "b.npz", GIVEN)
    assert "\n" not in str(caught.value)
    assert "b.npz" in str(caught.value)


def test_msgpack_without_flax_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "checkpoint").write_bytes(b"\x81")
    with pytest.raises(ValueError, match=r"pip install flax|no readable msgpack"):
        read(tmp_path / "checkpoint", {})


def hf_vit(folder: Path, **changes: Any) -> Any:
    from transformers import ViTConfig, ViTModel

    torch.manual_seed(0)
    config = ViTConfig(
        hidden_size=D, num_hidden_layers=2, num_attention_heads=H, intermediate_size=MLP, image_size=32,
        patch_size=16, **{"layer_norm_eps": 1e-6, "hidden_act": "gelu_new", **changes},
    )  # fmt: skip
    model = ViTModel(config, add_pooling_layer=False).eval()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.3)
    model.save_pretrained(folder)
    return model


def test_a_stream_with_vit_weights_is_that_vit(tmp_path: Path) -> None:
    """Tanh GELU and eps 1e-6; erf-GELU or eps 1e-5 is far off."""
    model = hf_vit(tmp_path).double()
    image = torch.randn(2, 3, 32, 32, dtype=torch.float64)
    with torch.no_grad():
        expected = model(image).last_hidden_state
    found = {}
    for name, changes in {"ours": {}, "erf": {"activation": "gelu"}, "eps": {"layer_norm_eps": 1e-5}}.items():
        network = build(**{**SMALL, "frames": 1, "modalities": ["rgb"], **changes}).double().eval()
        initialise(network, read_vit(str(tmp_path)))
        with torch.no_grad():
            streams = network.encode(network.embed(image[:, :, None], None))
            found[name] = float((network.norm(streams["rgb"]) - expected).abs().max())
    assert found["ours"] < 1e-10
    assert min(found["erf"], found["eps"]) > 1e-7


def test_vit_goes_into_both_streams(tmp_path: Path) -> None:
    hf_vit(tmp_path)
    vit = read_vit(str(tmp_path))
    network = build(**SMALL)
    initialise(network, vit)
    state = network.state_dict()
    for stream in ("rgb", "spectrogram"):
        assert torch.equal(state[f"blocks.{stream}.1.qkv.weight"], vit.state["blocks.1.qkv.weight"])
        assert torch.equal(state[f"patch.{stream}.weight"], vit.state["patch.weight"])
        assert torch.equal(state[f"cls.{stream}"], vit.state["cls"])
    assert not state["head.weight"].any()
    frames = state["positions.rgb"][0, 1:].view(4, 4, D)
    assert all(torch.equal(f, vit.state["positions"][0, 1:]) for f in frames)  # tiled over the frames
    initialise(network, vit, bottleneck="positions", official_cls=True)
    corners = vit.state["positions"][0]  # the grid is 2 x 2: its corners, row by row, after the CLS position
    assert torch.equal(network.state_dict()["bottleneck"][0], corners)
    fresh = build(**SMALL)
    initialise(fresh, vit, official_cls=True)
    assert not fresh.state_dict()["cls.spectrogram"].any()
    one = build(**{**SMALL, "spectrogram_channels": 1})
    initialise(one, vit)
    assert torch.allclose(
        one.state_dict()["patch.spectrogram.weight"], vit.state["patch.weight"].sum(1, keepdim=True)
    )


def test_position_tables_start_from_the_vits(tmp_path: Path) -> None:
    """The CLS entry apart, the grid resized time x mel, a table of equal shape as it is."""
    hf_vit(tmp_path)
    vit = read_vit(str(tmp_path))
    cls, grid = vit.state["positions"][0, 0], vit.state["positions"][0, 1:].view(2, 2, D)
    network = build(**SMALL)
    initialise(network, vit)
    expected = zoom(grid.numpy(), (6 / 2, 8 / 2, 1), order=1).reshape(48, D)
    tables = {k: v.detach()[0] for k, v in network.positions.items()}
    assert np.abs(tables["spectrogram"][1:].numpy() - expected).max() < 1e-6
    assert all(torch.equal(table[0], cls) for table in tables.values())
    one = build(**{**SMALL, "frames": 1})
    initialise(one, vit)
    assert torch.equal(one.positions["rgb"], vit.state["positions"])
    pooled = build(**{**SMALL, "classifier": "gap"})
    initialise(pooled, vit)
    assert torch.equal(pooled.positions["spectrogram"][0], tables["spectrogram"][1:])


def test_a_tubelet_network_embeds_the_second_frame_of_each_tube(tmp_path: Path) -> None:
    hf_vit(tmp_path)
    vit = read_vit(str(tmp_path))
    tubes = build(**SMALL, patch_mode="tubelet", modalities=["rgb"])
    initialise(tubes, vit)
    clip = torch.randn(2, 3, 4, 32, 32)
    found = tubes.patch["rgb"](clip)  # (2, D, 2, 2, 2)
    for tube, frame in enumerate((1, 3)):
        expected = nn.functional.conv2d(
            clip[:, :, frame], vit.state["patch.weight"], vit.state["patch.bias"], stride=16
        )
        assert torch.allclose(found[:, :, tube], expected, atol=1e-4)


def test_positions_are_resized_with_aligned_corners() -> None:
    torch.manual_seed(0)
    table = torch.randn(14, 14, 5, dtype=torch.float64)
    found = resize_grid(table, (50, 8))
    expected = zoom(table.numpy(), (50 / 14, 8 / 14, 1), order=1)
    assert np.abs(found.numpy() - expected).max() < 1e-12
    assert torch.allclose(found[0, 0], table[0, 0])
    assert torch.allclose(found[-1, -1], table[-1, -1])
    other = nn.functional.interpolate(table.permute(2, 0, 1)[None], size=(50, 8), mode="bilinear")[0]
    assert float((other.permute(1, 2, 0) - found).abs().max()) > 0.1


def test_bottleneck_from_positions_is_the_four_corners() -> None:
    grid = torch.arange(196.0).view(14, 14, 1)
    cls = torch.tensor([-1.0])
    assert bottleneck_positions(cls, grid, 4, True).flatten().tolist() == [-1, 0, 13, 182, 195]
    assert bottleneck_positions(cls, grid, 4, False).flatten().tolist() == [0, 13, 182, 195]
    assert len(bottleneck_positions(cls, grid, 6, False)) == 6  # 2 x 3
    with pytest.raises(ValueError, match="got 5"):
        bottleneck_positions(cls, grid, 5, False)


def test_tubelets_start_as_their_centre_frame_or_as_the_average() -> None:
    torch.manual_seed(0)
    kernel = torch.randn(D, 3, 4, 4)
    clip = torch.randn(1, 3, 2, 4, 4)
    central = torch.einsum("bctij,dctij->bd", clip, inflate(kernel, 2))
    assert torch.allclose(central, torch.einsum("bcij,dcij->bd", clip[:, :, 1], kernel), atol=1e-4)
    static = clip[:, :, :1].expand(-1, -1, 2, -1, -1)
    average = torch.einsum("bctij,dctij->bd", static, inflate(kernel, 2, "average"))
    assert torch.allclose(average, torch.einsum("bcij,dcij->bd", static[:, :, 0], kernel), atol=1e-4)


def augreg_state(vit: dict[str, Tensor]) -> dict[str, Tensor]:
    """Our names as AugReg's paths and layout."""
    state = {
        "embedding/kernel": vit["patch.weight"].permute(2, 3, 1, 0), "embedding/bias": vit["patch.bias"],
        "cls": vit["cls"], "Transformer/posembed_input/pos_embedding": vit["positions"],
        "Transformer/encoder_norm/scale": vit["norm.weight"],
        "Transformer/encoder_norm/bias": vit["norm.bias"],
        "head/kernel": torch.zeros(D, 7), "head/bias": torch.zeros(7),
    }  # fmt: skip
    for layer in range(2):
        at, own = f"Transformer/encoderblock_{layer}", f"blocks.{layer}"
        for theirs, ours in (("LayerNorm_0", "norm1"), ("LayerNorm_2", "norm2")):
            state[f"{at}/{theirs}/scale"] = vit[f"{own}.{ours}.weight"]
            state[f"{at}/{theirs}/bias"] = vit[f"{own}.{ours}.bias"]
        attention = f"{at}/MultiHeadDotProductAttention_1"
        for name, w, b in zip(
            ("query", "key", "value"),
            vit[f"{own}.qkv.weight"].chunk(3),
            vit[f"{own}.qkv.bias"].chunk(3),
            strict=True,
        ):
            state[f"{attention}/{name}/kernel"] = w.T.reshape(D, H, D // H)
            state[f"{attention}/{name}/bias"] = b.reshape(H, D // H)
        state[f"{attention}/out/kernel"] = vit[f"{own}.proj.weight"].T.reshape(H, D // H, D)
        state[f"{attention}/out/bias"] = vit[f"{own}.proj.bias"]
        for theirs, ours in (("Dense_0", "fc1"), ("Dense_1", "fc2")):
            state[f"{at}/MlpBlock_3/{theirs}/kernel"] = vit[f"{own}.{ours}.weight"].T
            state[f"{at}/MlpBlock_3/{theirs}/bias"] = vit[f"{own}.{ours}.bias"]
    return state


def timm_state(vit: dict[str, Tensor]) -> dict[str, Tensor]:
    words = {"qkv": "attn.qkv", "proj": "attn.proj", "fc1": "mlp.fc1", "fc2": "mlp.fc2"}
    whole = {"cls": "cls_token", "positions": "pos_embed"}
    state = {}
    for key, value in vit.items():
        parts = key.split(".")
        if parts[0] == "blocks":
            parts[2] = words.get(parts[2], parts[2])
        name = whole.get(key, ".".join(parts))
        state[name.replace("patch.", "patch_embed.proj.")] = value.contiguous()
    return state | {"head.weight": torch.zeros(7, D), "head.bias": torch.zeros(7)}


def test_augreg_and_timm_files_hold_the_same_vit(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    hf_vit(tmp_path / "hf")
    vit = read_vit(str(tmp_path / "hf"))
    np.savez(tmp_path / "augreg.npz", **{k: v.numpy() for k, v in augreg_state(vit.state).items()})
    save_file(timm_state(vit.state), tmp_path / "timm.safetensors")
    torch.save(timm_state(vit.state), tmp_path / "timm.pth")
    for file in ("augreg.npz", "timm.safetensors", "timm.pth", "hf/model.safetensors"):
        other = read_vit(str(tmp_path / file))
        assert set(other.state) == set(vit.state), file
        assert all(torch.equal(other.state[k], v) for k, v in vit.state.items()), file


def test_norm_and_activation_follow_the_source(tmp_path: Path) -> None:
    """Google's ViTs at the hub have erf-GELU and eps 1e-12; null takes them over, hparams keep them."""
    from types import SimpleNamespace

    model = hf_vit(tmp_path, hidden_act="gelu", layer_norm_eps=1e-12)
    found = read_vit(str(tmp_path))
    assert (found.eps, found.activation) == (1e-12, "gelu")
    alone = read_vit(str(tmp_path / "model.safetensors"))  # with its config.json beside it
    assert (alone.eps, alone.activation) == (1e-12, "gelu")
    sizes = {k: v for k, v in SMALL.items() if k not in ("frames", "modalities")}
    made = zoo.MBT(**sizes, frames=1, modalities=["rgb"], pretrained=str(tmp_path))
    made.print = lambda *args: None  # type: ignore[method-assign]
    made._trainer = SimpleNamespace(datamodule=None, world_size=1, ckpt_path=None)  # type: ignore[assignment]
    made.setup("fit")
    assert (made.hparams["layer_norm_eps"], made.hparams["activation"]) == (1e-12, "gelu")
    image = torch.randn(2, 3, 32, 32)
    network = made.network.eval()
    with torch.no_grad():
        streams = network.encode(network.embed(image[:, :, None], None))
        assert float((network.norm(streams["rgb"]) - model(image).last_hidden_state).abs().max()) < 1e-5


def test_a_file_that_does_not_tell_its_gelu_gets_a_line(tmp_path: Path) -> None:
    from types import SimpleNamespace

    hf_vit(tmp_path / "hf", hidden_act="gelu")
    state = read_vit(str(tmp_path / "hf")).state
    torch.save(timm_state(state), tmp_path / "timm.pth")
    np.savez(tmp_path / "augreg.npz", **{k: v.numpy() for k, v in augreg_state(state).items()})
    assumed = {}
    for file, given in (("timm.pth", None), ("timm.pth", "gelu"), ("augreg.npz", None), ("hf", None)):
        said: list[str] = []
        made = zoo.MBT(**SMALL, pretrained=str(tmp_path / file), activation=given)
        made.print = lambda text, out=said: out.append(text)  # type: ignore[method-assign]
        made._trainer = SimpleNamespace(datamodule=None, world_size=1, ckpt_path=None)  # type: ignore[assignment]
        made.setup("fit")
        assumed[file, given] = [s for s in said if "gelu_tanh and eps 1e-06 are assumed" in s]
    assert [len(s) for s in assumed.values()] == [1, 0, 0, 0]


def test_a_tensor_without_a_place_stops_the_load(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    hf_vit(tmp_path / "hf")
    state = timm_state(read_vit(str(tmp_path / "hf")).state)
    save_file(state | {"blocks.0.ls1.gamma": torch.ones(D)}, tmp_path / "a.safetensors")
    with pytest.raises(
        ValueError, match=r"1 tensors have no place in a ViT stream, for example blocks.0.ls1"
    ):
        read_vit(str(tmp_path / "a.safetensors"))
    del state["norm.weight"]
    save_file(state, tmp_path / "b.safetensors")
    with pytest.raises(ValueError, match=r"no ViT: 1 tensors are missing, for example norm.weight"):
        read_vit(str(tmp_path / "b.safetensors"))


def test_a_vit_of_another_size_is_refused(tmp_path: Path) -> None:
    hf_vit(tmp_path)
    with pytest.raises(ValueError, match=r"width 24 and 2 layers, model.init_args ask for 48 and 2"):
        initialise(build(**{**SMALL, "width": 48}), read_vit(str(tmp_path)))
