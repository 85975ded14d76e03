"""README's own lines, as a reader pastes them into a shell."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

import cli
from zoo.engine.runner import ZooCLI
from zoo.evidence import compare, sweep
from zoo.evidence.compare.claim import read_claim
from zoo.evidence.sweep.file import read_sweep

README = (Path(__file__).parent.parent / "README.md").read_text()
USE = re.search(r"^## Use\n.*?```\n(.*?)```", README, flags=re.M | re.S)
assert USE is not None
LINES = [shlex.split(line, comments=True) for line in USE[1].splitlines()]
COMMANDS = [words[1:] for words in LINES if words[0] == "zoo"]


def test_every_command_of_the_readme_finds_zoo() -> None:
    """The two commands leave the environment active; a new shell needs the first line of "Use"."""
    installs = [line for line in README.splitlines() if line.startswith("python3 -m venv")]
    assert all(" && . .venv/bin/activate && pip install " in line for line in installs)
    assert LINES[0] == [".", ".venv/bin/activate"]
    assert [words[0] for words in LINES[1:]] == ["zoo"] * len(COMMANDS)
    assert {words[0] for words in COMMANDS} >= {"fit", "test", "predict", "compare", "sweep", "list"}


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_a_line_of_use_is_understood(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Names exist, flags are known, values fit; what takes minutes does not run."""
    monkeypatch.chdir(tmp_path)
    ran: list[Path] = []
    monkeypatch.setattr(ZooCLI, "instantiate_classes", lambda self: ran.append(self.arguments.configs[0]))
    monkeypatch.setattr(ZooCLI, "after_instantiate_classes", lambda self: None)
    monkeypatch.setattr(ZooCLI, "_run_subcommand", lambda self, subcommand: None)
    monkeypatch.setattr(compare, "compare", lambda path, *_, **__: ran.append(path) or read_claim(path))
    monkeypatch.setattr(sweep, "sweep", lambda path, *_: ran.append(path) or read_sweep(path))
    assert cli.main(words) == 0, capsys.readouterr().err
    if words[0] == "list":
        assert "zoo.DTR" in capsys.readouterr().out
    else:
        assert ran[0].stem in words
