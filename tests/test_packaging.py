"""What a wheel holds, and that it works away from the checkout."""

from __future__ import annotations

import ast
import fnmatch
import importlib
import os
import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path
from typing import Any

import pytest
from checkout import copy_tracked

import zoo
from zoo.hub.packaging import config_files

ROOT = Path(zoo.__file__).resolve().parent.parent
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())
CONSTRAINTS = (ROOT / "constraints.txt").read_text()
SETUPTOOLS: dict[str, Any] = PROJECT["tool"]["setuptools"]
pytestmark = pytest.mark.skipif(not (ROOT / "pyproject.toml").exists(), reason="needs a checkout")


def source_files() -> list[Path]:
    return [ROOT / "cli.py", *(p for room in ("zoo", "datamodules") for p in (ROOT / room).rglob("*.py"))]


def test_packages_are_found_and_not_kept_by_hand() -> None:
    assert SETUPTOOLS["packages"]["find"] == {
        "include": ["zoo", "zoo.*", "datamodules", "datamodules.*"],
        "namespaces": False,
    }
    assert SETUPTOOLS["cmdclass"] == {"build_py": "zoo.hub.packaging.BuildPy"}
    assert SETUPTOOLS["py-modules"] == ["cli"]


def test_every_folder_with_code_is_a_package() -> None:
    for path in source_files()[1:]:
        assert (path.parent / "__init__.py").is_file(), f"{path.parent} has no __init__.py"


def test_every_data_file_is_package_data() -> None:
    assert {p for p in Path("configs").rglob("*") if p.is_file()} == set(config_files())
    for package, patterns in SETUPTOOLS["package-data"].items():
        for path in (ROOT / package).rglob("*"):
            if path.is_dir() or path.suffix in (".py", ".pyc"):
                continue
            name = path.relative_to(ROOT / package).as_posix()
            assert any(fnmatch.fnmatch(name, p) for p in patterns), f"{package}/{name} is not shipped"


def test_the_console_script_exists() -> None:
    module, _, function = PROJECT["project"]["scripts"]["zoo"].partition(":")
    assert callable(getattr(importlib.import_module(module), function))


def test_version_is_that_of_the_package() -> None:
    assert SETUPTOOLS["dynamic"]["version"] == {"attr": "zoo.__version__"}
    assert zoo.__version__.count(".") == 2


def imported_names(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.add(node.module.split(".")[0])
    return names


def test_nothing_imports_torchvision_or_torchaudio() -> None:
    """They have no CPU build in the pinned set; timm and lpips import them."""
    files = [*source_files(), *(ROOT / "tests").rglob("*.py")]
    for path in files:
        assert not imported_names(path) & {"torchvision", "torchaudio", "timm", "lpips"}, path


DISTRIBUTIONS = {
    "yaml": "pyyaml",
    "sklearn": "scikit-learn",
    "PIL": "pillow",
    "huggingface_hub": "huggingface-hub",
    "torch_geometric": "torch-geometric",
    "onnx_ir": "onnx-ir",
    "skimage": "scikit-image",
    "rouge_score": "rouge-score",
    "lm_eval": "lm-eval",
    "pynvml": "nvidia-ml-py",
}
STACK = {"torch", "lightning", "torchmetrics", "transformers", "torch-geometric", "diffusers", "wandb"}
"""What the zoo stands on by choice, imported or not."""
BEHIND = {"jsonargparse": "lightning.pytorch.cli", "onnx": "torch.onnx", "onnxscript": "torch.onnx"}
"""Needed by a library for what the zoo asks of it."""
EXTRAS = ("onnx", "media", "text", "chem", "language", "green")
READ = {"aclsum", "chitchat-dataset", "django"}
"""Packages whose files are read by path."""
ASKED_FOR = {"datasets", "lm-eval"}
"""Imported where a user asks for a data set of the hub, with a line that names it where it is missing."""


def declared_names(*extras: str) -> set[str]:
    optional = PROJECT["project"]["optional-dependencies"]
    declared = [*PROJECT["project"]["dependencies"], *(d for extra in extras for d in optional[extra])]
    return {re.split(r"[\[>=<]", d)[0] for d in declared}


def imports() -> dict[str, Path]:
    """Distribution -> a file that imports it."""
    ours = {*sys.stdlib_module_names, "zoo", "datamodules", "cli", "setuptools"}  # which builds
    return {DISTRIBUTIONS.get(m, m): path for path in source_files() for m in imported_names(path) - ours}


def test_every_import_is_a_declared_dependency() -> None:
    declared = declared_names(*EXTRAS) | ASKED_FOR
    for name, path in imports().items():
        assert name in declared, f"{path} imports {name}, which pyproject.toml does not name"


def test_every_declared_dependency_is_imported() -> None:
    idle = declared_names("onnx", "media", "text") - imports().keys() - STACK - BEHIND.keys() - READ
    assert idle == set(), "nothing imports them: take them out of pyproject.toml and constraints.txt"


def test_every_dependency_is_pinned() -> None:
    pinned = {n.replace("_", "-") for n in re.findall(r"^([\w-]+)==", CONSTRAINTS.lower(), flags=re.M)}
    declared = {n.lower() for n in declared_names(*EXTRAS, "test", "docs", "dev")}
    assert declared - pinned == {"lightning-zoo"}


@pytest.mark.slow
def test_an_installed_wheel_trains_from_an_empty_folder(tmp_path: Path) -> None:
    source = tmp_path / "source"
    copy_tracked(source)  # building writes into the source tree
    _run(
        [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(tmp_path / "dist")],
        source,
    )
    (wheel,) = (tmp_path / "dist").glob("lightning_zoo-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    for path in source_files():
        assert path.relative_to(ROOT).as_posix() in names
    for path in (ROOT / "configs").rglob("*.yaml"):
        assert f"zoo/configs/{path.relative_to(ROOT / 'configs').as_posix()}" in names
    assert {"zoo/hub/registry.yaml", "zoo/py.typed"} <= names
    assert not [n for n in names if n.startswith(("tests/", "docs/"))]

    target, work = tmp_path / "site", tmp_path / "work"
    work.mkdir()
    _run([sys.executable, "-m", "pip", "install", "--no-deps", "--target", str(target), str(wheel)], work)
    # the wheel and no checkout
    environment = {**os.environ, "PYTHONPATH": str(target)}
    zoo_command = [sys.executable, str(target / "bin" / "zoo")]
    version = _run([*zoo_command, "--version"], work, environment)
    assert f"from {target / 'zoo'} " in version
    assert "dtr_dit_digits" in _run([*zoo_command, "list"], work, environment)
    flags = ["--trainer.max_steps=3", "--trainer.limit_val_batches=0", "--trainer.enable_progress_bar=false"]
    out = _run([*zoo_command, "fit", "--config", "dtr_dit_digits", *flags], work, environment)
    assert "zoo: 3 steps in" in out
    assert (work / "runs/dtr_dit_digits/version_0/checkpoints/step=00000003.ckpt").is_file()


def _run(command: list[str], folder: Path, environment: dict[str, str] | None = None) -> str:
    result = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, f"{command}\n{result.stdout[-2000:]}\n{result.stderr[-3000:]}"
    return result.stdout
