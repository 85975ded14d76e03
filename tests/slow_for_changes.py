"""``pytest --slow-for REVISION``: the slow tests that belong to what changed since a revision.

They run cheapest first by ``slow_seconds.json``. None starts that would not end within ``--slow-seconds``;
those left out are named. The table comes from a run of all of them:
``pytest -m slow --durations=0 > slow.log; python tests/slow_for_changes.py slow.log``.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterable
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
TABLE = Path(__file__).with_name("slow_seconds.json")
UNKNOWN = 30.0  # seconds of a test that the table does not know
LATE = "its time is used up"


def changed_files(revision: str) -> list[str] | None:
    """Files that differ from ``revision``, or None where the history does not reach back to it."""
    command = ["git", "diff", "--name-only", "--no-renames", revision, "--"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    return done.stdout.split() if done.returncode == 0 else None


@cache
def users(module: str) -> list[str]:
    """Packages of methods whose code names a shared module: ``zoo/dtr`` for ``zoo.diffusion``."""
    word = re.compile(rf"\bzoo\.{re.escape(module)}\b")
    files = (p for p in (ROOT / "zoo").glob("*/**/*.py") if word.search(p.read_text()))
    return sorted({str(p.parent.relative_to(ROOT)) for p in files})


def configs_that_use(names: Iterable[str]) -> list[str]:
    """Configs that name one of some public classes."""
    words = [re.compile(rf"\b{re.escape(name)}\b") for name in names]
    texts = {p.stem: p.read_text() for p in (ROOT / "configs").glob("*.yaml")}
    return sorted(stem for stem, text in texts.items() if any(word.search(text) for word in words))


def public_names(folder: Path, root: str) -> list[str]:
    """Public classes that are defined under a folder: ``zoo.DTR`` under ``zoo/dtr``."""
    text = "".join(p.read_text() for p in folder.rglob("*.py")) if folder.is_dir() else ""
    return [f"{root}.{name}" for name in re.findall(r"^class (\w+)\(", text, flags=re.M)]


def belonging(file: str) -> list[str]:
    """What the node ids of the slow tests of a changed file contain."""
    path = Path(file)
    room = path.parts[1] if len(path.parts) > 2 else path.stem
    if path.parts[:2] == ("tests", "fuzz"):
        return ["tests/fuzz/"]
    if path.parts[0] == "tests":
        return [file] if path.name.startswith("test_") else []
    if path.parts[0] == "configs":
        kind = {"claims": "evidence/compare", "sweeps": "evidence/sweep", "trainer": "engine"}.get(room)
        return [f"[{path.stem}", f"-{path.stem}"] if kind is None else [f"tests/zoo/{kind}/"]
    if path.parts[0] == "datamodules":
        folder = ROOT / "datamodules" / room
        cases = configs_that_use(public_names(folder, "datamodules")) if room != "loading" else []
        tests = ["tests/datamodules/", "tests/fuzz/"] if room == "loading" else [f"tests/datamodules/{room}/"]
        return [*tests, *(f"[{c}]" for c in cases)]
    if path.parts[0] == "zoo" and room in ("engine", "hub", "evidence"):
        return [f"tests/zoo/{room}/"]
    if path.parts[0] == "zoo":
        home = path.parent if room != path.stem else path.with_suffix("")
        shared = room in ("nn", "metrics", "diffusion", "randomness", "reports", "drawing")
        own = [f"tests/{package}/" for package in users(room)] if shared else ["tests/zoo/hub/test_export"]
        cases = configs_that_use(public_names(ROOT / home, "zoo"))
        benchmark = f"gnn_{home.name}" if room == "graphs" else room
        return [f"tests/{home}/", f"benchmark_still_runs[test_{benchmark}.", *own, *(f"[{c}]" for c in cases)]
    everywhere = ("pyproject.toml", "constraints.txt", "cli.py")
    return ["tests/zoo/engine/", "tests/zoo/hub/", "tests/test_packaging"] if file in everywhere else []


def add_options(parser: pytest.Parser) -> None:
    group = parser.getgroup("slow tests")
    group.addoption("--slow-for", metavar="REVISION", help="slow tests of what changed since REVISION")
    group.addoption("--slow-seconds", type=float, default=1200.0, help="time for --slow-for (1200)")


def start(config: pytest.Config) -> None:
    options = config.option
    if not options.slow_for:
        return
    options.markexpr = "slow"
    config.stash[_BEGAN] = time.monotonic()
    if getattr(options, "numprocesses", 0) is None and not hasattr(config, "workerinput"):
        options.numprocesses, options.dist, options.maxschedchunk = 2, "load", 1  # in order


_BEGAN = pytest.StashKey[float]()


@cache
def seconds() -> dict[str, float]:
    known: dict[str, float] = json.loads(TABLE.read_text()) if TABLE.is_file() else {}
    return known


def select(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Keep the slow tests of the changed files, cheapest first."""
    if not config.option.slow_for:
        return
    parts = {part for file in changed_files(config.option.slow_for) or [] for part in belonging(file)}
    chosen = {item.nodeid for item in items if any(part in item.nodeid for part in parts)}
    config.hook.pytest_deselected(items=[item for item in items if item.nodeid not in chosen])
    kept = (item for item in items if item.nodeid in chosen)
    items[:] = sorted(kept, key=lambda item: seconds().get(item.nodeid, UNKNOWN))


def skip_late(item: pytest.Item) -> None:
    began = item.config.stash.get(_BEGAN, None)
    if began is None:
        return
    left = item.config.option.slow_seconds - (time.monotonic() - began)
    if seconds().get(item.nodeid, UNKNOWN) > left:
        pytest.skip(LATE)


def report(reporter: pytest.TerminalReporter) -> None:
    revision = reporter.config.option.slow_for
    if revision and changed_files(revision) is None:
        reporter.write_line(f"no slow tests for changes: the history does not reach back to {revision}")
    late = [r.nodeid for r in reporter.stats.get("skipped", []) if LATE in str(r.longrepr)]
    for nodeid in late:
        reporter.write_line(f"slow test not run, {LATE}: {nodeid}")


def record(log: Path) -> None:
    """Write the table from the durations of a log."""
    found: Counter[str] = Counter()
    for line in log.read_text().splitlines():
        if match := re.match(r"([\d.]+)s (?:call|setup) +(tests/.*)", line):
            found[match[2].rstrip()] += float(match[1])
    rounded = {name: round(value, 1) for name, value in sorted(found.items())}
    TABLE.write_text(json.dumps(rounded, indent=0) + "\n")


if __name__ == "__main__":
    record(Path(sys.argv[1]))
