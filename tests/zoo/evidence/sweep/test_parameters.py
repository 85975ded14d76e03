"""Sweep files: what W&B takes is taken, with W&B's values; what cannot run here is one line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from unittest import mock

import jsonschema
import numpy as np
import optuna
import pytest
import yaml
from fakes.sweeps import COMMAND, sweep_file

from zoo.evidence.compare.claim import read_claim
from zoo.evidence.sweep.file import Sweep, read_sweep
from zoo.evidence.sweep.parameters import Parameter
from zoo.hub.catalog import config_folder, find_config

SHIPPED = sorted((config_folder() / "sweeps").glob("*.yaml"))
SCHEMA = json.loads((Path(__file__).parent / "wandb_schema" / "schema.json").read_text())


def parameter(tmp_path: Path, method: str = "random", **entry: Any) -> Parameter:
    return read_sweep(sweep_file(tmp_path, method=method, parameters={"x": entry})).parameters[0]


@pytest.mark.parametrize(
    ("entry", "distribution"),
    [
        ({"value": 3}, "constant"),
        ({"values": [1, 2]}, "categorical"),
        ({"values": [1, 2], "probabilities": [0.5, 0.5]}, "categorical_w_probabilities"),
        ({"min": 1, "max": 4}, "int_uniform"),
        ({"min": 1.0, "max": 4.0}, "uniform"),
        ({"min": 1, "max": 4, "distribution": "uniform"}, "uniform"),
    ],
)
def test_distribution_is_inferred_as_wandb_does(
    tmp_path: Path, entry: dict[str, Any], distribution: str
) -> None:
    assert parameter(tmp_path, **entry).distribution == distribution


@pytest.mark.parametrize(("entry", "draws"), [
    ({"min": 0.1, "max": 0.5}, {0.1: 0.1, 0.3: 0.3}),
    ({"min": 2, "max": 9}, {2: 2, 9: 9}),
    ({"distribution": "q_uniform", "min": 0, "max": 64, "q": 8}, {3.9: 0, 4.1: 8, 12.0: 16, 61: 64}),
    ({"distribution": "q_uniform", "min": 0, "max": 1, "q": 0.25}, {0.3: 0.25, 0.9: 1.0}),
    ({"distribution": "q_uniform", "min": 0.0, "max": 9.0}, {3.4: 3.0, 3.6: 4.0}),
    ({"distribution": "log_uniform_values", "min": 1e-4, "max": 1e-2}, {1e-3: 1e-3}),
    ({"distribution": "q_log_uniform_values", "min": 1, "max": 256, "q": 16}, {7.0: 0, 33.0: 32}),
    ({"values": ["a", [1, 2], True]}, {'"a"': "a", "[1, 2]": [1, 2], "true": True}),
    ({"values": ["a", "b", "c"], "probabilities": [0.5, 0.0, 0.5]},
     {0.0: "a", 0.49: "a", 0.5: "c", 1.0: "c"}),
    ({"value": [16, 32]}, {None: [16, 32]}),
])  # fmt: skip
def test_draws_become_values(tmp_path: Path, entry: dict[str, Any], draws: dict[Any, Any]) -> None:
    p = parameter(tmp_path, **entry)
    for drawn, value in draws.items():
        assert p.value(drawn) == value
        assert type(p.value(drawn)) is type(value)  # 8.0 is refused where a run expects 8


def drawn(p: Parameter, count: int = 2000) -> np.ndarray:
    sampler = optuna.samplers.RandomSampler(seed=0)
    study = optuna.create_study(sampler=sampler)
    return np.array([p.value(study.ask({"x": p.search()}).params["x"]) for _ in range(count)])


def test_random_draws_follow_the_distribution(tmp_path: Path) -> None:
    """Quartiles, each known to 3 standard errors (2,000 draws: 0.03 of the range)."""
    uniform = drawn(parameter(tmp_path, min=-2.0, max=2.0))
    assert np.quantile(uniform, [0.25, 0.5, 0.75]) == pytest.approx([-1, 0, 1], abs=0.12)
    log = drawn(parameter(tmp_path, distribution="log_uniform_values", min=1e-4, max=1.0))
    assert np.log10(np.quantile(log, [0.25, 0.5, 0.75])) == pytest.approx([-3, -2, -1], abs=0.12)
    integers = drawn(parameter(tmp_path, min=1, max=4))
    assert np.bincount(integers)[1:] == pytest.approx([500] * 4, abs=60)
    weighted = drawn(parameter(tmp_path, values=[1, 2], probabilities=[0.9, 0.1]))
    assert (weighted == 2).mean() == pytest.approx(0.1, abs=0.02)


def test_grid_has_every_point_once_in_wandbs_order(tmp_path: Path) -> None:
    """Sorted by name, the last changes fastest; q_uniform without its max, as numpy.arange."""
    parameters = {
        "z": {"distribution": "q_uniform", "min": 0, "max": 6, "q": 3},
        "c": {"value": 7},
        "a": {"values": [2, 1, 2]},
        "m": {"min": 0, "max": 1},
    }
    sweep = read_sweep(sweep_file(tmp_path, parameters=parameters))
    values = [sweep.values(point) for point in sweep.grid()]
    assert [tuple(v[k] for k in "acmz") for v in values] == [
        (a, 7, m, z) for a in (2, 1) for m in (0, 1) for z in (0, 3)
    ]


@pytest.mark.parametrize(("changes", "message"), [
    ({"method": "genetic"}, "method is grid, random, bayes, got 'genetic'"),
    ({"method": "bayes", "metric": None}, "metric is missing"),
    ({"metric": {"name": "v", "goal": "down"}}, "goal of metric is minimize or maximize, got 'down'"),
    ({"metric": {"nmae": "v"}}, "metric is missing"),
    ({"metric": {"name": "v", "gaol": "minimize"}}, "unknown key 'gaol' in metric"),
    ({"paramters": {}}, "unknown key 'paramters'; did you mean parameters?"),
    ({"scheduler": {"engine": "ax"}}, "scheduler belongs to W&B's own search"),
    ({"parameters": {}}, "parameters must be a mapping with at least one entry"),
    ({"parameters": {"x": 3}}, "parameter x must be a mapping, for example {value: 3}"),
    ({"parameters": {"x": {"mean": 3}}}, "parameter x needs value, values, or min and max; got mean"),
    ({"parameters": {"x": {"value": 1, "q": 2}}}, "unknown key 'q'; constant takes value"),
    ({"parameters": {"x": {"values": []}}}, "values must be a list with at least one entry"),
    ({"parameters": {"x": {"values": [None]}}}, "the value null would reach the run as the word None"),
    ({"parameters": {"x": {"values": ["1e-4"]}}}, "YAML reads 1e-4 as text; write 0.0001"),
    ({"parameters": {"x": {"min": "1e-5", "max": 1.0}}}, "x: min: YAML reads 1e-5 as text; write 1.0e-05"),
    ({"parameters": {"x": {"min": 1, "max": 2.0}}}, "min 1 and max 2.0 are ambiguous"),
    ({"parameters": {"x": {"min": 2, "max": 2}}}, "min 2 is not less than max 2"),
    ({"parameters": {"x": {"min": 0.0, "max": 1.0}}}, "a grid takes value, values, int_uniform or q_"),
    ({"parameters": {"x": {"distribution": "log_uniform_values", "min": 0, "max": 1}}},
     "min of log_uniform_values must be above 0"),
    ({"parameters": {"x": {"distribution": "log_uniform", "min": -3, "max": 1}}}, "use log_uniform_values"),
    ({"parameters": {"x": {"distribution": "beta"}}}, "'beta' is not run here, only constant, categorical"),
    ({"parameters": {"x": {"values": [1, 2], "probabilities": [0.5, 0.6]}}},
     "probabilities must be >= 0 and sum to 1"),
    ({"run_cap": 0}, "run_cap must be an integer above 0"),
    ({"command": ["zoo", "fit", "--config", "digit_classifier_digits"]}, "command does not use ${args}"),
    ({"command": ["python", "train.py", "${args}"]}, "command must run `zoo fit`"),
    ({"command": [*COMMAND, "${args_json_file}"]}, "command has ${args_json_file}; run locally are ${env}"),
    ({"command": ["zoo", "fit", "--config", "digit_clasifier_digits", "${args}"]}, "did you mean digit_cl"),
])  # fmt: skip
def test_refusals_are_one_line(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError) as error:
        read_sweep(sweep_file(tmp_path, **changes))
    assert message in str(error.value)
    assert "\n" not in str(error.value)
    assert "toy.yaml" in str(error.value)


def test_a_search_without_end_needs_a_count(tmp_path: Path) -> None:
    sweep = read_sweep(sweep_file(tmp_path, method="random"))
    with pytest.raises(ValueError, match="give --count N, or run_cap"):
        sweep.trials(None)
    for count in (0, -1):
        with pytest.raises(ValueError, match="--count must be at least 1"):
            sweep.trials(count)
    assert read_sweep(sweep_file(tmp_path, method="random", run_cap=7)).trials(None) == 7
    grid = read_sweep(sweep_file(tmp_path))
    assert (grid.trials(None), grid.trials(4), grid.trials(99)) == (6, 4, 6)


def agents_words(sweep: Sweep, values: dict[str, Any]) -> list[str]:
    """What the agent of the installed wandb starts; the server sends it ``flags``."""
    from wandb import wandb_agent

    agent = wandb_agent.Agent(api=mock.Mock(), queue=mock.Mock())
    agent._sweep_command = list(sweep.command)
    command = {
        "run_id": "r",
        "program": sweep.program,
        "args": {k: {"value": v} for k, v in sweep.flags(values).items()},
    }
    with mock.patch.object(wandb_agent, "AgentProcess") as process:
        agent._command_run(command)
    return list(process.call_args.kwargs["command"])


@pytest.mark.parametrize("command", [
    COMMAND,
    [*COMMAND[:-1], "--config", "trainer/wandb", "${args_no_equals}", "--seed_everything=${envvar:SEED}"],
    ["${env}", "${interpreter}", "${program}", "fit", "-c", "digit_classifier_digits",
     "${args_no_boolean_flags}"],
])  # fmt: skip
def test_the_agent_of_wandb_builds_the_same_arguments(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SEED", "5")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    for name in ("WANDB_RUN_ID", "WANDB_SWEEP_PARAM_PATH"):
        monkeypatch.setenv(name, "")  # the agent sets them for good
    parameters = {
        "flag": {"value": True},
        "off": {"value": False},
        "lr": {"value": 1e-5},
        "layers": {"value": [16, 32]},
        "text": {"value": "a b"},
        "model": {
            "parameters": {"init_args": {"parameters": {"alpha": {"value": 2}, "beta": {"value": 1.5}}}}
        },
    }
    path = sweep_file(tmp_path, parameters=parameters, command=command, program="cli.py")
    sweep = read_sweep(path)
    values = sweep.values({})
    words = sweep.words(sweep.flags(values))
    assert (words, sweep.arguments(values)[0]) == (agents_words(sweep, values), "fit")
    assert "trainer/wandb" not in sweep.arguments(values)
    if command is COMMAND:
        assert words == [
            *["/usr/bin/env", "zoo", "fit", "--config", "digit_classifier_digits"],
            *["--flag=True", "--layers=[16, 32]", "--lr=1e-05"],
            *["--model={'init_args': {'alpha': 2, 'beta': 1.5}}", "--off=False", "--text=a b"],
        ]


@pytest.mark.parametrize("path", SHIPPED, ids=lambda p: p.stem)
def test_shipped_sweeps_are_valid_for_wandb(path: Path) -> None:
    from wandb.apis.public.sweeps import _validate_config_and_fill_distribution
    from wandb.sdk.launch.sweeps.utils import load_sweep_config

    content = yaml.safe_load(path.read_text())
    jsonschema.Draft7Validator(SCHEMA).validate(content)
    assert load_sweep_config(str(path)) == content
    assert _validate_config_and_fill_distribution(content)["parameters"] == content["parameters"]
    sweep = read_sweep(path)
    values = sweep.values({p.name: p.choices[0] if p.choices else p.low for p in sweep.searched})
    assert sweep.arguments(values)[0] == "fit"
    assert not any("wandb" in word for word in sweep.arguments(values))
    assert any("wandb" in word for word in sweep.command)


def test_schema_refuses_what_wandb_refuses() -> None:
    validator = jsonschema.Draft7Validator(SCHEMA)
    good = {"method": "grid", "parameters": {"x": {"values": [1]}}}
    assert validator.is_valid(good)
    assert not validator.is_valid(good | {"paramters": {}})
    assert not validator.is_valid({"method": "random", "parameters": {"x": {"min": "1e-4", "max": 1}}})


def test_the_config_of_a_run_is_no_sweep_and_no_claim() -> None:
    path = find_config("gnn_node_sbm")
    with pytest.raises(ValueError, match=r"gnn_node_sbm.yaml is the config of a run, not a sweep"):
        read_sweep(path)
    with pytest.raises(ValueError, match=r"gnn_node_sbm.yaml is the config of a run, not a claim"):
        read_claim(path)
