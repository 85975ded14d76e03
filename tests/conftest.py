"""What every test starts from: one thread, known seeds, no seed left over from another test.

Folders of tests run on two workers, a file or a test alone starts sooner without; ``-n`` and
``-p no:xdist`` decide otherwise.
"""

from __future__ import annotations

import os

# before torch reads them; for the processes that tests start, too
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import gc
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import slow_for_changes
import torch

BENCHMARKS = Path(__file__).parent / "benchmarks"


def pytest_addoption(parser: pytest.Parser) -> None:
    slow_for_changes.add_options(parser)


@pytest.hookimpl(tryfirst=True)
def pytest_cmdline_main(config: pytest.Config) -> None:
    slow_for_changes.start(config)
    paths = [config.invocation_params.dir / argument.partition("::")[0] for argument in config.args]
    folders = all(p.is_dir() and not p.resolve().is_relative_to(BENCHMARKS) for p in paths)
    options = config.option
    undecided = getattr(options, "numprocesses", 0) is None and options.dist == "no" and not options.usepdb
    if undecided and folders and not hasattr(config, "workerinput"):
        options.numprocesses, options.dist = 2, "worksteal"


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    slow_for_changes.select(config, items)


def pytest_collection_finish() -> None:
    gc.collect()
    gc.freeze()  # a tenth of the suite's time went into looking at the modules of torch again and again


def pytest_runtest_setup(item: pytest.Item) -> None:
    slow_for_changes.skip_late(item)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    slow_for_changes.report(terminalreporter)


@pytest.fixture(autouse=True)
def _known_state(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    np.random.seed(0)
    monkeypatch.delenv("PL_GLOBAL_SEED", raising=False)
    # The command line of a second process is this one's: it would run all tests again, and Lightning kills
    # the first one when it fails.
    if module := sys.modules.get("lightning.pytorch.strategies.launchers.subprocess_script"):
        launcher = module._SubprocessScriptLauncher
        start = launcher._call_children_scripts

        def refuse_more_than_one(self: Any) -> None:
            assert self.num_processes == 1, "several devices in the process of the tests; use subprocess"
            start(self)

        monkeypatch.setattr(launcher, "_call_children_scripts", refuse_more_than_one)
    yield
    torch.set_default_dtype(torch.float32)
