"""The page on adding a method, followed to the letter."""

from __future__ import annotations

import re
import shlex
import sys
from pathlib import Path

import pytest
import torch

import cli

PAGE = Path(__file__).parent.parent / "docs" / "pages" / "add_method.md"


def test_page_trains_and_resumes_its_own_method(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = PAGE.read_text()
    for name, code in re.findall(r'```\w+ title="([\w.]+)"\n(.*?)```', text, flags=re.S):
        (tmp_path / name).write_text(code)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    commands = re.findall(r"^zoo (fit .*)$", re.search(r"```bash\n(.*?)```", text, flags=re.S)[1], flags=re.M)  # type: ignore[index]
    assert len(commands) == 2
    for command in commands:
        assert (
            cli.main(
                [*shlex.split(command), "--trainer.enable_progress_bar=false", "--trainer.accelerator=cpu"]
            )
            == 0
        )
    runs = tmp_path / "runs" / "autoencoder"
    assert [p.name for p in runs.iterdir()] == ["version_0"]
    assert (runs / "version_0" / "curves.png").is_file()
    checkpoint = torch.load(runs / "version_0" / "checkpoints" / "best.ckpt", weights_only=True)
    assert checkpoint["hyper_parameters"]["code"] == 16
    losses = [
        float(line.split(",")[1])
        for line in (runs / "version_0" / "metrics.csv").read_text().splitlines()[1:]
    ]
    assert losses[-1] < 0.5 * losses[0]
    sys.modules.pop("autoencoder", None)
