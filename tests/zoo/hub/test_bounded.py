"""What a small file may ask for: each of these took all memory or had no end, and is one line."""

from __future__ import annotations

import json
import pickle
import time
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
import torch
import torch.distributed.checkpoint as dcp
from safetensors.torch import save_file

import zoo
from zoo.hub import bounded, foreign, torch_files
from zoo.hub import weights as hub
from zoo.hub.foreign import Damaged, Refused, TooLarge

LIGHTNING = {"pytorch-lightning_version": "2.6.6", "zoo": {"class_path": "zoo.NodeClassifier"}}


class Call:
    """Pickled, it is a call with these arguments."""

    def __init__(self, function: Callable[..., Any], *args: Any) -> None:
        self.function, self.args = function, args

    def __reduce__(self) -> Any:
        return self.function, self.args


def lists_of_lists(levels: int) -> list[Any]:
    made: list[Any] = [1] * 10
    for _ in range(levels):
        made = [made] * 10
    return made


def deep(levels: int) -> list[Any]:
    made: list[Any] = []
    for _ in range(levels):
        made = [made]
    return made


def within_itself() -> list[Any]:
    made: list[Any] = []
    made.append(made)
    return made


def checkpoint(path: Path, state: Any = None, **hparams: Any) -> Path:
    torch.save(
        {**LIGHTNING, "state_dict": state or {"weight": torch.zeros(2)}, "hyper_parameters": hparams}, path
    )
    return path


def weights(path: Path, class_path: str = "zoo.NodeClassifier", **hparams: Any) -> Path:
    metadata = {"zoo": "1", "class_path": class_path, "hparams": json.dumps(hparams)}
    save_file({"weight": torch.zeros(200)}, path, metadata)
    return path


def one_line(error: pytest.ExceptionInfo[Any], path: Path) -> None:
    text = str(error.value)
    assert str(path) in text
    assert "\n" not in text


@pytest.mark.parametrize(
    "value", [lists_of_lists(8), within_itself(), deep(150)], ids=["bomb", "itself", "deep"]
)
@pytest.mark.parametrize("where", ["hyper_parameters", "loops"])
def test_memo_bombs_in_a_checkpoint(value: Any, where: str, tmp_path: Path) -> None:
    path = tmp_path / "x.ckpt"
    torch.save({**LIGHTNING, "state_dict": {}, "hyper_parameters": {}} | {where: {"x": value}}, path)
    with pytest.raises(TooLarge, match=r"more than 1,000,000 values|nested in itself") as error:
        hub.read(path)
    one_line(error, path)


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize(
    "call",
    [
        Call(bytearray, 10**10),
        Call(torch.Tensor, 10**5, 10**5),
        Call(torch.FloatTensor, 10**10),
        Call(torch.storage.UntypedStorage, 10**10),
    ],
    ids=["bytearray", "Tensor", "FloatTensor", "UntypedStorage"],
)
def test_a_pickle_gets_no_memory_by_calls(call: Call, zipped: bool, tmp_path: Path) -> None:
    path = tmp_path / "x.pt"
    torch.save({"x": call}, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(ValueError, match=r"pickled objects|damaged or no PyTorch file") as error:
        foreign.load(path)
    one_line(error, path)


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize(("shape", "strides"), [((10**9,), (1,)), ((10**5, 10**5), (0, 0))])
def test_a_tensor_is_no_larger_than_its_data(
    shape: tuple[int, ...], strides: tuple[int, ...], zipped: bool, tmp_path: Path
) -> None:
    path, storage = (
        tmp_path / "x.pt",
        torch.storage.TypedStorage(
            wrap_storage=torch.zeros(4).untyped_storage(), dtype=torch.float32, _internal=True
        ),
    )
    call = Call(torch._utils._rebuild_tensor_v2, storage, 0, shape, strides, False, OrderedDict())
    torch.save({"x": call}, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(TooLarge, match=r"claims a tensor of shape .* in 16 bytes") as error:
        foreign.load(path)
    one_line(error, path)


def test_the_older_format_claims_no_more_than_its_size(tmp_path: Path) -> None:
    path = tmp_path / "x.pt"
    torch.save({"x": torch.zeros(3)}, path, _use_new_zipfile_serialization=False)
    content = path.read_bytes()
    path.write_bytes(content.replace(pickle.BININT1 + b"\x03", pickle.BININT + (10**9).to_bytes(4, "little")))
    with pytest.raises(TooLarge, match=r"claims a tensor|claims .* for a tensor") as error:
        foreign.load(path)
    one_line(error, path)
    path.write_bytes(content[:-1])
    with pytest.raises(ValueError, match=r"x.pt claims 12 bytes for a tensor"):
        foreign.load(path)


def test_a_key_that_ends_the_process_is_not_hashed(tmp_path: Path) -> None:
    path, deep = tmp_path / "x.pt", b")" + pickle.TUPLE1 * 300_000
    body = pickle.PROTO + b"\2" + pickle.EMPTY_DICT + deep + pickle.NONE + pickle.SETITEM + pickle.STOP
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", body)
        archive.writestr("archive/version", "3\n")
    with pytest.raises(Damaged, match="a tuple as a key"):
        foreign.load(path)


@pytest.mark.filterwarnings("ignore:torch.distributed is disabled")
def test_the_index_of_a_sharded_checkpoint_runs_nothing(tmp_path: Path) -> None:
    folder, mark = tmp_path / "step=00000003.ckpt", tmp_path / "was_run"
    dcp.save({"weight": torch.ones(64), "epoch": 3}, checkpoint_id=folder, no_dist=True)
    torch.save({**LIGHTNING, "hyper_parameters": {"hidden": 8}}, folder / "meta.pt")
    assert hub.read(folder, tensors=False).hparams == {"hidden": 8}
    part = folder / "__0_0.distcp"
    content = part.read_bytes()
    part.write_bytes(content.replace(torch.ones(8).numpy().tobytes(), bytes(32), 1))
    with pytest.raises(Damaged, match=r"__0_0.distcp is damaged \(the checksum of"):
        hub.read(folder, tensors=False)
    part.write_bytes(content[:200])
    with pytest.raises(Damaged, match=r"__0_0.distcp is damaged: it is shorter"):
        hub.read(folder, tensors=False)
    (folder / ".metadata").write_bytes(pickle.dumps(Call(Path.touch, mark)))
    with pytest.raises(Refused, match=r"\.metadata holds pickled objects .*nothing was run"):
        hub.read(folder, tensors=False)
    assert not mark.exists()


def test_zip_bombs_are_seen_before_they_are_read(tmp_path: Path) -> None:
    path = tmp_path / "bomb.ckpt"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", bytes(10**7))
    with pytest.raises(
        Damaged, match=r"'archive/data.pkl' claims 10.0 MB in 9.\d kB.*never compresses"
    ) as error:
        hub.read(path)
    one_line(error, path)
    arrays = tmp_path / "bomb.npz"
    np.savez_compressed(arrays, edges=np.zeros(10**8, np.int8))
    with pytest.raises(TooLarge, match=r"claims 100.0 MB and is 9\d.\d kB.*ZOO_LIMITS=off") as error:
        foreign.read_arrays(arrays)
    one_line(error, arrays)


def test_the_environment_lifts_the_limits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "zeros.npz"
    np.savez_compressed(path, edges=np.zeros(10**8, np.int8))
    monkeypatch.setenv("ZOO_LIMITS", "off")
    assert foreign.read_arrays(path)["edges"].shape == (10**8,)


def test_arrays_are_as_long_as_their_headers_say(tmp_path: Path) -> None:
    path = tmp_path / "x.npz"
    np.savez(path, a=np.arange(6.0).reshape(2, 3, order="F"), b=np.float32(2))
    found = foreign.read_arrays(path)
    assert np.array_equal(found["a"], np.arange(6.0).reshape(2, 3, order="F"))
    assert found["b"].shape == ()
    content = path.read_bytes()
    with zipfile.ZipFile(path) as archive:
        held = archive.read("a.npy")
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.npy", held.replace(b"(2, 3)", b"(9, 9)"))
    with pytest.raises(Damaged, match=r"x.npz: a claims \(9, 9\) of float64"):
        foreign.read_arrays(path)
    path.write_bytes(
        content.replace(b"\x00\x00\x00\x00\x00\x00\xf0\x3f", b"\x00\x00\x00\x00\x00\x00\xf0\x7f")
    )
    with pytest.raises(Damaged, match="Bad CRC-32"):
        foreign.read_arrays(path)


@pytest.mark.parametrize(
    ("class_path", "hparams"),
    [
        ("zoo.NodeClassifier", {"layers": 10_000, "features": 3, "num_classes": 2}),
        ("zoo.NodeClassifier", {"hidden": 10**6, "features": 10**8, "num_classes": 2}),
        ("zoo.DTR", {"depth": 10_000, "width": 4, "heads": 2}),
        ("zoo.MBT", {"depth": 10_000}),
        ("zoo.IMAE", {"width": 10**6}),
    ],
    ids=str,
)
def test_hyperparameters_that_ask_for_giants(
    class_path: str, hparams: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bounded, "_MODULES", 500)
    path = weights(tmp_path / "x.safetensors", class_path, **hparams)
    with pytest.raises(TooLarge, match=r"asks for .*ZOO_LIMITS=off") as error:
        zoo.load(path)
    one_line(error, path)


def test_a_table_beside_the_weights_is_bounded_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A schedule of 100,000 steps is no parameter of the network."""
    monkeypatch.setattr(bounded, "_BUILD_SLACK", 90_000)
    path = weights(tmp_path / "x.safetensors", "zoo.DTR", timesteps=100_000, depth=1, width=8, heads=2)
    with pytest.raises(TooLarge, match=r"asks for a tensor of 100,000 numbers, but is [\d.]+ kB"):
        zoo.load(path)


def test_many_small_weights_are_bounded_in_sum(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bounded, "_BUILD_SLACK", 20_000)
    path = weights(tmp_path / "x.safetensors", layers=9, hidden=100, features=3, num_classes=2)
    with pytest.raises(TooLarge, match=r"asks for a network of more than 2\d,\d\d\d parameters, but is"):
        zoo.load(path)


def test_a_network_that_is_not_built_in_time_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of work without numbers, as long tables of Python's own are."""
    monkeypatch.setattr(bounded, "BUILD_SECONDS", 0.2)
    path = weights(tmp_path / "x.safetensors", features=3, num_classes=2)
    monkeypatch.setattr(hub, "_builds", lambda *given: [None for _ in range(10**9)])
    with pytest.raises(TooLarge, match=r"is not built within 0\.2 s of computing; refused"):
        zoo.load(path)


def test_a_busy_machine_refuses_no_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bounded, "BUILD_SECONDS", 0.2)
    path = weights(tmp_path / "x.safetensors", features=3, num_classes=2)
    monkeypatch.setattr(hub, "_builds", lambda *given: time.sleep(0.5) or True)
    hub.check_size(zoo.NodeClassifier, {"features": 3}, path)


def test_too_little_memory_names_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x.pt"
    torch.save({"x": torch.zeros(2)}, path)
    monkeypatch.setattr(torch, "load", Mock(side_effect=MemoryError))
    with pytest.raises(TooLarge, match=r"x\.pt asks for more memory than there is$"):
        foreign.load(path)


def test_hyperparameters_of_another_type_and_deep_ones(tmp_path: Path) -> None:
    path = weights(tmp_path / "x.safetensors", features="a", num_classes=2)
    with pytest.raises(ValueError, match=r"x.safetensors: hyperparameter 'features' takes int.*, got 'a'"):
        zoo.load(path)
    metadata = {
        "zoo": "1",
        "class_path": "zoo.DTR",
        "hparams": '{"size": ' + "[" * 100_000 + "]" * 100_000 + "}",
    }
    save_file({"weight": torch.zeros(2)}, path, metadata)
    with pytest.raises(
        TooLarge, match=r"x.safetensors: its metadata \(hparams\) is nested too deep"
    ) as error:
        hub.read(path)
    one_line(error, path)
    config = tmp_path / "config.json"
    config.write_text("[" * 100_000)
    with pytest.raises(TooLarge, match=r"config.json: it is nested too deep"):
        foreign.read_json(config)


def test_a_changed_byte_of_our_own_safetensors_is_seen(tmp_path: Path) -> None:
    path = zoo.save(
        zoo.DTR(input_size=8, width=8, depth=1, heads=2, num_classes=2), tmp_path / "x.safetensors"
    )
    content = bytearray(path.read_bytes())
    content[-3] ^= 0x40
    path.write_bytes(content)
    with pytest.raises(Damaged, match="its tensors are not what was written"):
        zoo.load(path)


def test_weights_of_nan_are_not_taken(tmp_path: Path) -> None:
    module = zoo.DTR(input_size=8, width=8, depth=1, heads=2, num_classes=2)
    with torch.no_grad():
        next(module.network.parameters()).view(-1)[0] = torch.nan
    path = zoo.save(module, tmp_path / "x.safetensors")
    with pytest.raises(ValueError, match=r"x.safetensors: network\.\S+ holds NaN or infinity"):
        zoo.load(path)


def test_a_checkpoint_with_the_milestones_of_a_schedule_is_read(tmp_path: Path) -> None:
    """torch keeps them as a ``collections.Counter``."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(2))], lr=1.0)
    schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, [3, 5])
    torch.save({"lr_schedulers": [schedule.state_dict()]}, tmp_path / "x.ckpt")
    (state,) = torch_files.load(tmp_path / "x.ckpt")["lr_schedulers"]
    assert state["milestones"] == {3: 1, 5: 1}
