"""Each mistake gives one line that says what, where and what to do, a non-zero exit code, and runs nothing.

The table is the specification: name, command line, words that the line must hold. Files that attack the
reader touch ``executed`` in the working folder when any of their code runs; it must never exist.
"""

from __future__ import annotations

import json
import os
import pickle
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from commands import of_data, of_model, of_trainer
from safetensors.torch import save_file

import cli
from zoo.hub import catalog
from zoo.hub import weights as hub

QUIET = "--trainer.enable_progress_bar=false"
TINY = (*of_model(width=16, depth=1, heads=2, sampling_steps=2), "--trainer.max_steps=2", QUIET)
CONFIG = ("--config", "dtr_dit_digits")
MARKER = "executed"


@dataclass
class Files:
    """Material of a case: a scratch folder (the working folder), a trained checkpoint and its safetensors."""

    folder: Path
    checkpoint: Path
    safetensors: Path
    patch: pytest.MonkeyPatch

    def write(self, name: str, content: str | bytes = "") -> str:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return str(path)

    def edited(self, **changes: Any) -> str:
        """The checkpoint with keys replaced; a dict given for a dict is merged into it, None removes."""
        content = torch.load(self.checkpoint, weights_only=True)
        for key, value in changes.items():
            if isinstance(value, dict) and isinstance(content.get(key), dict):
                content[key] = {**content[key], **value}
            elif value is None:
                content.pop(key)
            else:
                content[key] = value
        path = self.folder / "edited.ckpt"
        torch.save(content, path)
        return str(path)

    def foreign(self, metadata: dict[str, str] | None) -> str:
        """A safetensors file with the given metadata."""
        path = self.folder / "foreign.safetensors"
        save_file({"weight": torch.zeros(2)}, path, metadata)
        return str(path)

    def metadata(self, **changes: str) -> str:
        """The zoo's own safetensors with metadata replaced."""
        from safetensors import safe_open

        with safe_open(self.safetensors, framework="pt") as file:
            state = {k: file.get_tensor(k) for k in file.keys()}  # noqa: SIM118
            known = file.metadata()
        path = self.folder / "edited.safetensors"
        save_file(state, path, {**known, **changes})
        return str(path)

    def cut(self, source: Path) -> str:
        """The first half of a file."""
        return self.write("cut" + source.suffix, source.read_bytes()[: source.stat().st_size // 2])

    def latents(self, labels: Any = None, latents: bytes | None = None, meta: str | None = None) -> str:
        """A folder of packed latents; flags that make ``zoo.DTR`` read it are in :data:`LATENTS`."""
        folder = self.folder / "latents"
        folder.mkdir()
        (folder / "meta.json").write_text(meta or '{"scale": 0.18215, "moments": false}')
        np.save(folder / "labels.npy", np.arange(8) if labels is None else np.asarray(labels))
        if latents is None:
            np.save(folder / "latents.npy", np.zeros((8, 1, 4, 8, 8), np.float16))
        else:
            (folder / "latents.npy").write_bytes(latents)
        return f"--data.init_args.root={folder}"

    def trap(self, module: str) -> None:
        """An importable module that leaves the marker when it is imported."""
        self.write(f"{module}.py", f"open({str(self.folder / MARKER)!r}, 'w').close()\nclass DTR: pass\n")


class Touch:
    """Pickles into a call that leaves the marker."""

    def __reduce__(self) -> Any:
        return open, (MARKER, "w")


def fit(*flags: str) -> list[str]:
    return ["fit", *CONFIG, *TINY, *flags]


def model(**values: Any) -> list[str]:
    return fit(*of_model(**values))


def data(**values: Any) -> list[str]:
    return fit(*of_data(**values))


LATENTS = (
    "--data=datamodules.ImageNetLatents",
    *of_data(batch_size=8),
    *of_model(in_channels=4, num_classes=1000),
)
Build = Callable[[Files], list[str]]


def _predict(flag: str, make: Callable[[Files], str]) -> Build:
    return lambda f: ["predict", *CONFIG, QUIET, f"--{flag}={make(f)}"]


def _weights(make: Callable[[Files], str]) -> Build:
    return _predict("weights", make)


def _ckpt(make: Callable[[Files], str]) -> Build:
    return _predict("ckpt_path", make)


def _config(name: str, content: str | bytes) -> Build:
    return lambda f: ["fit", "--config", f.write(name, content)]


def _yaml(content: str) -> Build:
    return _config("t.yaml", f"{content}\ndata: datamodules.Digits\n")


def _hparams(values: Any, **changes: Any) -> Build:
    return _ckpt(lambda f: f.edited(hyper_parameters=values, **changes))


def _pickled(f: Files, name: str) -> str:
    return f.write(name, pickle.dumps({"state_dict": {}, "x": Touch()}))


def _torch_pickled(f: Files, name: str) -> str:
    torch.save({"state_dict": {}, "pytorch-lightning_version": "2.6.6", "x": Touch()}, f.folder / name)
    return str(f.folder / name)


def _official(f: Files) -> str:
    state = torch.load(f.checkpoint, weights_only=True)["state_dict"]
    torch.save({k.removeprefix("network."): v for k, v in state.items()}, f.folder / "DiT-XL-2-256x256.pt")
    return str(f.folder / "DiT-XL-2-256x256.pt")


def _foreign_class(f: Files) -> str:
    f.trap("attacker")
    return f.edited(zoo=None, hyper_parameters={"_class_path": "attacker.DTR"})


def _foreign_metadata_class(f: Files) -> str:
    f.trap("attacker")
    return f.metadata(class_path="attacker.DTR")


def _nested_class(f: Files) -> str:
    f.trap("attacker")
    return f.edited(hyper_parameters={"size": {"class_path": "attacker.DTR"}})


def _callable(f: Files) -> str:
    f.trap("attacker")
    return f.edited(hyper_parameters={"optimizer": "attacker.DTR"})


def _registered_wrong(f: Files) -> list[str]:
    weights = f.folder / "zoo" / "hub" / "files"
    weights.mkdir(parents=True)
    shutil.copy(f.safetensors, weights / "tampered.safetensors")
    entry = {
        "file": "tampered.safetensors", "sha256": "0" * 64, "config": CONFIG[1], "method": "dtr", "bytes": 1,
    }  # fmt: skip
    f.patch.setattr(hub, "registry", lambda: {"tampered": entry})
    f.patch.setattr(catalog, "registry", lambda: {"tampered": entry})
    f.patch.setattr(hub, "__file__", str(f.folder / "zoo" / "hub" / "weights.py"))
    return ["predict", *CONFIG, "--weights", "tampered"]


def _read_only(f: Files) -> list[str]:
    if os.geteuid() == 0:
        # root may write anywhere: a file in the place of the folder stops root too
        f.write("runs")
    else:
        (f.folder / "runs").mkdir(mode=0o500)
    return fit()


@dataclass
class Case:
    name: str
    build: Build
    words: list[str]
    absent: tuple[str, ...] = field(default=("Traceback", "weights_only=False", "NoneType", "jsonargparse"))


def case(name: str, build: Build | list[str], words: str) -> Case:
    """``words`` are separated by `` | ``."""
    return Case(name, build if callable(build) else lambda f: build, words.split(" | "))


CASES = [
    # the command line
    case("unknown verb", ["fitt"], "'fitt' | fit"),
    case("unknown verb, nothing near", ["xyzzy"], "'xyzzy' | verbs are"),
    case("no config", ["fit"], "--config | zoo list configs"),
    case("unknown config", ["fit", "--config", "dtr_dit_digit"], "'dtr_dit_digit' | dtr_dit_digits"),
    case("missing YAML file", ["fit", "--config", "mine/none.yaml"], "mine/none.yaml | neither a file"),
    case("no value for --config", ["fit", "--config"], "--config | zoo list configs"),
    case("flag as the value of --config", ["fit", "--config", "--trainer.max_steps=1"], "--config needs"),
    case("unknown flag", fit("--max_stepz=1"), "max_stepz | max_steps"),
    case("flag without its group", fit("--max_steps=1"), "max_steps | --trainer.max_steps"),
    case("a word that is no flag", fit("dtr"), "'dtr'"),
    case("value missing for --weights", fit("--weights"), "--weights needs a value"),
    case("value missing for --ckpt_path", ["fit", "--ckpt_path", *CONFIG], "--ckpt_path needs a value"),
    case("abbreviated option", lambda f: fit(f"--ckpt={f.write('x.ckpt')}"), "--ckpt | --ckpt_path"),
    case("value missing", fit("--trainer.max_steps"), "trainer.max_steps | value"),
    case("unknown kind of list", ["list", "wieghts"], "wieghts | weights"),
    case("fit by flags, class unknown", ["fit", "--model", "zoo.DTE", "--data", "datamodules.Digits"],
         "DTE | zoo.DTR"),
    # keys
    case("typo in model argument", model(depht=2), "model.init_args.depht | depth"),
    case("one file in the place of a list", ["fit", "--config", "ner_own", *of_data(labels="a.conll")],
         "data.init_args.labels | expected a list, got 'a.conll' | reads '[a.conll]' for one"),
    case("typo in data argument", data(batchsize=8), "data.init_args.batchsize | batch_size"),
    case("typo in trainer key", fit("--trainer.max_step=1"), "max_step | max_steps"),
    case("typo in optimizer argument", fit("--model.init_args.optimizer.init_args.lrr=0.1"),
         "model.init_args.optimizer.init_args.lrr | did you mean lr"),
    case("typo in YAML model argument", _yaml("model: {class_path: zoo.DTR, init_args: {depht: 2}}"),
         "depht | depth | t.yaml"),
    case("typo in YAML optimizer argument",
         _yaml("model: {class_path: zoo.DTR, init_args: {optimizer:"
             " {class_path: torch.optim.AdamW, init_args: {lrr: 1}}}}"),
         "model.init_args.optimizer.init_args.lrr | did you mean lr | t.yaml"),
    case("typo in an argument of an argument",
         ["fit", "--config", "gnn_link_karate", "--data.init_args.source.init_args.sed=1"],
         "data.init_args.source.init_args.sed | did you mean seed"),
    case("bad value of an argument of an argument",
         ["fit", "--config", "gnn_link_gae_cora", "--data.init_args.source.init_args.name=Coda"],
         "data.init_args.source.init_args.name: | Cora, CiteSeer or PubMed | 'Coda'"),
    case("unknown top key in YAML", _yaml("modle: {class_path: zoo.DTR}\nmodel: zoo.DTR"),
         "modle | model | t.yaml"),
    case("typo in YAML trainer key", _yaml("model: zoo.DTR\ntrainer: {max_step: 1}"),
         "trainer.max_step | trainer.max_steps | t.yaml"),
    case("list for the trainer", _yaml("model: zoo.DTR\ntrainer: [1]"), "t.yaml | trainer | mapping"),
    case("arguments without init_args", _yaml("model: {class_path: zoo.DTR, depth: 2}"),
         "model.depth belongs under model.init_args | t.yaml"),
    case("arguments without class", _yaml("model: {depth: 2}"), "model.depth | class_path | t.yaml"),
    case("number for a model", _yaml("model: 3"), "model | class_path | 3 | t.yaml"),
    case("wrong type in YAML", _yaml("model: {class_path: zoo.DTR, init_args: {depth: deep}}"),
         "model.init_args.depth | int | deep | t.yaml"),
    case("unknown callback",
         _yaml("model: zoo.DTR\n"
               "trainer: {callbacks: [{class_path: lightning.pytorch.callbacks.EarlyStoping}]}"),
         "trainer.callbacks | EarlyStoping | EarlyStopping | t.yaml"),
    case("typo in checkpoint key", fit("--checkpoint.every=5"), "every | every_n_train_steps"),
    case("typo in ema key", fit("--ema.deacy=0.9"), "deacy | decay"),
    # ranges of the engine's own
    case("accumulation of no batches", fit("--trainer.accumulate_grad_batches=-1"),
         "trainer.accumulate_grad_batches must be at least 1, got -1"),
    case("no training batches, in YAML", _yaml("model: zoo.DTR\ntrainer: {limit_train_batches: 0}"),
         "trainer.limit_train_batches must be above 0, got 0 (in  | t.yaml)"),
    case("a seed that is drawn", fit("--seed_everything=true"), "seed_everything must be a whole number"),
    case("a rate beyond float", fit("--model.init_args.optimizer.init_args.lr=1e300"),
         "model.init_args.optimizer.init_args.lr must be at least 0 and below 3.4e+38, got 1e+300"),
    case("NaN as weight decay", fit("--model.init_args.optimizer.init_args.weight_decay=.nan"),
         "model.init_args.optimizer.init_args.weight_decay must be at least 0 and below 3.4e+38, got nan"),
    case("clipping of what steps itself",
         ["fit", "--config", "imgan_solids", "--trainer.gradient_clip_val=1"],
         "IMGAN steps its optimisers itself | trainer.gradient_clip_val"),
    case("a second ModelCheckpoint in our folder",
         _yaml("model: {class_path: zoo.DTR, init_args: {num_classes: 10, in_channels: 1, input_size: 8}}\n"
               "trainer: {callbacks: [lightning.pytorch.callbacks.ModelCheckpoint]}"),
         "trainer.callbacks | ModelCheckpoint | dirpath | checkpoint.every_n_train_steps"),
    # classes
    case("unknown model class", fit("--model.class_path=zoo.Nope"), "zoo.Nope | zoo.DTR"),
    case("unknown data class", fit("--data.class_path=datamodules.Nope"),
         "datamodules.Nope | datamodules.Digits"),
    case("unknown package", fit("--model.class_path=zooo.DTR"), "model.class_path | 'zooo' | package.Class"),
    case("class without its module", fit("--model.class_path=DTRR"), "DTRR | zoo.DTR"),
    case("data class as model", fit("--model.class_path=datamodules.Digits"),
         "datamodules.Digits | LightningModule"),
    case("unknown optimizer", fit("--model.init_args.optimizer=torch.optim.AdamX"), "AdamX | optimizer"),
    case("no data", ["fit", "--model", "zoo.DTR"], "data"),
    # values
    case("text for a whole number", model(depth="deep"), "depth | deep | int"),
    case("fraction for a whole number", model(depth=1.5), "depth | 1.5 | int"),
    case("negative depth", model(depth=-1), "depth | -1"),
    case("negative width", model(width=-16), "zoo.DTR | -16"),
    case("negative batch", data(batch_size=-8), "batch_size | -8"),
    case("text for trainer number", fit("--trainer.max_steps=many"), "max_steps | many | int"),
    case("text for batch size", data(batch_size="large"), "batch_size | large | int"),
    case("unknown accelerator", fit("--trainer.accelerator=gpuu"), "gpuu | gpu"),
    case("unknown precision", fit("--trainer.precision=bf17"), "bf17 | bf16-mixed"),
    case("text for learning rate", fit("--model.init_args.optimizer.init_args.lr=fast"), "lr | fast | float"),
    case("bad schedule", model(schedule="quadratic"), "schedule | quadratic | linear | cosine"),
    case("bad loss weight", model(loss_weight="minsnr"), "loss_weight | minsnr | min_snr"),
    case("bad routing", model(routing="dte"), "routing | dte | random"),
    case("bad sampler", model(sampler="euler"), "sampler | euler | ddim"),
    case("bad size", model(size="M"), "size | 'M' | XL"),
    case("beta 0", model(beta=0), "beta | (0, 1] | 0"),
    case("alpha 0", model(alpha=0), "model.init_args.alpha is 0 | above 0"),
    case("label dropout 1", model(label_dropout=1), "model.init_args.label_dropout is 1 | below 1"),
    case("heads do not divide width", model(heads=3), "heads | width | 3 | 16"),
    case("patch does not divide size", model(patch_size=3), "patch_size | input_size | 3 | 8"),
    case("more sampling steps than timesteps", model(sampling_steps=2000), "sampling | 1000 | 2000"),
    case("no stride for DDIM", model(spacing="ddim", sampling_steps=999), "999 | iddpm"),
    case("decay of ema", fit("--ema.decay=1.5"), "ema.decay | 1.5"),
    case("checkpoint interval 0", fit("--checkpoint.every_n_train_steps=0"),
         "checkpoint.every_n_train_steps | 0"),
    case("monitor of nothing", fit("--checkpoint.monitor=val/fid", "--trainer.val_check_interval=1"),
         "val/fid | val/mse"),
    case("seed is text", fit("--seed_everything=abc"), "seed_everything | abc"),
    case("warm-up overlaps decay", fit("--model.init_args.lr_scheduler.init_args.warmup_steps=9999"),
         "warmup_steps is 9999 | overlaps"),
    # model and data
    case("classes differ", model(num_classes=7), "model.init_args.num_classes | 7 | 10 | data.class_path"),
    case("channels differ", model(in_channels=3),
         "model.init_args.in_channels is 3, but the data (datamodules.Digits) has 1 | data.class_path"),
    case("size differs", model(input_size=16),
         "model.init_args.input_size is 16, but the data (datamodules.Digits) has 8 | data.class_path"),
    case("batch larger than the data", data(batch_size=4096), "data.init_args.batch_size | 4096 | 1400"),
    case("batch not divisible by uw intervals", data(batch_size=100), "100 | 8 | uw_intervals | batch_size"),
    case("no latents", fit(*LATENTS, "--data.init_args.root=nowhere"),
         "nowhere | image-net.org | latents.npy | data.init_args.root"),
    case("no latents, fast-dit",
         fit(*LATENTS, "--data.init_args.root=nowhere", "--data.init_args.layout=fast-dit"),
         "nowhere | image-net.org | imagenet256_features"),
    case("corrupt npy", lambda f: fit(*LATENTS, f.latents(latents=b"\x93NUMPY junk")),
         "latents.npy | is damaged"),
    case("pickled npy", lambda f: fit(*LATENTS, f.latents(labels=[Touch()] * 8)), "labels.npy | is damaged"),
    case("labels out of range", lambda f: fit(*LATENTS, f.latents(labels=np.arange(8) + 995)),
         "995 | 1002 | num_classes | 1000"),
    case("broken meta.json", lambda f: fit(*LATENTS, f.latents(meta="{")), "meta.json | scale"),
    # config files
    case("YAML syntax", _config("bad.yaml", "model:\n  class_path: zoo.DTR\n   init_args: {\n"),
         "bad.yaml, line 3 | YAML"),
    case("tab in YAML", _config("tab.yaml", "model:\n\tclass_path: zoo.DTR\n"), "tab.yaml, line 2 | YAML"),
    case("empty YAML", _config("empty.yaml", ""), "empty.yaml | empty"),
    case("YAML list", _config("list.yaml", "- model\n- data\n"), "list.yaml | mapping"),
    case("binary config", _config("binary.yaml", bytes(range(256))), "binary.yaml | text"),
    case("checkpoint as config", lambda f: ["fit", "--config", str(f.checkpoint)], "step= | --ckpt_path"),
    case("folder as config", lambda f: ["fit", "--config", str(f.folder)], "folder"),
    case("python tag in YAML",
         _config("tag.yaml", "model: !!python/object/apply:builtins.open [executed, w]\n"),
         "tag.yaml, line 1 | YAML"),
    case("flag that refers to itself", fit("--trainer.callbacks=&a [*a]"),
         "--trainer.callbacks, line 1 | refers to itself"),
    case("file of a flag that refers to itself",
         lambda f: fit(f"--trainer={f.write('sub.yaml', '&a {logger: *a}')}"), "line 1 | refers to itself"),
    case("deep but finite", _yaml("model: zoo.DTR\ntrainer: {callbacks: " + "[" * 29 + "]" * 29 + "}"),
         "t.yaml | trainer.callbacks"),
    case("number as a key", _yaml("model: zoo.DTR\ntrainer: {1: 2}"), "t.yaml | 1 is no name"),
    case("name too long for a file", ["fit", "--config", "x" * 5000], "zoo list configs"),
    case("config without model", _config("part.yaml", "trainer: {max_steps: 2}\n"), "--config | model"),
    # weights and checkpoints
    case("missing checkpoint", _ckpt(lambda f: "gone.ckpt"), "gone.ckpt | no such file"),
    case("missing weights", _weights(lambda f: "gone.safetensors"), "gone.safetensors | zoo list weights"),
    case("test without weights", ["test", "--config", "gnn_node_sbm"],
         "zoo test of gnn_node_sbm has no weights | --weights gnn_node_sbm (bundled) | --weights none"),
    case("validate without weights, none bundled", ["validate", "--config", "gnn_node_karate"],
         "gnn_node_karate has no weights | --weights NAME|FILE | --ckpt_path last | --weights none"),
    case("no run to go on with", ["predict", *CONFIG, "--ckpt_path", "last"], "last | runs/dtr_dit_digits"),
    case("weights and checkpoint", lambda f: fit(f"--weights={f.safetensors}", f"--ckpt_path={f.checkpoint}"),
         "--weights | --ckpt_path | not both"),
    case("foreign safetensors", _weights(lambda f: f.foreign({"format": "pt"})),
         "foreign.safetensors | zoo convert"),
    case("safetensors without metadata", _weights(lambda f: f.foreign(None)),
         "foreign.safetensors | zoo convert"),
    case("truncated safetensors", _weights(lambda f: f.cut(f.safetensors)),
         "cut.safetensors | no readable"),
    case("safetensors as ckpt_path", _ckpt(lambda f: str(f.safetensors)), ".safetensors | --weights"),
    case("damaged metadata", _weights(lambda f: f.metadata(hparams="{")), "edited.safetensors | metadata"),
    case("hparams are a list", _weights(lambda f: f.metadata(hparams="[1]")), "edited.safetensors | mapping"),
    case("text as weights", _weights(lambda f: f.write("notes.txt", "hello")), "notes.txt | no checkpoint"),
    case("truncated ckpt", _ckpt(lambda f: f.cut(f.checkpoint)), "cut.ckpt | damaged"),
    case("flipped bytes in ckpt",
         _ckpt(lambda f: f.write("flip.ckpt",
             f.checkpoint.read_bytes()[:200] + b"\0" * 400 + f.checkpoint.read_bytes()[600:])),
         "flip.ckpt | damaged"),
    case("empty ckpt", _ckpt(lambda f: f.write("zero.ckpt")), "zero.ckpt | is empty"),
    case("folder as weights", _weights(lambda f: str(f.folder)), "meta.pt"),
    case("plain pickle", _weights(lambda f: _pickled(f, "p.ckpt")), "p.ckpt | no checkpoint"),
    case("plain pickle as ckpt_path", _ckpt(lambda f: _pickled(f, "p.ckpt")), "p.ckpt | no checkpoint"),
    case("torch pickle", _weights(lambda f: _torch_pickled(f, "p.pt")), "p.pt | refused | nothing was run"),
    case("torch pickle as ckpt_path", _ckpt(lambda f: _torch_pickled(f, "p.ckpt")),
         "p.ckpt | refused | nothing was run"),
    case("pickle named safetensors", _weights(lambda f: _pickled(f, "p.safetensors")),
         "p.safetensors | no readable"),
    case("official weights as ckpt_path", _ckpt(_official), "DiT-XL-2-256x256.pt | zoo convert"),
    case("official weights as weights", _weights(_official), "DiT-XL-2-256x256.pt | zoo convert"),
    case("tensor file",
         _weights(lambda f: (torch.save(torch.zeros(2), f.folder / "t.pt"), str(f.folder / "t.pt"))[1]),
         "t.pt | Tensor"),
    case("another class than the config's",
         _hparams({"_class_path": "zoo.DigitClassifier"}, zoo={"class_path": "zoo.DigitClassifier"}),
         "zoo.DigitClassifier | zoo.DTR"),
    case("foreign class", _ckpt(_foreign_class), "attacker.DTR | refused"),
    case("foreign class as weights", _weights(_foreign_class), "attacker.DTR | refused"),
    case("foreign class in metadata", _weights(_foreign_metadata_class), "attacker.DTR | refused"),
    case("foreign class without config", lambda f: ["predict", f"--weights={_foreign_metadata_class(f)}"],
         "attacker.DTR | refused"),
    case("class path that is no text", _hparams({"_class_path": ["zoo.DTR"]}, zoo=None), "zoo.DTR | refused"),
    case("nested class path", _ckpt(_nested_class), "class_path | refused"),
    case("nested class path as weights", _weights(_nested_class), "class_path | refused"),
    case("hparams name an optimizer", _ckpt(_callable), "optimizer | refused"),
    case("hparams name an optimizer, weights", _weights(_callable), "optimizer | refused"),
    case("hparams name os.system",
         _weights(lambda f: f.metadata(hparams=json.dumps({"optimizer": "os.system"}))),
         "optimizer | refused"),
    case("_instantiator", _hparams({"_instantiator": "attacker.make"}), "_instantiator | refused"),
    case("unknown hyperparameter", _hparams({"widht": 3}), "widht | DTR | version"),
    case("hyperparameter of another type", _hparams({"depth": "deep"}), "edited.ckpt | depth | deep"),
    case("hyperparameters are a list", _hparams([1]), "edited.ckpt | hyperparameters"),
    case("shape mismatch",
         lambda f: ["predict", *CONFIG, f"--weights={f.safetensors}", "--model.init_args.width=32"],
         "[96] | [192] | model.init_args"),
    case("shape mismatch, ckpt_path",
         lambda f: ["predict", *CONFIG, f"--ckpt_path={f.checkpoint}", "--model.init_args.depth=2"],
         "missing | DTR"),
    case("sha256 of a registered file", _registered_wrong,
         "tampered.safetensors | sha256 | 0000000000000000"),
    case("hf address without sha256", _weights(lambda f: "hf://owner/repo/x.safetensors"),
         "hf://owner/repo/x.safetensors | sha256="),
    case("hf address without file", _weights(lambda f: "hf://owner?sha256=" + "0" * 64),
         "hf://owner/repo/file"),
    case("hf address, bad digits", _weights(lambda f: "hf://o/r/x.safetensors?sha256=" + "z" * 64),
         "hexadecimal"),
    # output
    case("output folder not writable", _read_only, "runs | trainer.default_root_dir"),
    case("output folder is a file", lambda f: fit(f"--trainer.default_root_dir={f.write('taken')}"),
         "taken | trainer.default_root_dir"),
    # convert
    case("convert without arguments", ["convert"], "source | --out"),
    case("convert of a missing file", ["convert", "gone.pt", "--method", "dtr", "--out", "x.safetensors"],
         "gone.pt"),
    case("convert onto an existing file",
         lambda f: ["convert", str(f.checkpoint), "--out", f.write("x.safetensors")],
         "x.safetensors | --force"),
    case("convert with a bad --set",
         lambda f: ["convert", str(f.checkpoint), "--out", "x.safetensors", "--set", "heads"],
         "heads | KEY=VALUE"),
]  # fmt: skip


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A checkpoint with averaged weights and the safetensors made of it."""
    root = tmp_path_factory.mktemp("trained")
    flags = of_trainer(default_root_dir=root, limit_val_batches=0)
    assert cli.main(data(batch_size=8) + flags) == 0
    checkpoint = root / "dtr_dit_digits" / "version_0" / "checkpoints" / "step=00000002.ckpt"
    assert cli.main(["convert", str(checkpoint), "--out", str(root / "x.safetensors")]) == 0
    return checkpoint, root / "x.safetensors"


@pytest.fixture
def files(tmp_path: Path, trained: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> Files:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    return Files(tmp_path, *trained, monkeypatch)


@pytest.mark.parametrize("bad", CASES, ids=lambda c: c.name)
def test_one_line_and_nothing_run(bad: Case, files: Files, capsys: pytest.CaptureFixture[str]) -> None:
    argv = bad.build(files)
    capsys.readouterr()

    code = cli.main(argv)

    lines = capsys.readouterr().err.splitlines()
    assert code == 1
    assert len(lines) == 1, "\n".join(lines)
    line = lines[0]
    assert line.startswith("zoo: error: ")
    assert len(line) < 700
    for word in bad.words:
        assert word in line, f"{word!r} is not in: {line}"
    for word in bad.absent:
        assert word not in line
    assert not (files.folder / MARKER).exists()
    assert "attacker" not in sys.modules
    if bad.name != "monitor of nothing":  # known only after the first validation
        assert not list(files.folder.glob("runs/*/version_*"))


def test_the_traps_work(files: Files) -> None:
    """Each attack of the table runs its code when it is read without care."""
    marker = files.folder / MARKER
    pickle.loads(Path(_pickled(files, "p.pkl")).read_bytes())["x"].close()
    assert marker.exists()
    marker.unlink()
    torch.load(_torch_pickled(files, "p.pt"), weights_only=False)["x"].close()
    assert marker.exists()
    marker.unlink()
    files.trap("attacker_imported")
    __import__("attacker_imported")
    assert marker.exists()


def test_debug_shows_the_traceback(files: Files) -> None:
    with pytest.raises(FileNotFoundError, match="dtr_dit_digit"):
        cli.main(["fit", "--config", "dtr_dit_digit", "--debug"])
