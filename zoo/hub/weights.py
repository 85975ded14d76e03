"""Load, check and save weights. Nothing is unpickled: safetensors, or ``torch.load(weights_only=True)``.

A checkpoint is untrusted input. Its class must be a public one of the zoo, its hyperparameters plain values;
both are checked before anything is imported or built from them.
"""

from __future__ import annotations

import difflib
import hashlib
import inspect
import json
import os
import re
import types
import typing
import warnings
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch import Tensor

import zoo
from zoo.hub.catalog import registry
from zoo.hub.foreign import Weights, check_data

FORMAT_VERSION = "1"
EMA_KEY = "EMA"
"""Of the averaged weights among a checkpoint's callbacks."""
_REFUSED_KEYS = {"class_path", "init_args", "dict_kwargs", "_class_path", "_instantiator", "_target_"}
_LIGHTNINGS_INSTANTIATOR = "lightning.pytorch.cli.instantiate_module"


def load(
    name: str | Path, *, averaged: bool = True, class_path: str | None = None, **overrides: Any
) -> LightningModule:
    """A module with its weights, in eval mode on the CPU.

    Args:
        name: a registered name (``zoo list weights``), a ``.safetensors`` or ``.ckpt`` file, or
            ``hf://owner/repo/file?sha256=HEX``.
        averaged: of a ``.ckpt`` with EMA weights, take those (default) or the raw ones. A file of
            ``.safetensors`` holds one set, the averaged one where there was one.
        class_path: the module's class, for checkpoints that do not name it (``zoo.DTR``).
        **overrides: constructor arguments that replace the stored ones, ``guidance=4.0`` for instance.

    Raises:
        FileNotFoundError: no such name or file.
        ValueError: a damaged, foreign or refused file.
    """
    return build(read(resolve(name), averaged=averaged), class_path, **overrides)


def build(weights: Weights, class_path: str | None = None, **overrides: Any) -> LightningModule:
    """The module of checked weights, in eval mode."""
    class_path = class_path or weights.class_path
    if class_path is None:
        raise ValueError(
            f"{weights.path} does not name its class; say it: zoo.load(..., class_path='zoo.DTR')"
        )
    cls = getattr(zoo, public_name(class_path, weights.path).removeprefix("zoo."))
    check_signature(cls, weights.hparams, weights.path)
    try:
        module: LightningModule = cls(**{**weights.hparams, **overrides})
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"{weights.path}: the hyperparameters do not fit {class_path}: {error}") from error
    load_state(module, weights)
    return module.eval()


def check_state(module: LightningModule, weights: Weights) -> None:
    """One line instead of torch's many when the tensors do not fit the module.

    Raises:
        ValueError: for missing, unknown or differently shaped tensors.
    """
    expected = module.state_dict()
    missing = sorted(set(expected) - set(weights.state_dict))
    extra = sorted(set(weights.state_dict) - set(expected))
    wrong = [k for k, v in weights.state_dict.items() if k in expected and v.shape != expected[k].shape]
    if missing or extra or wrong:
        parts = []
        if wrong:
            k = wrong[0]
            parts.append(
                f"{k} is {list(weights.state_dict[k].shape)}, the model wants {list(expected[k].shape)}"
            )
        if missing:
            parts.append(f"{len(missing)} missing, for example {missing[0]}")
        if extra:
            parts.append(f"{len(extra)} unknown, for example {extra[0]}")
        raise ValueError(
            f"{weights.path} does not fit {type(module).__name__}: {'; '.join(parts)}; build the model with "
            "the model.init_args that it was trained with"
        )


def load_state(module: LightningModule, weights: Weights) -> None:
    """Check, then load the tensors."""
    check_state(module, weights)
    module.load_state_dict(weights.state_dict)


def save(
    module: LightningModule,
    path: str | Path,
    *,
    config: str | None = None,
    licence: str = "Apache-2.0",
    data: dict[str, Any] | None = None,
) -> Path:
    """Write a module's weights and hyperparameters as safetensors.

    Args:
        module: of the zoo.
        path: file to write.
        config: name of the config that it was trained with.
        licence: of the weights.
        data: what it was trained on, as :class:`zoo.hub.foreign.Weights` has it.

    Raises:
        ValueError: if the class is not a public one of the zoo.
    """
    from safetensors.torch import save_file

    class_path = public_name(f"{type(module).__module__}.{type(module).__qualname__}", Path(path))
    # a module that the parser made has two more entries
    hparams = {k: v for k, v in module.hparams.items() if k not in ("_class_path", "_instantiator")}
    check_hparams(hparams, Path(path))
    metadata = {
        "format": "pt",
        "zoo": FORMAT_VERSION,
        "class_path": class_path,
        "hparams": json.dumps(hparams, sort_keys=True),
        "config": config or "",
        "licence": licence,
    }
    if data is not None:
        metadata["data"] = json.dumps(check_data(data, Path(path)), sort_keys=True)
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")
    save_file({k: v.detach().cpu().contiguous() for k, v in module.state_dict().items()}, temporary, metadata)
    umask = os.umask(0)
    os.umask(umask)
    temporary.chmod(0o666 & ~umask)  # safetensors makes files that only their owner reads
    temporary.replace(path)
    return path


# --- names and files ----------------------------------------------------------------------------------------


def resolve(name: str | Path) -> Path:
    """The file behind a registered name, a path or an ``hf://`` address; downloads are checked by sha256."""
    text = str(name)
    if text.startswith("hf://"):
        return _download(text)
    entries = registry()
    if text in entries:
        path = Path(__file__).resolve().parent / "files" / entries[text]["file"]
        if not path.is_file():
            raise FileNotFoundError(
                f"the bundled weights {text!r} are missing at {path}; reinstall lightning-zoo"
            )
        _verify(path, entries[text]["sha256"])
        return path
    path = Path(text)
    if path.exists():
        return path
    near = difflib.get_close_matches(text, entries, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(near)}?" if near else "see `zoo list weights`"
    raise FileNotFoundError(f"no weights {text!r}: neither a file nor a registered name; {hint}")


def _verify(path: Path, sha256: str) -> None:
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != sha256.lower():
        raise ValueError(f"{path} has sha256 {found[:16]}..., expected {sha256[:16]}...: download it anew")


def _download(address: str) -> Path:
    location, _, query = address.removeprefix("hf://").partition("?")
    owner, _, rest = location.partition("/")
    repo, _, file = rest.partition("/")
    if not (owner and repo and file) or not re.fullmatch("sha256=[0-9a-fA-F]{64}", query):
        raise ValueError(f"{address!r} must read hf://owner/repo/file?sha256=HEX with 64 hexadecimal digits")
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError
    from huggingface_hub.utils import logging

    logging.set_verbosity_error()  # six lines about retries besides ours
    try:
        path = Path(hf_hub_download(repo_id=f"{owner}/{repo}", filename=file))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise FileNotFoundError(
            f"could not download {address.partition('?')[0]} ({type(error).__name__}); check the address "
            "and the network"
        ) from error
    _verify(path, query.removeprefix("sha256="))
    return path


# --- reading ------------------------------------------------------------------------------------------------


def read(path: Path, *, averaged: bool = True, tensors: bool = True, own_class: str | None = None) -> Weights:
    """Check a weights file and read it. ``tensors=False`` skips the state dict (hyperparameters alone).

    Args:
        own_class: class path outside the zoo that the user asks for; a checkpoint may name it too.

    Raises:
        FileNotFoundError, ValueError: one line on what is wrong with the file.
    """
    if not path.exists():
        raise FileNotFoundError(f"no file {path}")
    if path.suffix == ".safetensors":
        return _read_safetensors(path, tensors)
    return _read_checkpoint(path, averaged, tensors, own_class)


def _read_safetensors(path: Path, tensors: bool) -> Weights:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            state = {k: file.get_tensor(k) for k in file.keys()} if tensors else {}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise ValueError(
            f"{path} is not a readable safetensors file ({error}); download or write it anew"
        ) from error
    if "zoo" not in metadata:
        raise ValueError(
            f"{path} was not written by the zoo (no metadata); run "
            f"`zoo convert {path} --method dtr --out X.safetensors`"
        )
    class_path = public_name(metadata.get("class_path"), path)
    try:
        hparams = json.loads(metadata["hparams"])
        data = json.loads(metadata.get("data", "null"))
    except (KeyError, ValueError, RecursionError) as error:
        raise ValueError(f"{path} has damaged metadata ({error}); write it anew") from error
    config = metadata.get("config") or None
    hparams, data = check_hparams(hparams, path), check_data(data, path)
    return Weights(path, class_path, hparams, state, config, averaged=True, data=data)


def load_checkpoint_file(path: Path) -> dict[str, Any]:
    """The dict of a ``.ckpt`` (or ``meta.pt`` of a sharded one), by ``weights_only`` and memory map."""
    file = path / "meta.pt" if path.is_dir() else path
    if not file.is_file():
        raise FileNotFoundError(
            f"{path} is a folder without meta.pt, hence no sharded checkpoint; give a file such as "
            "step=N.ckpt in it"
        )
    if not zipfile.is_zipfile(file):
        kind = "is empty" if file.stat().st_size == 0 else "is truncated or no checkpoint (not a zip archive)"
        raise ValueError(f"{path} {kind}; use an earlier checkpoint of the same folder")
    try:
        with zipfile.ZipFile(file) as archive:  # tells damage from an attack
            for name in archive.namelist():
                if name.endswith("/data.pkl"):
                    archive.read(name)
    except (zipfile.BadZipFile, zlib.error, OSError, NotImplementedError, RuntimeError) as error:
        raise ValueError(
            f"{path} is damaged ({error}); use an earlier checkpoint of the same folder"
        ) from error
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            content = torch.load(file, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:
        if "weights_only" in str(error) or "Unsupported" in str(error):
            raise ValueError(
                f"{path} holds pickled objects besides tensors and plain values; refused, nothing was run"
            ) from None
        raise ValueError(
            f"{path} is damaged ({str(error).splitlines()[0][:80]}); use an earlier checkpoint"
        ) from None
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds a {type(content).__name__}, not a checkpoint")
    return content


def _read_checkpoint(path: Path, averaged: bool, tensors: bool, own_class: str | None) -> Weights:
    content = load_checkpoint_file(path)
    if "pytorch-lightning_version" not in content or not (path.is_dir() or "state_dict" in content):
        raise ValueError(
            f"{path} is no Lightning checkpoint; official weights need "
            f"`zoo convert {path} --method dtr --out X.safetensors`, then --weights X.safetensors"
        )
    ours = content.get("zoo", {})
    raw = content.get("hyper_parameters", {})
    if not isinstance(raw, dict) or not isinstance(ours, dict):
        raise ValueError(f"{path} has damaged hyperparameters; use an earlier checkpoint of the same folder")
    hparams = dict(raw)
    if (
        hparams.get("_instantiator") == _LIGHTNINGS_INSTANTIATOR
    ):  # Lightning writes it, the zoo never calls it
        hparams.pop("_instantiator")
    class_path = hparams.pop("_class_path", None) or ours.get("class_path")
    if class_path is not None and not (own_class and class_path == own_class):
        class_path = public_name(class_path, path)
    weights = Weights(path, class_path, check_hparams(hparams, path), config=ours.get("config"))
    weights.data = check_data(ours.get("data"), path)
    if tensors:
        if path.is_dir():
            raise ValueError(
                f"{path} is a sharded checkpoint: resume from it, or write one file by "
                "trainer.strategy.init_args.save_distributed_checkpoint: false"
            )
        weights.state_dict = dict(content["state_dict"])
        if strange := [k for k, v in weights.state_dict.items() if not isinstance(v, Tensor)]:
            raise ValueError(f"{path}: state_dict holds {strange[0]!r}, which is no tensor; refused")
        shadow = content.get("callbacks", {}).get(EMA_KEY, {}).get("shadow", {})
        if averaged and shadow:
            weights.state_dict |= shadow
            weights.averaged = True
    return weights


# --- what a file may ask for --------------------------------------------------------------------------------


def public_name(class_path: Any, path: Path) -> str:
    """``zoo.X`` for a method of the zoo, also under the name of a module that defines it or once did.

    Nothing is imported to find out.

    Raises:
        ValueError: for any other class.
    """
    parts = class_path.split(".") if isinstance(class_path, str) else [""]
    if parts[0] == "zoo" and len(parts) > 1 and parts[-1] in zoo._METHODS:
        return f"zoo.{parts[-1]}"
    raise ValueError(f"{path} asks for class {class_path!r}, which is not one of the zoo's methods; refused")


def check_hparams(hparams: dict[str, Any], path: Path) -> dict[str, Any]:
    """The hyperparameters if they are plain: None, booleans, numbers, strings, lists and dicts of those.

    Raises:
        ValueError: for objects, and for any nested class path, which the parser would import.
    """

    def check(value: Any, where: str) -> None:
        if isinstance(value, dict):
            for k, v in value.items():
                if not isinstance(k, str) or k in _REFUSED_KEYS:
                    raise ValueError(
                        f"{path}: hyperparameter {where or k!r} holds {k!r}; classes in checkpoints are "
                        "refused"
                    )
                check(v, f"{where}.{k}" if where else k)
        elif isinstance(value, list | tuple):
            for v in value:
                check(v, where)
        elif value is not None and not isinstance(value, bool | int | float | str):
            raise ValueError(
                f"{path}: hyperparameter {where!r} is a {type(value).__name__}, not a plain value; refused"
            )

    if not isinstance(hparams, dict):
        raise ValueError(f"{path}: hyperparameters must be a mapping, got {type(hparams).__name__}")
    check(hparams, "")
    return hparams


def check_signature(cls: type[LightningModule], hparams: dict[str, Any], path: Path) -> None:
    """Stored hyperparameters may set plain arguments only: the parser imports what a callable argument names.

    Raises:
        ValueError: for an unknown argument or one that takes an object.
    """
    known = argument_types(cls)
    for name in hparams:
        if name not in known:
            raise ValueError(
                f"{path} sets {name!r}, which {cls.__name__} does not take; it comes from another version of "
                "the class"
            )
        if not _is_plain(known[name]):
            raise ValueError(f"{path} sets {name!r}, which takes an object, not a plain value; refused")


def argument_types(cls: type[LightningModule]) -> dict[str, Any]:
    """Constructor arguments and their types; keys of ``**options: Unpack[...]`` are arguments like others."""
    hints = typing.get_type_hints(cls.__init__)
    untyped = object if cls.__module__.startswith("zoo.") else Any  # the user's own class may leave types out
    found: dict[str, Any] = {}
    for name, parameter in inspect.signature(cls.__init__).parameters.items():
        unpacked = typing.get_args(hints.get(name)) if parameter.kind is parameter.VAR_KEYWORD else ()
        if unpacked and typing.is_typeddict(unpacked[0]):
            found |= typing.get_type_hints(unpacked[0])
        elif name != "self":
            found[name] = hints.get(name, untyped)
    return found


def _is_plain(hint: Any) -> bool:
    if hint in (int, float, str, bool, type(None), Any):
        return True
    origin = typing.get_origin(hint)
    if origin is typing.Literal:
        return True
    if origin in (typing.Union, types.UnionType, list, dict, tuple, Sequence):
        return all(_is_plain(a) for a in typing.get_args(hint) if a is not Ellipsis)
    return False
