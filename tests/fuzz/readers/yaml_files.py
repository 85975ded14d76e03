"""YAML that a user hands in: configs, and the files of sweeps and claims."""

from __future__ import annotations

from pathlib import Path

from fuzz.forked import Reader

from zoo.engine.configs import read_config, under_public_names
from zoo.hub.catalog import read_mapping

CONFIG = """\
# a config with what YAML offers: anchors, merges, numbers, dates, texts of several lines
model:
  class_path: zoo.DTR
  init_args: &sizes
    width: 16
    depth: 0x2
    optimizer: {class_path: torch.optim.AdamW, init_args: {lr: 1.0e-3, betas: [0.9, 0.999]}}
data: {class_path: datamodules.Digits, init_args: {<<: {batch_size: 8}, name: "two\\nlines", day: 2001-12-14}}
trainer:
  max_steps: !!int 10
  callbacks: [&one {class_path: lightning.pytorch.callbacks.Timer}, *one]
  default_root_dir: |
    runs
seed_everything: 1_000
"""
SWEEP = """\
program: zoo
command: [zoo, fit, --config, dtr_dit_digits, "${args}"]
method: grid
metric: {name: val/mse, goal: minimize}
parameters:
  model.init_args.alpha: {values: &values [1, 2.5, null, true]}
  model.init_args.beta: {values: *values}
"""


def _write(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.write_text(text)
    return path


def _read_config(path: Path) -> None:
    under_public_names(read_config(path))


def _read_sweep(path: Path) -> None:
    read_mapping(path, ("method", "parameters"))


READERS = [
    Reader("YAML of a config", lambda folder: _write(folder, "config.yaml", CONFIG), _read_config),
    Reader("YAML of a sweep", lambda folder: _write(folder, "sweep.yaml", SWEEP), _read_sweep),
]
