"""The page on adding a method, followed to the letter in a copy of the checkout."""

from __future__ import annotations

import json
import os
import re
import runpy
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from checkout import ROOT, copy_tracked

PAGE = ROOT / "docs" / "pages" / "add_method.md"
OWN = ("zoo/autoencoder/", "tests/zoo/autoencoder/", "configs/autoencoder", "docs/pages/autoencoder.md")
MADE = {
    "tests/golden/autoencoder_digits.json",
    "zoo/hub/files/autoencoder_digits.safetensors",
    "docs/pages/img/autoencoder_digits.png",
}
"""What commands of the page write: whole files here, and an entry and a row in the following two."""
FILLED = {"zoo/hub/registry.yaml", "README.md"}
TYPES = "zoo/__init__.py"
CHECKS = ("tests/zoo/autoencoder", "tests/test_docs.py", "tests/zoo/test_round_trip.py")
CHECKS += ("tests/zoo/test_doors.py", "tests/zoo/hub/test_registry.py", "tests/zoo/hub/test_catalog.py")
WORDS = "utoencoder or readme or declared or api or doors or described or page or bundled"

Step = tuple[str, str]
"""Language or title of a block, and its content."""


def steps(part: str) -> Iterator[Step]:
    """Blocks of a part of the page; those of conventions at its end belong to no step."""
    text = re.search(rf"^## {part}.*?(?=^## |^Conventions|\Z)", PAGE.read_text(), flags=re.M | re.S)
    assert text is not None
    for language, title, code in re.findall(
        r'^```(\w+)(?: title="(.*?)")?\n(.*?)^```', text[0], flags=re.M | re.S
    ):
        yield title or language, code


def files(folder: Path) -> dict[str, bytes]:
    """What git would see."""
    paths = (p.relative_to(folder) for p in folder.rglob("*") if p.is_file())
    ours = (p for p in paths if p.parts[0] != "runs" and "__pycache__" not in p.parts)
    return {p.as_posix(): (folder / p).read_bytes() for p in ours}


def follow(part: str) -> None:
    """Do what the page says, in the working folder."""
    import cli

    for name, code in steps(part):
        if name == "bash":
            for line in code.splitlines():
                print("$", line, flush=True)
                run_line(shlex.split(line, comments=True), line, cli.main)
        elif name == "python":
            exec(code, {})
        elif name.endswith("under TYPE_CHECKING"):
            path = Path(name.partition(",")[0])
            block = "if TYPE_CHECKING:\n"
            assert path.read_text().count(block) == 1
            path.write_text(path.read_text().replace(block, block + code))
        else:
            Path(name).write_text(code)


def run_line(words: list[str], line: str, zoo_command: object) -> None:
    if words[0] == "zoo":
        flags = ["--trainer.enable_progress_bar=false", "--trainer.accelerator=cpu"]
        assert zoo_command([*words[1:], *flags]) == 0  # type: ignore[operator]
    elif words[0] == "python":
        sys.argv = words[1:]
        runpy.run_path(words[1], run_name="__main__")
    else:
        subprocess.run(["bash", "-ec", line], check=True)


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy in which the page has been followed; before.json holds what it was."""
    folder = tmp_path_factory.mktemp("checkout") / "copy"
    copy_tracked(folder)
    (folder / "before.json").write_text(json.dumps({k: v.hex() for k, v in files(folder).items()}))
    in_process(folder, "follow('1. ')", "follow('2. ')")
    return folder


def in_process(folder: Path, *calls: str) -> str:
    """Each call in a Python of its own that knows the copy and not this checkout."""
    environment = {**os.environ, "PYTHONPATH": f"{folder}:{folder / 'tests'}"}
    output = ""
    for call in calls:
        code = f"import sys; from test_add_method import *; sys.exit({call})"
        command = [sys.executable, "-c", code]
        done = subprocess.run(
            command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        assert done.returncode == 0, done.stdout[-4000:]
        output += done.stdout
    return output


def test_a_module_of_ones_own_trains_and_resumes(checkout: Path) -> None:
    run = checkout / "runs" / "autoencoder"
    assert [p.name for p in run.iterdir()] == ["version_0"]
    assert (run / "version_0" / "curves.png").is_file()
    checkpoint = torch.load(run / "version_0" / "checkpoints" / "best.ckpt", weights_only=True)
    assert (checkpoint["hyper_parameters"]["code"], checkpoint["global_step"]) == (16, 800)
    rows = (run / "version_0" / "metrics.csv").read_text().splitlines()[1:]
    losses = [float(row.split(",")[1]) for row in rows]
    assert losses[-1] < 0.5 * losses[0]


def test_a_method_touches_its_own_folders_and_one_line(checkout: Path) -> None:
    before = {k: bytes.fromhex(v) for k, v in json.loads((checkout / "before.json").read_text()).items()}
    after = files(checkout)
    del after["before.json"]
    assert before.keys() <= after.keys()
    elsewhere = {k for k, v in after.items() if v != before.get(k) and not k.startswith(OWN)}
    assert elsewhere == {TYPES, *FILLED, *MADE}
    for name in (TYPES, *FILLED):
        old, new = before[name].decode().splitlines(), after[name].decode().splitlines()
        assert [line for line in old if line not in new] == []
        added = [line for line in new if line not in old]
        assert len(added) == {TYPES: 1, "README.md": 1}.get(name, len(added))
        assert all("utoencoder" in line or name == "zoo/hub/registry.yaml" for line in added)


def test_a_method_of_the_page_is_a_member_of_the_zoo(checkout: Path) -> None:
    run = checkout / "runs" / "autoencoder_digits"
    assert (run / "version_2" / "predictions" / "samples.png").is_file()
    listed = in_process(checkout, "__import__('cli').main(['list'])")
    for row in (
        "zoo.Autoencoder +A linear",
        "autoencoder_digits +A linear",
        "autoencoder_digits +zoo.Autoencoder,",
    ):
        assert re.search(rf"^  {row}", listed, flags=re.M)
    (row,) = [line for line in (checkout / "README.md").read_text().splitlines() if "zoo.Autoencoder" in line]
    assert row.endswith("| `autoencoder_digits` |  | bundled |")
    out = in_process(checkout, f"pytest.main(['-p', 'no:cacheprovider', '-rA', *CHECKS, '-k', {WORDS!r}])")
    for check in (
        "test_the_bundled_weights_come_near_to_the_principal_components",
        "test_a_module_built_in_python_survives_a_checkpoint[Autoencoder-arguments",
        "test_command_measures_the_registered_metrics[autoencoder_digits]",
        "test_readme_table_follows_from_the_declarations",
        "test_every_declared_method_has_a_page_and_every_page_a_place",
        "test_every_room_has_a_door",
        "test_the_gallery_has_an_entry_for_each_page_of_methods",
    ):
        assert re.search(rf"^PASSED \S+::{re.escape(check)}", out, flags=re.M), check
