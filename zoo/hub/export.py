"""``zoo export``: the network of a module as a ``torch.export`` program (.pt2) or as ONNX.

The batch is the one free dimension, unless the module's ``dynamic_dims`` names others (nodes, edges, height
and width); ``least_sizes`` says from which size on, where that is not 1. A file
is written in a folder of its own beside the target, loaded again, compared with the eager network, and only
then moved to its place: what has the target's name has been checked.
"""

from __future__ import annotations

import hashlib
import importlib.util
import inspect
import json
import logging
import os
import re
import shutil
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn

import zoo
from zoo.hub import weights as hub
from zoo.reports import writing

SUFFIXES = (".pt2", ".onnx")
TOLERANCE = 1e-5
BATCHES = (1, 2, 5)
EXTRA = ("onnx", "onnx_ir", "onnxscript", "onnxruntime")
METADATA = "metadata.json"
"""Name of the metadata among the extra files of a .pt2."""

OPSET = 20
EXTERNAL_BYTES = 2**31 - 2**27
"""Tensors of this size together go into a file beside the .onnx: a protobuf message ends at 2 GiB."""

BATCH = {0: "batch"}
_DATA = r"{}\.[0-9a-f]{{12}}\.data"  # tensors beside an .onnx
_TRACED_BATCH = 3  # torch.export treats 1 as a constant, and 2 needs luck
Inputs = dict[str, Tensor]
Dims = dict[str, dict[int, str]]
"""Input -> dimension -> name: what is free in a file. Dimensions of one name have one size."""


@dataclass(frozen=True)
class Difference:
    """Largest difference between the file's outputs and the eager network's.

    Attributes:
        absolute: max |file - eager|.
        relative: the same over max |eager|, the largest of all outputs and batches. It decides.
        scale: max |eager|; 0 for a network that gives nothing but zeros.
    """

    absolute: float
    relative: float
    scale: float


def export(source: str, out: Path, force: bool = False) -> Iterator[str]:
    """Export the network of a weights file, exactly that which ``zoo.load`` gives; yields the lines to print.

    Args:
        source: registered name, ``.ckpt``, ``.safetensors`` or ``hf://`` address.
        out: file to write, ``.pt2`` or ``.onnx``.
        force: overwrite.

    Raises:
        FileNotFoundError, ValueError: one line on what does not work and what to do.
    """
    check_out(out, force)
    path = hub.resolve(source)
    weights = hub.read(path)
    module = hub.build(weights)
    if path.suffix == ".safetensors":
        held, which = "as stored", "the weights of the file (averaged ones where its run averaged)"
    elif weights.averaged:
        held, which = "averaged", "averaged (EMA) weights"
    else:
        held, which = "raw", "raw weights, the run kept no average"
    metadata = {
        "method": str(weights.class_path),
        "config": weights.config or "",
        # the module's, not the file's: weights older than an argument lack it
        "hparams": json.dumps(dict(module.hparams), sort_keys=True),
        "weights": held,
        "source": path.name,
    }
    yield f"{source} holds a {weights.class_path}; exporting {which}, as zoo.load gives them"
    yield from write(module, out, metadata)


def write(module: LightningModule, out: Path, metadata: dict[str, str] | None = None) -> Iterator[str]:
    """Export ``module.network`` with the inputs of ``module.example_inputs``; yields the lines to print.

    The module is left in eval mode on the CPU.

    Args:
        metadata: texts to store in the file, besides the versions and the opset.

    Raises:
        ValueError: for a module that cannot be exported, or a file that differs from the network.
    """
    check_out(out, force=True)
    module = module.eval().cpu()
    with torch.random.fork_rng(devices=[]):
        inputs = example_inputs(module, _TRACED_BATCH)
    network: nn.Module = module.network  # type: ignore[assignment]
    dims = free_dims(module, inputs)
    program = _traced(module, inputs, dims)
    names = output_names(network, inputs)
    metadata = (metadata or {}) | {"zoo_version": zoo.__version__, "torch_version": torch.__version__}
    if out.suffix == ".onnx":
        metadata["opset"] = str(OPSET)
    metadata |= {"inputs": " ".join(inputs), "outputs": " ".join(names)}
    with _staging(out) as folder:
        staged = folder / out.name
        if out.suffix == ".pt2":
            _write_program(program, staged, metadata)
        else:
            _write_onnx(program, staged, dims, names, metadata, network)
        difference = compare(module, staged)
        if not difference.relative <= TOLERANCE:
            raise ValueError(
                f"{out} was not kept: it differs from the network by {difference.absolute:.1e} "
                f"({difference.relative:.1e} of the largest output), more than {TOLERANCE:.0e}"
            )
        data = [p for p in folder.iterdir() if p != staged]
        for file in (staged, *data):
            with file.open("rb") as handle:
                os.fsync(handle.fileno())
        size = sum(p.stat().st_size for p in folder.iterdir())
        for file in data:  # before the file that names it
            os.replace(file, out.parent / file.name)
        os.replace(staged, out)
    _remove_data_of_earlier(out, {p.name for p in data})
    kind = "torch.export program" if out.suffix == ".pt2" else f"ONNX, opset {OPSET}"
    beside = f", tensors in {data[0].name} beside it" if data else ""
    yield f"wrote {out}: {kind}, {size / 1e6:.1f} MB{beside}"
    yield f"inputs {', '.join(_shape(n, v, dims[n]) for n, v in inputs.items())}; outputs {', '.join(names)}"
    yield (
        f"largest difference to the network at {_sizes_text(module)}: "
        f"{difference.absolute:.1e}, {difference.relative:.1e} of the largest output"
    )
    if difference.scale == 0:
        yield "the network gives only zeros (fresh weights?): that comparison says nothing"
    yield "next: " + _snippet(out, list(inputs))


def check_out(out: Path, force: bool) -> None:
    """Refuse a destination before any work is done.

    Raises:
        FileNotFoundError: for a missing folder.
        ValueError: for an unknown suffix, an existing file without ``force`` or a missing extra.
    """
    if out.suffix not in SUFFIXES:
        raise ValueError(f"--out {out}: the file ends in {' or '.join(SUFFIXES)}, which picks the format")
    if not out.parent.is_dir():
        raise FileNotFoundError(f"--out {out}: there is no folder {out.parent}; make it first")
    if out.is_dir():
        raise ValueError(f"--out {out} is a folder; give a file")
    if out.exists() and not force:
        raise ValueError(f"{out} exists; choose another --out or add --force")
    missing = [name for name in EXTRA if out.suffix == ".onnx" and importlib.util.find_spec(name) is None]
    if missing:
        raise ValueError(f'ONNX needs {", ".join(missing)}; pip install "lightning-zoo[onnx]"')


def example_inputs(module: LightningModule, batch: int) -> Inputs:
    """Random inputs of ``module.network``, checked against what its forward takes.

    Raises:
        ValueError: for a module without ``network`` or ``example_inputs``, or inputs of other names or sizes.
    """
    name = type(module).__name__
    if not isinstance(getattr(module, "network", None), nn.Module):
        raise ValueError(f"{name} cannot be exported: it has no `network`")
    if not callable(getattr(module, "example_inputs", None)):
        raise ValueError(
            f"{name} cannot be exported: it has no example_inputs(batch), see docs/pages/export.md"
        )
    inputs: Inputs = module.example_inputs(batch)  # type: ignore[operator]
    takes = list(inspect.signature(module.network.forward).parameters)  # type: ignore[union-attr]
    if list(inputs) != takes[: len(inputs)]:
        raise ValueError(
            f"{name}.example_inputs gives {', '.join(inputs)}, but the network's forward takes "
            f"{', '.join(takes)}, in this order"
        )
    for key, free in free_dims(module, inputs).items():
        shape = list(inputs[key].shape)
        if free == BATCH and shape[:1] != [batch]:
            raise ValueError(
                f"{name}.example_inputs({batch}): {key} has shape {shape}, its first dimension must be the "
                f"batch, {batch}"
            )
    sizes(module, inputs)
    return inputs


def free_dims(module: LightningModule, inputs: Inputs) -> Dims:
    """``module.dynamic_dims`` of each input, {} where it names none; without it the batch of each.

    Raises:
        ValueError: for names that are no inputs, or dimensions that they do not have.
    """
    given: Dims | None = getattr(module, "dynamic_dims", None)
    if given is None:
        return {key: dict(BATCH) for key in inputs}
    for key, free in given.items():
        if key not in inputs or any(not 0 <= d < inputs[key].ndim for d in free):
            shapes = ", ".join(f"{k} {list(v.shape)}" for k, v in inputs.items())
            raise ValueError(
                f"{type(module).__name__}.dynamic_dims has {key!r}: {free}, but its example_inputs are "
                f"{shapes}"
            )
    return {key: dict(given.get(key, {})) for key in inputs}


def sizes(module: LightningModule, inputs: Inputs) -> dict[str, int]:
    """Size of each free dimension.

    Raises:
        ValueError: for two sizes under one name.
    """
    found: dict[str, int] = {}
    for key, free in free_dims(module, inputs).items():
        for dim, label in free.items():
            size = inputs[key].shape[dim]
            if found.setdefault(label, size) != size:
                raise ValueError(
                    f"{type(module).__name__}.example_inputs: {label} is {found[label]} before and {size} in "
                    f"dimension {dim} of {key}"
                )
    return found


def _sizes_text(module: LightningModule) -> str:
    """``batches 1, 2, 5``, or every free dimension with the sizes that were tried."""
    seen = _seen_sizes(module)
    if list(seen) == list(BATCH.values()):
        return f"batches {', '.join(map(str, BATCHES))}"
    return "; ".join(f"{k} {', '.join(map(str, v))}" for k, v in seen.items()) or "the one size"


def _compared_inputs(module: LightningModule) -> list[Inputs]:
    """The inputs on which a file is compared with the network, the same at each call."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return [example_inputs(module, batch) for batch in BATCHES]


def _seen_sizes(module: LightningModule) -> dict[str, list[int]]:
    tried = [sizes(module, inputs) for inputs in _compared_inputs(module)]
    return {label: [t[label] for t in tried] for label in tried[0]}


def output_names(network: nn.Module, inputs: Inputs) -> list[str]:
    """``output`` for one tensor, the keys of a dict, ``output_0`` ... of a sequence."""
    with torch.no_grad():
        result = network(**inputs)
    if isinstance(result, dict):
        return [str(k) for k in result]
    return ["output"] if isinstance(result, Tensor) else [f"output_{i}" for i in range(len(result))]


@torch.no_grad()
def compare(module: LightningModule, path: Path) -> Difference:
    """Load an exported file and compare it with the eager network on fresh inputs of several batch sizes."""
    network: nn.Module = module.network  # type: ignore[assignment]
    run = load(path)
    absolute, relative, scale = 0.0, 0.0, 0.0
    for inputs in _compared_inputs(module):
        expected = _flat(network(**inputs))
        try:
            found = run(inputs)
        except Exception as error:
            reason = " ".join(str(error).split())[:200]
            raise ValueError(
                f"{path.name} was not kept: it does not run at {_text_of(sizes(module, inputs))} ({reason})"
            ) from error
        if [v.shape for v in found] != [v.shape for v in expected]:
            return Difference(float("inf"), float("inf"), scale)
        for a, b in zip(found, expected, strict=True):
            size = float(b.double().abs().max()) if b.numel() else 0.0
            off = float((a.double() - b.double()).abs().max()) if b.numel() else 0.0
            share = off / size if size else (float("inf") if off else 0.0)
            # a NaN must win, and max() keeps whichever comes first
            absolute = off if off != off else max(absolute, off)
            relative = share if share != share else max(relative, share)
            scale = max(scale, size)
            if relative != relative:
                return Difference(absolute, relative, scale)
    return Difference(absolute, relative, scale)


def load(path: Path) -> Any:
    """An exported file as a function of named tensors that gives the list of output tensors."""
    if path.suffix == ".pt2":
        program = torch.export.load(path).module()
        return lambda inputs: _flat(program(*inputs.values()))
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return lambda inputs: [
        torch.from_numpy(v) for v in session.run(None, {k: v.numpy() for k, v in inputs.items()})
    ]


# --- writing ------------------------------------------------------------------------------------------------


def _traced(module: LightningModule, inputs: Inputs, dims: Dims) -> torch.export.ExportedProgram:
    # a size may be 0 where the examples show that it may
    least: dict[str, int] = getattr(module, "least_sizes", {})
    free = {
        label: torch.export.Dim(label, min=least.get(label, min(1, *found)))
        for label, found in _seen_sizes(module).items()
    }
    network: nn.Module = module.network  # type: ignore[assignment]
    try:
        with _quiet():
            return torch.export.export(
                network,
                tuple(inputs.values()),
                dynamic_shapes=tuple({d: free[label] for d, label in dims[k].items()} for k in inputs),
                # what pools round is more than torch can prove beforehand
                prefer_deferred_runtime_asserts_over_guards=bool(least),
            )
    except Exception as error:
        reason = " ".join(re.sub(r"\x1b\[\d*m", "", str(error)).split())[:200]
        raise ValueError(
            f"{type(module).__name__}'s network cannot be exported with a free "
            f"{' and '.join(free) or 'nothing'} ({type(error).__name__}: {reason})"
        ) from error


def _write_program(program: torch.export.ExportedProgram, path: Path, metadata: dict[str, str]) -> None:
    try:
        torch.export.save(program, path, extra_files={METADATA: json.dumps(metadata, indent=1)})
    except RuntimeError as error:  # torch says: PytorchStreamWriter failed
        raise OSError(f"{' '.join(str(error).split())[:100]}: is the disk full?") from error


def _write_onnx(
    program: torch.export.ExportedProgram,
    path: Path,
    inputs: Dims,
    outputs: Sequence[str],
    metadata: dict[str, str],
    network: nn.Module,
) -> None:
    import onnx_ir

    try:
        with _quiet():
            written = torch.onnx.export(
                program,
                input_names=list(inputs),
                output_names=list(outputs),
                opset_version=OPSET,
                dynamic_shapes=tuple(inputs.values()),  # the names in the file
                dynamo=True,
                verbose=False,
            )
    except Exception as error:
        reason = " ".join(str(error).split())[:200]
        raise ValueError(f"the network has no ONNX form ({type(error).__name__}: {reason})") from error
    assert written is not None
    model = written.model
    model.producer_name, model.producer_version = "lightning-zoo", zoo.__version__
    model.metadata_props.update(metadata)
    size = sum(v.const_value.nbytes for v in model.graph.initializers.values() if v.const_value is not None)
    # The name holds the tensors' digest, so that no .onnx ever reads the tensors of another.
    beside = f"{path.name}.{_digest(network)}.data" if size >= EXTERNAL_BYTES else None
    onnx_ir.save(model, path, external_data=beside)


def _digest(network: nn.Module) -> str:
    total = hashlib.sha256()
    for name, value in network.state_dict().items():
        total.update(name.encode())
        total.update(value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy())
    return total.hexdigest()[:12]


def _remove_data_of_earlier(out: Path, kept: set[str]) -> None:
    for file in out.parent.iterdir():
        if file != out and _is_mine(file, out) and file.name not in kept:
            file.unlink()


@contextmanager
def _staging(out: Path) -> Iterator[Path]:
    """A folder beside ``out``, so that moving is renaming; what a killed export left in it goes first.

    Raises:
        ValueError: where such a folder is there that no export made.
        OSError: with ``out`` and the reason where it cannot be written.
    """
    folder = out.parent / f".{out.name}.tmp"
    if folder.exists() and not all(_is_mine(file, out) for file in folder.iterdir()):
        raise ValueError(
            f"{folder} is in the way and holds other files than an export of {out.name}; take it away"
        )
    try:
        with writing(out):
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _is_mine(file: Path, out: Path) -> bool:
    return file.name == out.name or re.fullmatch(_DATA.format(re.escape(out.name)), file.name) is not None


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the exporters' notes on packages that they miss and on their own deprecations."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def _flat(result: Any) -> list[Tensor]:
    if isinstance(result, Tensor):
        return [result]
    return list(result.values()) if isinstance(result, dict) else list(result)


def _text_of(found: dict[str, int]) -> str:
    return ", ".join(f"{label} {size}" for label, size in found.items()) or "its one size"


def _shape(name: str, value: Tensor, free: dict[int, str]) -> str:
    sides = ", ".join(free.get(d, str(size)) for d, size in enumerate(value.shape))
    return f"{name} {str(value.dtype).removeprefix('torch.')} ({sides})"


def _snippet(out: Path, inputs: Sequence[str]) -> str:
    if out.suffix == ".pt2":
        return f'torch.export.load("{out}").module()({", ".join(inputs)})'
    feed = ", ".join(f'"{n}": {n}' for n in inputs)
    return f'onnxruntime.InferenceSession("{out}").run(None, {{{feed}}})'
