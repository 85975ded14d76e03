"""RAS's recipes, evaluation, prediction and official weights."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
from fakes.saliency import disc
from PIL import Image
from torch import nn
from torch.nn import functional

import cli
import zoo
from zoo.nn.optim import Triangular
from zoo.ras.network import build
from zoo.ras.report import SaliencyMaps, min_max
from zoo.ras.weights import CAFFE_LAYERS, from_caffe, load_backbone, read, read_layers, write


def tiny(**arguments: Any) -> zoo.RAS:
    torch.manual_seed(0)
    return zoo.RAS(variant="tiny", **arguments)


def step(module: zoo.RAS, batch: dict[str, Any]) -> torch.Tensor:
    trainer = mock.Mock(world_size=1, global_step=0, log_every_n_steps=1)
    logs = {"log": mock.DEFAULT, "log_dict": mock.DEFAULT}
    with mock.patch.multiple(zoo.RAS, trainer=trainer, device=torch.device("cpu"), **logs):
        return module.training_step(batch, 0)


def test_caffes_groups_double_biases_and_slow_the_last_global_layer() -> None:
    module = zoo.RAS(variant="tiny", groups="caffe")
    optimizer = module.configure_optimizers()
    names = {id(p): n for n, p in module.network.named_parameters()}
    found = {names[id(p)]: (g["lr"], g["weight_decay"]) for g in optimizer.param_groups for p in g["params"]}
    assert set(found) == set(names.values())
    for name, (lr, decay) in found.items():
        scale = (2 if name.endswith("bias") else 1) * (0.1 if name.startswith("dsn6.conv5") else 1)
        assert lr == pytest.approx(1e-3 * scale), name
        assert decay == (0 if name.endswith("bias") else 5e-4), name


def test_the_second_ports_groups_slow_the_backbone_and_leave_its_first_layer() -> None:
    with torch.device("meta"):
        module = zoo.RAS("resnet50_v2", optimizer=lambda p: torch.optim.SGD(p, lr=0.05))
    optimizer = module.configure_optimizers()
    rates = {id(p): g["lr"] for g in optimizer.param_groups for p in g["params"]}
    for name, parameter in module.network.named_parameters():
        expected = None if name.startswith(("bkbone.conv1.", "bkbone.bn1.")) else 0.05
        if expected is not None and name.startswith("bkbone."):
            expected *= 0.1
        assert parameter.requires_grad == (expected is not None), name
        assert rates.get(id(parameter)) == (None if expected is None else pytest.approx(expected)), name


def test_the_triangular_rate_is_the_ports() -> None:
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.05)
    schedule = Triangular(optimizer, epochs=32)
    rates = []
    for _ in range(32):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    assert rates == pytest.approx([0.05 * (1 - abs(2 * (e + 1) / 33 - 1)) for e in range(32)])
    assert max(rates) == rates[15] == pytest.approx(0.05 * 32 / 33)


def test_losses_are_the_variants_own() -> None:
    with torch.device("meta"):
        assert zoo.RAS("vgg16").loss == zoo.RAS("tiny").loss == "bce"
        assert (zoo.RAS("resnet50_v1").loss, zoo.RAS("resnet50_v1").groups) == ("bce_iou", "plain")
        assert zoo.RAS("resnet50_v1", loss="bce").loss == "bce"


def test_deep_supervision_switches_the_side_losses_off() -> None:
    batch = {"image": torch.rand(2, 3, 48, 64), "mask": torch.rand(2, 1, 48, 64)}
    deep, last = tiny(), tiny(deep_supervision=False)
    step(last, batch).backward()
    # the global branch learns through the chain all the same
    assert last.network.dsn6.conv5.weight.grad is not None
    with torch.no_grad():
        sides = torch.nn.functional.binary_cross_entropy_with_logits(
            deep.network(batch["image"], True), batch["mask"].expand(-1, 6, -1, -1), reduction="none"
        ).mean(dim=(0, 2, 3))
    assert float(step(deep, batch).detach()) == pytest.approx(float(sides.sum()), rel=1e-5)
    assert float(step(last, batch).detach()) == pytest.approx(float(sides[0]), rel=1e-5)


def test_scales_are_drawn_per_step_and_the_same_on_every_rank() -> None:
    module = tiny(scales=[32, 64])
    batch = {"image": torch.rand(1, 3, 48, 48), "mask": torch.ones(1, 1, 48, 48)}
    seen = []
    original = module.network.forward

    def forward(image: torch.Tensor, all_sides: bool = False) -> torch.Tensor:
        seen.append(image.shape[-1])
        return original(image, all_sides)

    logs = {"log": mock.DEFAULT, "log_dict": mock.DEFAULT}
    with mock.patch.object(module.network, "forward", forward):
        for rank in (0, 1):
            for global_step in range(12):
                trainer = mock.Mock(
                    world_size=1, global_step=global_step, global_rank=rank, log_every_n_steps=99
                )
                with mock.patch.multiple(zoo.RAS, trainer=trainer, device=torch.device("cpu"), **logs):
                    module.training_step(batch, 0)
    assert (seen[:12], set(seen)) == (seen[12:], {32, 64})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"attention": "both"}, "attention must be one of reverse, forward, none"),
        ({"loss": "dice"}, "loss must be one of null, bce, bce_iou"),
        ({"groups": "port"}, "groups: port is the recipe of resnet50"),
        ({"pool": "max"}, "pool is torch, or caffe"),
    ],
)
def test_impossible_settings_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        tiny(**arguments)


def test_the_map_is_one_sigmoid_of_the_last_refinement() -> None:
    module, image = tiny(channels_last=False).eval(), torch.rand(2, 3, 48, 64)
    with torch.no_grad():
        assert torch.equal(module(image), module.network(image).sigmoid())
        assert torch.equal(module(image), module.network.refine(image).logits[1].sigmoid())


def test_lines_of_one_pixel_count_at_the_masks_own_size() -> None:
    """A black map has the share of the line as its error: 1 of 77 columns, 2 of 33 rows."""
    module = tiny().eval()
    masks = [torch.zeros(101, 77, dtype=torch.uint8), torch.zeros(33, 45, dtype=torch.uint8)]
    masks[0][:, 38] = 255
    masks[1][15:17] = 255
    batch = {"image": torch.rand(2, 3, 64, 64), "mask": masks}
    black = mock.patch.object(module.network, "forward", lambda image: torch.full_like(image[:, :1], -200.0))
    with black, mock.patch.object(zoo.RAS, "trainer", mock.Mock(sanity_checking=False)), torch.no_grad():
        module.validation_step(batch, 0)
    assert float(module.evaluated["val"]["mae"].compute()) == pytest.approx((1 / 77 + 2 / 33) / 2, rel=1e-6)


def test_maps_are_measured_at_the_masks_own_size_one_picture_at_a_time() -> None:
    module = tiny().eval()
    images = torch.rand(2, 3, 64, 64)
    sizes = [(50, 70), (64, 64)]
    with torch.no_grad():
        together = module.saliency(images, sizes)
        alone = [module.saliency(i[None], [s])[0] for i, s in zip(images, sizes, strict=True)]
        listed = module.saliency(list(images), sizes)
    assert [tuple(m.shape) for m in together] == sizes
    for a, b, c in zip(together, alone, listed, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-6)
        torch.testing.assert_close(a, c, rtol=0, atol=1e-6)


@pytest.mark.parametrize("flip_average", [False, True])
@pytest.mark.parametrize("variant", ["tiny", "resnet50_v2"])
def test_logits_are_enlarged_before_their_sigmoid(variant: Any, flip_average: bool) -> None:
    torch.manual_seed(0)
    module = zoo.RAS(variant, flip_average=flip_average, channels_last=False).eval()
    nn.init.normal_(module.network.stage(module.network.sides[-1]).last.weight, std=3.0)
    image, size, corners = torch.rand(1, 3, 64, 64), (300, 400), variant != "tiny"
    with torch.no_grad():
        views = [module.network(image), *([module.network(image.flip(-1)).flip(-1)] if flip_average else [])]
        large = [functional.interpolate(y, size, mode="bilinear", align_corners=corners) for y in views]
        expected = sum(y.sigmoid() for y in large) / len(large)
        (found,) = module.saliency(image, [size])
    assert views[0].std() > 1  # where the sigmoid bends
    torch.testing.assert_close(found, expected[0, 0], rtol=0, atol=1e-6)


def test_the_mirrored_average_is_symmetric() -> None:
    module = tiny(flip_average=True).eval()
    image = torch.rand(1, 3, 48, 48)
    with torch.no_grad():
        torch.testing.assert_close(module(image), module(image.flip(-1)).flip(-1), rtol=0, atol=1e-6)


def test_written_maps_are_stretched_and_constant_ones_are_left() -> None:
    assert min_max(torch.tensor([[0.2, 0.4], [0.3, 0.2]])).tolist() == [[0, 255], [128, 0]]
    assert min_max(torch.full((2, 2), 0.2)).tolist() == [
        [51, 51],
        [51, 51],
    ]  # the formula alone makes it white
    noise = 5e-6 * torch.rand(8, 8, generator=torch.Generator().manual_seed(0))
    assert int(min_max(noise).max()) == 0


def test_masks_are_written_inside_and_over_none(tmp_path: Path) -> None:
    maps = [np.zeros((2, 2), dtype=np.uint8)] * 2
    for names in (["a", "../../photo"], ["a", "/photo"]):
        with pytest.raises(ValueError, match="it would be written elsewhere"):
            SaliencyMaps(maps, names, None).write(tmp_path / names[1][:1].replace("/", "x"))
    with pytest.raises(ValueError, match=r"a\.png is there already"):
        SaliencyMaps(maps, ["a", "a"], None).write(tmp_path)
    assert not list(tmp_path.rglob("photo*"))


def test_masks_without_an_object_are_told_with_their_count() -> None:
    module = tiny().eval()
    logs = {"log": mock.DEFAULT}
    batch = {"image": torch.rand(3, 3, 48, 48)}
    mask = torch.zeros(48, 48, dtype=torch.uint8)
    full = mask.clone()
    full[10:20, 10:20] = 255
    with mock.patch.multiple(zoo.RAS, trainer=mock.Mock(sanity_checking=False), **logs) as mocked:
        with torch.no_grad():
            module.validation_step({**batch, "mask": [mask, full, mask]}, 0)
        with pytest.warns(UserWarning, match="^2 masks of val have no object"):
            module.on_validation_epoch_end()
    logged = {call.args[0] for call in mocked["log"].call_args_list}
    assert {"val/mae", "val/max_f_mean_first", "val/max_f_f_first", "val/mean_f"} <= logged
    assert list(module.preview(2)["saliency"].images.shape) == [2, 3, 48, 3 * 48]


def test_a_picture_too_small_for_the_pools_is_one_line_with_its_name() -> None:
    small = {"image": [torch.rand(3, 40, 31)], "size": [(40, 31)], "name": ["a"], "index": torch.tensor([0])}
    model = zoo.RAS("tiny")
    with pytest.raises(
        ValueError, match=r"a is 31 x 40 .* needs 32 pixels on each side: set data.init_args.size"
    ):
        model.predict_step(small, 0)
    model = zoo.RAS("tiny", pool="caffe")
    assert model.saliency(small["image"], [(40, 31)])[0].shape == (40, 31)  # type: ignore[arg-type]
    model._check_sides(small)


def test_predictions_are_pngs_under_the_pictures_names_and_a_sheet(tmp_path: Path) -> None:
    maps = [np.arange(12, dtype=np.uint8).reshape(3, 4), np.zeros((5, 6), np.uint8)]
    pixels = np.zeros((8, 8, 3), np.uint8)
    found = SaliencyMaps(maps, ["a", "sub/b"], {"picture": [pixels], "saliency": [maps[1]]}).write(tmp_path)
    assert found == [tmp_path / "masks", tmp_path / "sheet.png"]
    for path, expected in (("masks/a.png", maps[0]), ("masks/sub/b.png", maps[1])):
        assert np.array_equal(np.asarray(Image.open(tmp_path / path)), expected)


def test_predict_writes_masks_of_the_pictures_sizes_from_a_folder(tmp_path: Path) -> None:
    folder = tmp_path / "pictures"
    folder.mkdir()
    for i, size in enumerate(((60, 80), (100, 70))):
        disc(*size, i)[0].save(folder / f"{i}.jpg")
    weights = zoo.save(tiny(), tmp_path / "tiny.safetensors")
    flags = [
        f"--weights={weights}", "--data.class_path=datamodules.Saliency", f"--data.init_args.root={tmp_path}",
        "--data.init_args.predict=pictures", "--data.init_args.size=null", "--data.init_args.num_workers=0",
        "--trainer.enable_progress_bar=false", "--trainer.accelerator=cpu",
        f"--trainer.default_root_dir={tmp_path}",
    ]  # fmt: skip
    assert cli.main(["predict", "--model=zoo.RAS", *flags]) == 0
    predictions = next(tmp_path.rglob("predictions"))
    sizes = [Image.open(predictions / f"masks/{i}.png").size for i in range(2)]
    assert sizes == [(80, 60), (70, 100)]
    assert (predictions / "sheet.png").is_file()
    # a damaged picture is left out and counted; nothing but damaged ones is an error
    (folder / "0.jpg").write_bytes(b"not a picture")
    with pytest.warns(UserWarning, match=r"1 of 2 items cannot be read and are skipped: .*0\.jpg"):
        assert cli.main(["predict", "--model=zoo.RAS", *flags]) == 0
    masks = [sorted(p.name for p in folder.iterdir()) for folder in sorted(tmp_path.rglob("masks"))]
    assert masks == [["0.png", "1.png"], ["1.png"]]
    (folder / "1.jpg").write_bytes(b"not a picture")
    assert cli.main(["predict", "--model=zoo.RAS", *flags]) == 1


def official_vgg(path: Path) -> dict[str, torch.Tensor]:
    """A random file with the keys of vgg16-397923af.pth; its classifier is cut short."""
    torch.manual_seed(1)
    state = {f"features.{k[9:]}": v for k, v in build("vgg16").backbone.state_dict().items()}
    state |= {f"classifier.{i}.{n}": torch.zeros(2) for i in (0, 3, 6) for n in ("weight", "bias")}
    torch.save(state, path)
    return state


def test_torchvisions_vgg_loads_and_its_classifier_is_left_out(tmp_path: Path) -> None:
    state = official_vgg(tmp_path / "vgg16-397923af.pth")
    network = build("vgg16")
    load_backbone(network, tmp_path / "vgg16-397923af.pth")
    for place in (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28):
        assert torch.equal(
            network.state_dict()[f"backbone.features.{place}.weight"], state[f"features.{place}.weight"]
        )
    with pytest.raises(ValueError, match=r"features\.0\.bias does not fit: it is \(64,\) in the file"):
        load_backbone(build("tiny"), tmp_path / "vgg16-397923af.pth")
    with pytest.raises(FileNotFoundError, match=r"download\.pytorch\.org/models/vgg16-397923af\.pth"):
        load_backbone(network, tmp_path / "absent.pth")
    with pytest.raises(FileNotFoundError, match="resnet50-19c8e357"):
        load_backbone(build("resnet50_v1"), tmp_path / "absent.pth")


def test_torchvisions_resnet_loads_under_its_own_names(tmp_path: Path) -> None:
    torch.manual_seed(1)
    state = dict(build("resnet50_v1").backbone.state_dict())
    expected = {
        "conv1.weight",
        "layer1.0.downsample.0.weight",
        "layer3.5.bn3.running_var",
        "layer4.2.conv3.weight",
    }
    assert expected <= set(state)
    torch.save(state | {"fc.weight": torch.zeros(2), "fc.bias": torch.zeros(2)}, tmp_path / "resnet50.pth")
    for variant in ("resnet50_v1", "resnet50_v2"):
        network = build(variant)  # type: ignore[arg-type]
        load_backbone(network, tmp_path / "resnet50.pth")
        assert all(torch.equal(v, state[k]) for k, v in network.backbone.state_dict().items())


def test_a_trunk_of_before_pytorch_041_lacks_the_counters_of_batches(tmp_path: Path) -> None:
    state = {k: torch.rand_like(v.float()) for k, v in build("resnet50_v1").backbone.state_dict().items()}
    old = {k: v for k, v in state.items() if not k.endswith("num_batches_tracked")}
    assert len(old) < len(state)
    torch.save(old, tmp_path / "resnet50.pth", _use_new_zipfile_serialization=False)
    network = build("resnet50_v1")
    load_backbone(network, tmp_path / "resnet50.pth")
    found = network.backbone.state_dict()
    assert all(torch.equal(found[k], v) for k, v in old.items())
    assert not any(found[k].any() for k in state.keys() - old.keys())


@pytest.mark.parametrize("variant", ["resnet50_v1", "resnet50_v2"])
def test_the_ports_files_load_strictly(variant: str, tmp_path: Path) -> None:
    torch.manual_seed(1)
    network = build(variant)  # type: ignore[arg-type]
    state = {k: v for k, v in network.state_dict().items() if not k.endswith("num_batches_tracked")}
    names = set(state)
    if variant == "resnet50_v1":
        assert {
            "resnet.conv1.weight",
            "mscm.convert.bias",
            "mscm.branch4.2.weight",
            "mscm.score.weight",
        } <= names
        assert {f"ra{i}.{n}.weight" for i in range(1, 5) for n in ("convert", "convs.0", "convs.6")} <= names
    else:
        assert {"bkbone.bn1.weight", "mscm.bn.weight", "mscm.branch2.4.running_mean", "ra2.bn.bias"} <= names
        assert {"ra4.convs.0.weight", "ra4.convs.1.weight", "ra4.convs.9.bias"} <= names
        assert not any(n.startswith("ra1") for n in names)
    torch.save({f"module.{k}": v for k, v in state.items()}, tmp_path / "RAS.pth")
    weights, lines = read(tmp_path / "RAS.pth", {})
    assert weights.hparams == {"variant": variant}
    count = sum(p.numel() for p in network.parameters())
    assert f"{count:,} parameters" in lines[0]
    assert all(torch.equal(weights.state_dict[f"network.{k}"], v) for k, v in state.items())
    del state["mscm.score.bias"]
    torch.save(state, tmp_path / "RAS.pth")
    with pytest.raises(ValueError, match=r"mscm\.score\.bias does not fit: it is missing in the file"):
        read(tmp_path / "RAS.pth", {})


def test_zoo_convert_takes_a_ports_file_and_gives_it_back(tmp_path: Path) -> None:
    torch.manual_seed(1)
    state = build("resnet50_v2").state_dict()
    torch.save(state, tmp_path / "RAS.v2.pth")
    ours, back = tmp_path / "ours.safetensors", tmp_path / "back.pth"
    assert cli.main(["convert", str(tmp_path / "RAS.v2.pth"), "--method", "ras", "--out", str(ours)]) == 0
    assert cli.main(["convert", str(ours), "--to", "official", "--out", str(back)]) == 0
    again = torch.load(back, weights_only=True)
    assert set(again) == set(state)
    assert all(torch.equal(again[k], v) for k, v in state.items())


# Caffe's protobuf, written by hand.


def varint(value: int) -> bytes:
    out = bytearray()
    while value >= 128:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])


def message(field: int, content: bytes) -> bytes:
    return varint(field << 3 | 2) + varint(len(content)) + content


def blob(array: np.ndarray[Any, Any], old: bool) -> bytes:
    data = message(5, array.astype("<f4").tobytes())
    if old:
        sizes = [1] * (4 - array.ndim) + list(array.shape)
        return b"".join(varint(i << 3) + varint(n) for i, n in enumerate(sizes, 1)) + data
    return message(7, message(1, b"".join(map(varint, array.shape)))) + data


def caffemodel(layers: dict[str, tuple[np.ndarray[Any, Any], ...]], old: bool) -> bytes:
    name, blobs, layer = (4, 6, 2) if old else (1, 7, 100)
    out = message(1, b"RAS")  # the net's name
    for key, arrays in layers.items():
        content = message(name, key.encode()) + b"".join(message(blobs, blob(a, old)) for a in arrays)
        out += message(layer, content + varint(10 << 3 | 5) + struct.pack("<f", 1.0))
    return out


@pytest.mark.parametrize("old", [False, True])
def test_the_caffemodel_is_read_without_caffe(old: bool, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    layers: dict[str, tuple[np.ndarray[Any, Any], ...]] = {
        "conv1_1": (rng.standard_normal((8, 3, 3, 3)).astype("f4"), rng.standard_normal(8).astype("f4")),
        "conv4-dsn5": (rng.standard_normal((1, 16, 3, 3)).astype("f4"), rng.standard_normal(1).astype("f4")),
        "upsample32": (np.ones((1, 1, 64, 64), "f4"),),
        "relu1_1": (),
    }
    (tmp_path / "a.caffemodel").write_bytes(caffemodel(layers, old))
    state = from_caffe(read_layers(tmp_path / "a.caffemodel"))
    assert set(state) == {
        f"{n}.{k}" for n in ("backbone.features.0", "dsn5.conv4") for k in ("weight", "bias")
    }
    assert np.array_equal(state["backbone.features.0.weight"], layers["conv1_1"][0])
    assert np.array_equal(state["dsn5.conv4.bias"], layers["conv4-dsn5"][1])
    (tmp_path / "b.caffemodel").write_bytes(caffemodel(layers, old)[:-40])
    with pytest.raises(ValueError, match="damaged or no caffemodel"):
        read_layers(tmp_path / "b.caffemodel")


def test_the_released_layers_give_the_whole_network_with_caffes_pools(tmp_path: Path) -> None:
    torch.manual_seed(1)
    module = zoo.RAS("vgg16", pool="caffe")
    places = {n: caffe for caffe, n in CAFFE_LAYERS.items()}
    layers: dict[str, Any] = {"upsample2.weight": np.ones((1, 1, 4, 4), "f4")}
    for key, value in module.network.state_dict().items():
        part, layer, kind = (key.split(".")[0], key.split(".")[-2], key.split(".")[-1])
        name = places[int(layer)] if part == "backbone" else f"{layer}-{part}"
        layers[f"{name}.{kind}"] = value.numpy()
    np.savez(tmp_path / "ras.npz", **layers)
    weights, _ = read(tmp_path / "ras.npz", {})
    assert weights.hparams == {"variant": "vgg16", "pool": "caffe"}
    assert all(
        torch.equal(weights.state_dict[f"network.{k}"], v) for k, v in module.network.state_dict().items()
    )
    trunk = build("vgg16", "caffe")
    load_backbone(trunk, tmp_path / "ras.npz")
    assert torch.equal(trunk.backbone.features[28].weight, module.network.backbone.features[28].weight)
    with pytest.raises(ValueError, match="holds vgg16, not resnet50_v1"):
        read(tmp_path / "ras.npz", {"variant": "resnet50_v1"})
    for given in ({"pool": "torch"}, {"pixels": "imagenet"}):
        with pytest.raises(ValueError, match="holds caffe, not"):
            read(tmp_path / "ras.npz", given)


def test_the_layers_of_the_caffemodel_are_written_and_read_back_as_the_same_network(tmp_path: Path) -> None:
    torch.manual_seed(1)
    module = zoo.RAS("vgg16", pool="caffe").eval()
    assert "76 arrays" in write(module, tmp_path / "ras.npz", "official")[0]
    weights, _ = read(tmp_path / "ras.npz", {})
    again = zoo.RAS(**weights.hparams).eval()
    again.load_state_dict(dict(weights.state_dict))
    image = torch.rand(1, 3, 61, 83)
    with torch.no_grad():
        assert torch.equal(again(image), module(image))


@pytest.mark.parametrize(("settings", "message"), [
    ({"variant": "tiny", "pool": "caffe"}, "no tiny: write it with --to zoo"),
    ({"variant": "vgg16"}, "have pool torch in the place of caffe, pixels imagenet in the place of caffe"),
    ({"variant": "vgg16", "pool": "caffe", "pixels": "imagenet"}, "have pixels imagenet in the place of"),
    ({"variant": "vgg16", "pool": "caffe", "refinement": False}, "have refinement False in the place of"),
    ({"variant": "resnet50_v1", "pixels": "port"}, "have pixels port in the place of imagenet"),
    ({"variant": "resnet50_v2", "attention": "none"}, "have attention none in the place of reverse"),
])  # fmt: skip
def test_weights_that_an_official_file_cannot_tell_of_are_not_written(
    settings: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with torch.device("meta"):
        module = zoo.RAS(**settings)
    out = tmp_path / ("ras.pth" if "resnet" in settings["variant"] else "ras.npz")
    with pytest.raises(ValueError, match=message) as caught:
        write(module, out, "official")
    assert "\n" not in str(caught.value)
    assert not out.exists()


def test_a_trunk_meets_the_pixels_it_was_trained_on(tmp_path: Path) -> None:
    torch.manual_seed(1)
    official_vgg(tmp_path / "vgg16.pth")
    state = build("vgg16", "caffe").state_dict()
    places = {f"backbone.features.{n}": caffe for caffe, n in CAFFE_LAYERS.items()}
    layers = {
        f"{places[k.rpartition('.')[0]]}.{k.rpartition('.')[2]}": v for k, v in state.items() if "back" in k
    }
    np.savez(tmp_path / "vgg16.npz", **layers)
    with pytest.raises(ValueError, match=r"on Caffe's BGR, .* set model\.init_args\.pixels: caffe$"):
        load_backbone(build("vgg16"), tmp_path / "vgg16.npz")
    with pytest.raises(ValueError, match=r"on torchvision's RGB, .* set model\.init_args\.pixels: imagenet$"):
        load_backbone(build("vgg16", "caffe"), tmp_path / "vgg16.pth")
    load_backbone(build("vgg16", pixels="caffe"), tmp_path / "vgg16.npz")
    load_backbone(build("vgg16", "caffe", "imagenet"), tmp_path / "vgg16.pth")


def test_the_trunks_file_is_read_for_a_fresh_training_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ZOO_DATA", str(tmp_path))
    torch.manual_seed(1)
    torch.save(build("tiny").backbone.state_dict(), tmp_path / "trunk.pth")
    fresh = torch.load(tmp_path / "trunk.pth", weights_only=True)["features.0.weight"]
    module = tiny(backbone_weights="trunk.pth")
    own = module.network.backbone.features[0].weight
    assert not torch.equal(own, fresh)
    module.setup("validate")
    assert not torch.equal(own, fresh)
    module.setup("fit")
    assert torch.equal(own, fresh)
    again = tiny(backbone_weights="trunk.pth")
    again.load_state_dict(tiny().state_dict())  # --weights, or a checkpoint
    again.setup("fit")
    assert not torch.equal(again.network.backbone.features[0].weight, fresh)


@pytest.mark.parametrize("pool", ["torch", "caffe"])
def test_the_exported_network_gives_what_the_network_gives(pool: str, tmp_path: Path) -> None:
    from zoo.hub import export

    module, out = tiny(pool=pool).eval(), tmp_path / "tiny.pt2"
    lines = list(export.write(module, out))  # compares, and refuses above 1e-5
    assert "inputs image float32 (batch, 3, height, width); outputs output" in lines
    run = export.load(out)
    for height, width in ((64, 64), (65, 203), (131, 77), (160, 128)):
        image = torch.rand(1, 3, height, width)
        (found,) = run({"image": image})
        torch.testing.assert_close(found, module.network(image).detach(), rtol=0, atol=1e-5)
