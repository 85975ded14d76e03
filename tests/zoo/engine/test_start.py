"""What a run imports before its first step, and what a user sees meanwhile."""

from __future__ import annotations

import gc
import subprocess
import sys
from pathlib import Path

import pytest

import cli
from zoo.engine.runner import ZooCLI

ROOT = Path(cli.__file__).parent

# Which of our own modules asks for what, seen at the import statement: torchmetrics imports some of them too.
WATCHED = """
import builtins, sys
import lightning.pytorch.cli
watched = {"matplotlib", "transformers", "diffusers", "sklearn", "scipy", "networkx", "skimage", "h5py"}
asked, plain = set(), builtins.__import__

def spy(name, variables=None, *rest, **more):
    importer = str((variables or {}).get("__name__"))
    if importer.partition(".")[0] in ("zoo", "datamodules", "cli") and name.partition(".")[0] in watched:
        asked.add(f"{importer} {name}")
    return plain(name, variables, *rest, **more)

builtins.__import__ = spy
import cli
code = cli.main(sys.argv[1:])
import zoo
homes = {package for package, _ in zoo._DECLARED.values()} - {"zoo.graphs", "zoo.metrics"}
others = [m for m in sys.modules if m.rpartition(".")[0] in homes]
tasks = [m for m in sys.modules if m.startswith("zoo.graphs.") and m.split(".")[2] != "node"]
print("ASKED", code, sorted(asked), others, tasks)
"""


def test_a_line_is_seen_before_the_heavy_imports() -> None:
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "import cli; cli.main(['fit', '--config', 'gnn_node_karate'])"
    )
    out = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert out.stdout == "zoo: fit: importing torch and lightning\n"
    assert "Traceback" not in out.stderr


def test_a_mistake_in_a_config_is_told_without_them(tmp_path: Path) -> None:
    (tmp_path / "bad.yaml").write_text("model: [")
    code = "import sys; sys.modules['torch'] = None\nimport cli; cli.main(['fit', '--config', sys.argv[1]])"
    for name, word in (("gnn_node_karat", "did you mean gnn_node_karate"), (tmp_path / "bad.yaml", "line 1")):
        command = [sys.executable, "-c", code, str(name)]
        out = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
        assert out.stdout == ""
        assert word in out.stderr


def test_answers_begin_with_themselves() -> None:
    code = "import sys; sys.modules['torch'] = None\nimport cli; cli.main(['fit', '--print_config'])"
    out = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert out.stdout == ""


def test_a_small_fit_imports_what_it_uses(tmp_path: Path) -> None:
    flags = ["--trainer.max_steps=1", "--trainer.enable_progress_bar=false", "--trainer.limit_val_batches=0"]
    arguments = ["fit", "--config=gnn_node_karate", f"--trainer.default_root_dir={tmp_path}", *flags]
    out = subprocess.run(
        [sys.executable, "-c", WATCHED, *arguments], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert out.stdout.splitlines()[-1] == "ASKED 0 [] [] []", out.stdout[-500:] + out.stderr[-500:]


@pytest.mark.parametrize("config", ["gnn_node_karate", "no_such_config"])
def test_the_collector_of_garbage_rests_while_a_run_starts(
    config: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[bool] = []
    started = ZooCLI.before_instantiate_classes

    def starting(self: ZooCLI) -> None:
        seen.append(gc.isenabled())
        started(self)

    monkeypatch.setattr(ZooCLI, "before_instantiate_classes", starting)
    monkeypatch.setattr(ZooCLI, "before_fit", lambda self: seen.append(gc.isenabled()), raising=False)
    monkeypatch.delitem(sys.modules, "lightning")
    flags = ["--trainer.max_steps=1", "--trainer.enable_progress_bar=false"]
    code = cli.main(["fit", f"--config={config}", f"--trainer.default_root_dir={tmp_path}", *flags])
    gc.unfreeze()
    assert gc.isenabled()
    assert (code, seen) == ((0, [False, True]) if config == "gnn_node_karate" else (1, []))
