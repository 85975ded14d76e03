"""Slow tests are chosen by what changed, cheapest first, and none is left out silently."""

from __future__ import annotations

import pytest
import slow_for_changes
from slow_for_changes import LATE, belonging, changed_files


def chosen(file: str, *ids: str) -> list[str]:
    return [i for i in ids if any(part in i for part in belonging(file))]


def test_a_file_brings_its_room_its_users_and_its_configs() -> None:
    link, node = "tests/zoo/graphs/link/test_x.py::test", "tests/zoo/graphs/node/test_x.py::test"
    dtr, config = "tests/zoo/dtr/test_x.py::test", "tests/test_golden.py::test[dtr_dit_digits]"
    digits = "tests/datamodules/images/test_digits.py::test"
    benchmark = "tests/test_benchmarks.py::test_benchmark_still_runs[test_dtr.py]"
    everything = (link, node, dtr, config, digits, benchmark)
    assert chosen("zoo/graphs/link/network.py", *everything) == [link]
    assert chosen("zoo/graphs/random_features.py", *everything) == [link, node]
    assert chosen("zoo/dtr/routing.py", *everything) == [dtr, config, benchmark]
    assert chosen("zoo/diffusion/schedules.py", *everything) == [dtr]
    assert chosen("datamodules/images/digits.py", *everything) == [config, digits]
    assert chosen("configs/dtr_dit_digits.yaml", *everything) == [config]
    assert chosen("docs/pages/dtr.md", *everything) == []


def test_engine_and_pyproject_bring_the_processes() -> None:
    engine = "tests/zoo/engine/test_distributed.py::test[ddp]"
    for file in ("zoo/engine/runner.py", "pyproject.toml", "configs/trainer/ddp.yaml"):
        assert chosen(file, engine, "tests/zoo/lds/test_x.py::test") == [engine]


def test_a_history_that_is_too_short_is_told_from_no_change() -> None:
    assert changed_files("HEAD~100000") is None


def test_what_does_not_fit_into_the_time_is_skipped(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    item = request.node
    monkeypatch.setattr(slow_for_changes, "seconds", lambda: {item.nodeid: 50.0})
    monkeypatch.setattr(slow_for_changes.time, "monotonic", lambda: 100.0)
    monkeypatch.setitem(item.config.stash._storage, slow_for_changes._BEGAN, 60.0)
    monkeypatch.setattr(item.config.option, "slow_seconds", 90.0)
    slow_for_changes.skip_late(item)
    monkeypatch.setattr(item.config.option, "slow_seconds", 89.0)
    with pytest.raises(pytest.skip.Exception, match=LATE):
        slow_for_changes.skip_late(item)
