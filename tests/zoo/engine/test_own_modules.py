"""Nothing is imported from the current folder but what the user names, and what that imports."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from zoo.engine.arguments import Arguments
from zoo.engine.own_modules import install, named_modules, remove, texts_of

FILES = {
    "mine_a.py": "import mine_b\nclass Net: pass\ndef late():\n    import mine_c\n    return mine_c.X\n",
    "mine_b.py": "X = 1\n",
    "mine_c.py": "X = 2\n",
    "optional_of_a_library.py": "raise SystemExit('run')\n",
}


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [p for p in sys.path if p])
    for name, text in FILES.items():
        Path(name).write_text(text)
    yield
    for name in FILES:
        sys.modules.pop(name.removesuffix(".py"), None)


def test_named_modules_and_what_they_import_are_found() -> None:
    finder = install(named_modules(["--model=mine_a.Net"]))
    try:
        module = importlib.import_module("mine_a")
        assert module.late() == 2  # also once it runs
        with pytest.raises(ModuleNotFoundError):
            import optional_of_a_library  # type: ignore[import-not-found]  # noqa: F401
    finally:
        remove(finder)
    sys.modules.pop("mine_b")
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module("mine_b")


def test_what_reads_like_a_class_path() -> None:
    content = {
        "model": {"class_path": "mine.Net"},
        "x": ["../photos.zip", "runs/a.b", {"y": "theirs.sub.F"}],
        "z": 1.5,
    }
    assert named_modules(["--trainer.callbacks=own.Callback", *texts_of(content)]) == {
        "own",
        "mine",
        "theirs",
    }
    assert named_modules(["--model", "{class_path: mine.Net}", "1.5", "--a.b"]) == {"mine"}
    assert named_modules(["--model.init_args.target", "own:classify", "hf://owner/file"]) == {"own"}


def test_a_file_that_stands_before_a_shipped_config_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    Path("gnn_node_karate").write_text("model: zoo.NodeClassifier\n")
    Arguments("fit", ["--config=gnn_node_karate"])
    out = capsys.readouterr().out
    assert out.startswith("zoo: config gnn_node_karate of the current folder, not the shipped ")
    assert out.count("\n") == 1
    Path("other.yaml").write_text("model: zoo.NodeClassifier\n")
    Arguments("fit", ["--config=other.yaml", "--config=trainer/cpu"])
    assert capsys.readouterr().out == ""
