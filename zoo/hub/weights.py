"""Load, check and save weights. Nothing is unpickled: safetensors, or ``torch.load(weights_only=True)``.

A checkpoint is untrusted input. Its class must be a public one of the zoo, its hyperparameters plain values;
both are checked before anything is imported or built from them. Checksums are compared, and no file makes the
zoo read or build more than its own size stands for, unless ``ZOO_LIMITS=off`` is in the environment (see
:mod:`zoo.hub.bounded`).
"""

from __future__ import annotations

import dataclasses
import difflib
import hashlib
import inspect
import json
import re
import types
import typing
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch import Tensor

import zoo
from zoo.hub import torch_files
from zoo.hub.bounded import building, check_tree, deadline, lifted, not_finite, one_line
from zoo.hub.catalog import registry
from zoo.hub.foreign import (
    Damaged,
    TooLarge,
    Weights,
    check_data,
    parse_json,
    safetensors_in,
    written_whole,
)
from zoo.hub.shards import whole_checkpoint

FORMAT_VERSION = "1"
EMA_KEY = "EMA"
"""Of the averaged weights among a checkpoint's callbacks."""
_TEXT = "_extra_state"
"""End of the names of texts among the weights (``zoo/nn/kept_text.py``), which have any length."""
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
    check_size(cls, weights.hparams, weights.path)
    try:
        module: LightningModule = cls(**{**weights.hparams, **overrides})
    except Exception as error:  # of a constructor with a file's values anything may come
        raise ValueError(
            f"{weights.path}: the hyperparameters do not fit {class_path}: {one_line(error, 300)}"
        ) from error
    load_state(module, weights)
    return module.eval()


def check_size(cls: type[LightningModule], hparams: dict[str, Any], path: Path) -> None:
    """Refuse hyperparameters that ask for a network far beyond what the file can hold the weights of.

    The module is made once without memory for its tensors, and taken away again.

    Raises:
        TooLarge: with the file's name.
    """
    files = [p for p in path.rglob("*") if p.is_file()] if path.is_dir() else [path]
    size = sum(p.stat().st_size for p in files)
    with building(path, size), deadline(path):
        if not _builds(
            cls, hparams, "meta"
        ):  # it looks at values, or does not fit, which the caller will say
            with torch.random.fork_rng(devices=[]):
                _builds(cls, hparams, "cpu")


def _builds(cls: type[LightningModule], hparams: dict[str, Any], device: str) -> bool:
    try:
        with torch.device(device):
            cls(**hparams)
    except TooLarge:
        raise
    except Exception:  # of a constructor with a file's values anything may come
        return False
    return True


def check_state(module: LightningModule, weights: Weights) -> None:
    """One line instead of torch's many when the tensors do not fit the module.

    Raises:
        ValueError: for missing, unknown or differently shaped tensors.
    """
    expected = module.state_dict()
    missing = sorted(set(expected) - set(weights.state_dict))
    extra = sorted(set(weights.state_dict) - set(expected))
    wrong = [
        k
        for k, v in weights.state_dict.items()
        if k in expected and v.shape != expected[k].shape and not k.endswith(_TEXT)
    ]
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
            f"{weights.path} does not fit {type(module).__name__}: {'; '.join(parts)}; build the "
            "model with the model.init_args that it was trained with, or fine-tune: `zoo fit --weights_fit "
            "partial`"
        )


def load_state(module: LightningModule, weights: Weights) -> None:
    """Check, then load the tensors.

    Raises:
        ValueError: for tensors that do not fit, and for NaN or infinity where the module's own are finite.
    """
    check_state(module, weights)
    check_trained(module, weights)
    _load(module, weights, weights.state_dict)


def _load(module: LightningModule, weights: Weights, state: dict[str, Tensor]) -> None:
    try:
        module.load_state_dict(state)
    except ValueError as error:  # a text among the weights that is none
        raise ValueError(f"{weights.path}: {one_line(error, 200)}") from None


def load_texts(module: LightningModule, weights: Weights) -> None:
    """Vocabularies and the like alone, which data ask for before a checkpoint is restored.

    Raises:
        ValueError: for a text that is none.
    """
    own = module.state_dict()
    try:
        for name, part in module.named_modules():
            if f"{name}.{_TEXT}" in own and f"{name}.{_TEXT}" in weights.state_dict:
                part.set_extra_state(weights.state_dict[f"{name}.{_TEXT}"])
    except ValueError as error:
        raise ValueError(f"{weights.path}: {one_line(error, 200)}") from None


def load_fitting(module: LightningModule, weights: Weights) -> tuple[list[str], list[str]]:
    """Load the tensors whose names and shapes are the module's.

    Returns:
        names of the module's tensors that start anew, and of the file's that have no place in the module.

    Raises:
        ValueError: where none fits, and for NaN or infinity.
    """
    own = module.state_dict()
    held = weights.state_dict
    # a vocabulary of any length goes with the weights that were trained on it
    fitting = {k: v for k, v in held.items() if k in own and (v.shape == own[k].shape or k.endswith(_TEXT))}
    if not any(k in fitting for k, _ in module.named_parameters()):
        raise ValueError(f"{weights.path}: none of its tensors fits {type(module).__name__}")
    check_trained(module, dataclasses.replace(weights, state_dict=fitting))
    _load(module, weights, own | fitting)
    return sorted(own.keys() - fitting.keys()), sorted(held.keys() - own.keys())


def check_trained(module: LightningModule, weights: Weights) -> None:
    """Weights of a training that diverged give no answer.

    Raises:
        ValueError: for NaN or infinity where the module's own are finite.
    """
    own = module.state_dict()
    for name, value in weights.state_dict.items():
        if not_finite(value) and not not_finite(own[name]):
            raise ValueError(
                f"{weights.path}: {name} holds NaN or infinity; the training diverged or the file is "
                "damaged: take an earlier one"
            )


def save(
    module: LightningModule,
    path: str | Path,
    *,
    config: str | None = None,
    licence: str = "Apache-2.0",
    force: bool = False,
    data: dict[str, Any] | None = None,
) -> Path:
    """Write a module's weights and hyperparameters as safetensors.

    Args:
        module: of a public class of the zoo.
        path: file to write; weights of the zoo in its place are replaced.
        config: name of the config that it was trained with.
        licence: of the weights.
        force: replace a file that is no weights of the zoo, too.
        data: what it was trained on, as :class:`zoo.hub.foreign.Weights` has it.

    Raises:
        ValueError: if the class is not a public one of the zoo, or for a file that is not to be replaced.
        OSError: where the file cannot be written.
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
    if path.exists() and not force and not _is_ours(path):
        raise ValueError(f"{path} exists and holds no weights of the zoo; choose another name, or force=True")
    state = {k: v.detach().cpu().contiguous() for k, v in module.state_dict().items()}
    with written_whole(path) as temporary:
        save_file(state, temporary, metadata | {"crc32": _checksum(state)})
    return path


def _is_ours(path: Path) -> bool:
    try:
        return "zoo" in safetensors_in(path, tensors=False)[0]
    except (ValueError, OSError):
        return False


def _checksum(state: dict[str, Tensor]) -> str:
    """Of the tensors' bytes in the order of their names, for a file format that has none of its own."""
    total = 0
    for _, value in sorted(state.items()):
        total = zlib.crc32(value.contiguous().reshape(-1).view(torch.uint8).numpy(), total)  # type: ignore[arg-type]
    return f"{total:08x}"


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
    metadata, state = safetensors_in(path, tensors)
    if "zoo" not in metadata:
        raise ValueError(
            f"{path} was not written by the zoo (no metadata); run "
            f"`zoo convert {path} --method dtr --out X.safetensors`"
        )
    if tensors and "crc32" in metadata and metadata["crc32"] != _checksum(state) and not lifted():
        raise Damaged(f"{path} is damaged: its tensors are not what was written; download it anew")
    class_path = public_name(metadata.get("class_path"), path)
    hparams = parse_json(metadata.get("hparams", ""), path, "its metadata (hparams)")
    data = parse_json(metadata.get("data", "null"), path, "its metadata (data)")
    config = metadata.get("config") or None
    hparams, data = check_hparams(hparams, path), check_data(data, path)
    return Weights(path, class_path, hparams, state, config, averaged=True, data=data)


def load_checkpoint_file(path: Path) -> dict[str, Any]:
    """The dict of a ``.ckpt`` (or ``meta.pt`` of a sharded one), by ``weights_only`` and memory map.

    Raises:
        FileNotFoundError, OSError: for a file that cannot be read, which says nothing about its content.
        Damaged: for a broken one, a wrong checksum of one member among it.
        ValueError: for one that is refused.
    """
    advice = "use an earlier checkpoint of the same folder"
    file = path / "meta.pt" if path.is_dir() else path
    if path.is_dir() and not file.exists():
        raise Damaged(
            f"{path} is a folder without meta.pt: no sharded checkpoint, or one whose writing was cut off; "
            "give a file such as step=N.ckpt in it, or an earlier checkpoint"
        )
    try:
        if (path / ".metadata").exists():
            torch_files.check_shards(path)
        content = torch_files.load(file, mmap=True, kind="checkpoint")
    except Damaged as error:
        raise Damaged(f"{error}; {advice}") from None
    if not isinstance(content, dict):
        raise Damaged(f"{path} holds a {type(content).__name__}, not a checkpoint")
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
        raise Damaged(f"{path} has damaged hyperparameters; use an earlier checkpoint of the same folder")
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
            if not (path / ".metadata").exists():
                raise Damaged(f"{path} has lost its shards; use an earlier checkpoint")
            content = whole_checkpoint(path)
        weights.state_dict = _tensors(content["state_dict"], "state_dict", path)
        ema = _inner(content, "callbacks", EMA_KEY)
        shadow = _inner(ema, "shadow")
        # averages without a decay are of an earlier step: former versions went on without their decay
        current = not isinstance(ema, dict) or ema.get("decay", 0) is not None
        if averaged and shadow and current:
            weights.state_dict |= _tensors(shadow, "the averaged weights", path)
            weights.averaged = True
    return weights


def _inner(content: Any, *keys: str) -> Any:
    """What lies under keys of mappings in mappings, or None."""
    for key in keys:
        content = content.get(key) if isinstance(content, dict) else None
    return content


def _tensors(content: Any, what: str, path: Path) -> dict[str, Tensor]:
    if not isinstance(content, dict):
        raise Damaged(f"{path}: {what} is a {type(content).__name__}; use an earlier checkpoint")
    if strange := [k for k, v in content.items() if not isinstance(k, str) or not isinstance(v, Tensor)]:
        raise ValueError(f"{path}: {what} holds {strange[0]!r}, which is no tensor; refused")
    return dict(content)


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
        elif value != value:
            raise ValueError(f"{path}: hyperparameter {where!r} is NaN; refused")

    if not isinstance(hparams, dict):
        raise ValueError(f"{path}: hyperparameters must be a mapping, got {type(hparams).__name__}")
    check_tree(hparams, path, "hyperparameters")
    check(hparams, "")
    return hparams


def check_signature(cls: type[LightningModule], hparams: dict[str, Any], path: Path) -> None:
    """Stored hyperparameters may set plain arguments only: the parser imports what a callable argument names.

    Raises:
        ValueError: for an unknown argument, one that takes an object, or a value of another type.
    """
    known = argument_types(cls)
    for name, value in hparams.items():
        if name not in known:
            raise ValueError(
                f"{path} sets {name!r}, which {cls.__name__} does not take; it comes from another version of "
                "the class"
            )
        if not _is_plain(known[name]):
            raise ValueError(f"{path} sets {name!r}, which takes an object, not a plain value; refused")
        if not fits(value, known[name]):
            raise ValueError(
                f"{path}: hyperparameter {name!r} takes {describe(known[name])}, got {value!r:.60}"
            )


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


def fits(value: Any, hint: Any) -> bool:
    """Whether a plain value is of the type that a constructor declares; lists stand for tuples."""
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return any(fits(value, member) for member in inner)
    if origin is typing.Literal:
        return value in inner
    if origin in (list, tuple, Sequence):
        fixed = origin is tuple and Ellipsis not in inner
        if not isinstance(value, list | tuple) or (fixed and len(value) != len(inner)):
            return False
        return all(fits(v, inner[i] if fixed else inner[0]) for i, v in enumerate(value))
    if origin is dict:
        pairs = value.items() if isinstance(value, dict) else ()
        return isinstance(value, dict) and all(fits(k, inner[0]) and fits(v, inner[1]) for k, v in pairs)
    if hint is float:
        return type(value) in (int, float)
    if hint in (int, bool, str, type(None)):
        return type(value) is hint
    return True


def describe(hint: Any) -> str:
    """Names of the types that :func:`fits` admits."""
    members = typing.get_args(hint) if typing.get_origin(hint) in (typing.Union, types.UnionType) else (hint,)
    words = []
    for member in members:
        if typing.get_origin(member) is typing.Literal:
            words += [str(a) for a in typing.get_args(member)]
        elif typing.get_origin(member) is not None:
            words.append(str(member).rpartition(".")[2])
        else:
            words.append("null" if member is type(None) else member.__name__)
    return " or ".join(words)


def _is_plain(hint: Any) -> bool:
    if hint in (int, float, str, bool, type(None), Any):
        return True
    origin = typing.get_origin(hint)
    if origin is typing.Literal:
        return True
    if origin in (typing.Union, types.UnionType, list, dict, tuple, Sequence):
        return all(_is_plain(a) for a in typing.get_args(hint) if a is not Ellipsis)
    return False
