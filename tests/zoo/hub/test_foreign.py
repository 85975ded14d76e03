"""Reading other projects' weight files: what is wrong with one is one line, and nothing in it runs."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from zoo.hub import foreign


class Bomb:
    """Pickled, it makes a file when it is unpickled without care."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("zipped", [True, False])
def test_pickled_objects_are_refused_and_not_run(zipped: bool, tmp_path: Path) -> None:
    path, mark = tmp_path / "x.pth", tmp_path / "was_run"
    torch.save({"w": torch.zeros(2), "b": Bomb(mark)}, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(ValueError, match=r"more than tensors.*refused, nothing was run") as caught:
        foreign.load(path)
    assert "\n" not in str(caught.value)
    assert not mark.exists()


def test_damaged_and_missing_files_are_one_line(tmp_path: Path) -> None:
    whole = tmp_path / "whole.pth"
    torch.save({"w": torch.zeros(1000)}, whole)
    (tmp_path / "half.pth").write_bytes(whole.read_bytes()[:900])
    (tmp_path / "empty.pth").touch()
    (tmp_path / "x.safetensors").write_bytes(b"x")
    for name, text in (
        ("half.pth", "damaged or no PyTorch file"),
        ("empty.pth", "damaged or no PyTorch file"),
        ("x.safetensors", "no readable safetensors file"),
    ):
        with pytest.raises(ValueError, match=f"{name}.*{text}") as caught:
            foreign.load(tmp_path / name)
        assert "\n" not in str(caught.value)
    with pytest.raises(FileNotFoundError, match=re.escape(f"no file {tmp_path / 'none.pth'}")):
        foreign.load(tmp_path / "none.pth")


def test_prefixes_of_ddp_and_compile_go_and_other_contents_are_no_state_dict(tmp_path: Path) -> None:
    tensors = {"module._orig_mod.a.weight": torch.ones(2), "b.module.weight": torch.zeros(3)}
    save_file(tensors, tmp_path / "x.safetensors")
    torch.save(tensors, tmp_path / "x.pth")
    for name in ("x.safetensors", "x.pth"):
        path = tmp_path / name
        assert set(foreign.state_dict(foreign.load(path), path)) == {"a.weight", "b.module.weight"}
    for content in ([torch.zeros(2)], {"a": 1}):
        with pytest.raises(ValueError, match="is no state_dict"):
            foreign.state_dict(content, tmp_path / "x.pth")
