"""What one answer of a network costs: latency, memory, size, FLOPs. ``zoo test --cost.measure true``."""

from __future__ import annotations

import contextlib
import io
import multiprocessing
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn

from zoo.engine.energy.callback import Energy
from zoo.engine.energy.counters import counted
from zoo.nn.flops import UncountedFlops, count_flops
from zoo.reports import say

_CHILD_SECONDS = 120


class _Count(io.RawIOBase):
    """A file that keeps nothing but its length."""

    def __init__(self) -> None:
        self.length = 0

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        self.length += len(data)
        return len(data)


def saved_bytes(module: nn.Module) -> int:
    """Length of the file that ``torch.save`` makes of a state dict."""
    file = _Count()
    torch.save(module.state_dict(), file)  # type: ignore[arg-type]
    return file.length


def _each(value: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """The same nest of lists, tuples and mappings with other tensors.

    Raises:
        TypeError: for anything else that may hold a batch.
    """
    if isinstance(value, Tensor):
        return change(value)
    if isinstance(value, dict):
        return {key: _each(item, change) for key, item in value.items()}
    if isinstance(value, list | tuple) and type(value) in (list, tuple):
        return type(value)(_each(item, change) for item in value)
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise TypeError(type(value).__name__)


class _OneItem(ValueError):
    """A network whose inputs are no rows of a batch, as a graph's."""


def batch_of(arguments: Any, items: int) -> Any:
    """The first ``items`` rows of a batch, repeated where it has fewer.

    Raises:
        _OneItem: where the tensors are not all of one number of rows: a graph is no batch of its nodes.
    """
    sizes: set[int] = set()

    def note(tensor: Tensor) -> Tensor:
        if tensor.ndim:
            sizes.add(tensor.shape[0])
        return tensor

    try:
        _each(arguments, note)
    except TypeError as error:
        raise _OneItem(f"its input holds a {error}") from None
    if len(sizes) != 1 or 0 in sizes:
        raise _OneItem("its inputs are no rows of one batch")
    rows = torch.arange(items) % sizes.pop()
    return _each(arguments, lambda t: t[rows.to(t.device)].contiguous() if t.ndim else t)


class _Calls(nn.Module):
    """Parts of a network, each with the input that it had.

    Args:
        parts: modules.
    """

    def __init__(self, parts: list[nn.Module]) -> None:
        super().__init__()
        self.parts = nn.ModuleList(parts)

    @property
    def names(self) -> str:
        """Classes of the parts."""
        return ", ".join(dict.fromkeys(type(part).__name__ for part in self.parts))

    def forward(self, given: list[Any]) -> None:
        for part, (args, kwargs) in zip(self.parts, given, strict=True):
            part(*args, **kwargs)


class Cost(Callback):
    """Measures the network on its own, after a test, with the inputs of the first test batch: one call of
    ``network``, or of each part of it that the test calls (a sampler calls a network many times).

    Written as ``costs`` of summary_test.json: median and 95th percentile of the latency and CPU seconds of a
    call at each batch size; FLOPs, dense and of weights that are not zero; bytes of the saved weights; peak
    memory (of CUDA's allocator, or of a fresh process that does nothing else); joules of 1,000 items.

    Args:
        measure: whether to.
        runs: timed calls, at least 50.
        warmup: calls before them.
        batch_sizes: items of a call. A network whose input is no batch (a graph) is timed as it is called.
        memory: whether to start the fresh process, which takes seconds.
    """

    def __init__(
        self,
        measure: bool = False,
        runs: int = 50,
        warmup: int = 10,
        batch_sizes: list[int] = [1, 64],  # noqa: B006  jsonargparse shows and copies it
        memory: bool = True,
    ) -> None:
        super().__init__()
        if runs < 50 or warmup < 0 or not batch_sizes or min(batch_sizes) < 1:
            raise ValueError(
                f"cost.runs must be at least 50, cost.warmup at least 0 and cost.batch_sizes numbers of at "
                f"least 1, got {runs}, {warmup} and {batch_sizes}"
            )
        self.measure, self.runs, self.warmup = measure, runs, warmup
        self.batch_sizes, self.memory = list(batch_sizes), memory
        self.costs: dict[str, Any] = {}
        self._hooks: list[Any] = []
        self._calls: list[tuple[nn.Module, Any, Any]] = []
        self._depth = 0
        self._parameters: set[int] = set()
        self._covered: set[int] = set()

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not self.measure or not trainer.is_global_zero:
            return
        self._calls, self._depth, outside = [], 0, pl_module
        network = getattr(pl_module, "network", None)
        holder = network if isinstance(network, nn.Module) else pl_module
        self._parameters, self._covered = {id(p) for p in holder.parameters()}, set()

        def before(module: nn.Module, args: Any) -> None:
            self._depth += module is not outside

        def after(module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
            self._depth -= module is not outside
            if module is not outside and (self._depth == 0 or module is network):
                self._note(module, args, kwargs, module is network)

        # a network may be called in parts, or as a slice of layers that is no module of the method's
        self._hooks = [
            nn.modules.module.register_module_forward_pre_hook(before),
            nn.modules.module.register_module_forward_hook(after, with_kwargs=True, always_call=True),
        ]

    def on_test_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        self._remove()

    def _note(self, module: nn.Module, args: Any, kwargs: Any, whole: bool) -> None:
        """Keep the first call of each part of the network, or that of the network itself."""
        own = {id(p) for p in module.parameters()} & self._parameters
        if not own - self._covered:
            return
        with contextlib.suppress(TypeError):
            args, kwargs = _each(args, _copy), _each(kwargs, _copy)
        self._calls = [*([] if whole else self._calls), (module, args, kwargs)]
        self._covered = self._parameters if whole else self._covered | own

    def _remove(self) -> None:
        for hook in self._hooks:
            hook.remove()
        self._hooks = []

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self._remove()

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._remove()
        if not self.measure or not trainer.is_global_zero:
            return
        if not self._calls:
            say("cost: nothing was measured: the test calls no network")
            self.costs = {"unknown": "the test calls no network"}
            return
        network = _Calls([module for module, _, _ in self._calls])
        arguments = [(args, kwargs) for _, args, kwargs in self._calls]
        self._calls = []
        parameters = list(network.parameters())
        self.costs = {
            "network": network.names,
            "threads": torch.get_num_threads(),
            "parameters": sum(p.numel() for p in parameters),
            "nonzero_parameters": sum(int(torch.count_nonzero(p)) for p in parameters),
            "bytes": saved_bytes(network.parts),
        }
        energy = next((c for c in trainer.callbacks if isinstance(c, Energy)), None)  # type: ignore[attr-defined]
        try:
            with torch.random.fork_rng(), trainer.precision_plugin.forward_context():
                for name, items, given in self._batches(arguments):
                    self._measure(network, name, items, given, energy)
        except Exception as error:  # the test itself has ended well
            self.costs["unknown"] = why = f"{type(error).__name__}: {str(error)[:200]}"
            say(f"cost: not all was measured: the network does not answer on its own ({why})")
        self._say()

    def _batches(self, arguments: Any) -> Iterator[tuple[str, int | None, Any]]:
        try:
            for items in self.batch_sizes:
                yield f"batch{items}", items, batch_of(arguments, items)
        except _OneItem as error:
            say(f"cost: {self.costs['network']} is timed as the test calls it: {error}")
            yield "whole", None, arguments

    def _measure(
        self, network: nn.Module, name: str, items: int | None, given: Any, energy: Energy | None
    ) -> None:
        device = next((p.device for p in network.parameters()), torch.device("cpu"))
        counters = None if energy is None else energy.counters
        with torch.inference_mode():
            try:
                found = count_flops(network, given)
                per = items or 1
                self.costs[f"flops_per_sample_{name}"] = found.dense / per
                self.costs[f"effective_flops_per_sample_{name}"] = (found.effective or 0) / per
            except UncountedFlops as error:
                self.costs[f"flops_per_sample_{name}"] = None
                self.costs["flops_unknown"] = str(error)
            for _ in range(self.warmup):
                network(given)
            before = {} if counters is None else counters.read()
            walls: list[float] = []
            busy: list[float] = []
            for _ in range(self.runs):
                with _clock(device, walls, busy):
                    network(given)
        if counters is not None and items is not None:
            spent = {c: j - before.get(c, 0.0) for c, j in counters.read().items()}
            joules = counted(spent, counters.components())
            self.costs[f"joules_per_1000_{name}"] = 1000 * joules / (self.runs * items)
        walls.sort()
        self.costs[f"latency_ms_p50_{name}"] = 1e3 * statistics.median(walls)
        self.costs[f"latency_ms_p95_{name}"] = 1e3 * walls[min(len(walls) - 1, round(0.95 * len(walls)))]
        self.costs[f"cpu_ms_{name}"] = 1e3 * statistics.median(busy)
        memory = _peak_memory(network, given, device) if self.memory else "cost.memory is false"
        self.costs[f"peak_memory_bytes_{name}"] = memory if isinstance(memory, int) else None
        if isinstance(memory, str):
            self.costs["memory_unknown"] = memory

    def _say(self) -> None:
        last = "peak_memory_bytes_"
        names = [key.removeprefix(last) for key in self.costs if key.startswith(last)]
        for name in names:
            c = {key.removesuffix(f"_{name}"): v for key, v in self.costs.items() if key.endswith(f"_{name}")}
            memory = c["peak_memory_bytes"]
            flops = c["flops_per_sample"]
            say(
                f"cost        {name}: {c['latency_ms_p50']:.3g} ms (p95 {c['latency_ms_p95']:.3g}, "
                f"threads {self.costs['threads']}), CPU {c['cpu_ms']:.3g} ms, "
                f"{'FLOPs unknown' if flops is None else f'{flops:.4g} FLOPs a sample'}, peak memory "
                f"{'unknown' if memory is None else f'{memory / 2**20:.4g} MiB'}"
            )
        for key in ("flops_unknown", "memory_unknown"):
            if key in self.costs:
                say(f"cost: {key.replace('_', ' ')}: {self.costs[key]}")


def _copy(tensor: Tensor) -> Tensor:
    return tensor.detach().clone()


@contextmanager
def _clock(device: torch.device, walls: list[float], busy: list[float]) -> Iterator[None]:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    wall, cpu = time.perf_counter(), time.process_time()
    yield
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    walls.append(time.perf_counter() - wall)
    busy.append(time.process_time() - cpu)


def _peak_memory(network: nn.Module, given: Any, device: torch.device) -> int | str:
    """Bytes at the height of one call, weights included; on a CPU of a fresh process, without what Python and
    its libraries take. A text says why it is unknown."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        with torch.inference_mode():
            network(given)
        torch.cuda.synchronize(device)
        return int(torch.cuda.max_memory_allocated(device))
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    child = context.Process(target=_in_child, args=(theirs, torch.get_num_threads()), daemon=True)
    try:
        child.start()
        theirs.close()
        ours.send_bytes(_pickled((network, given)))
        if not ours.poll(_CHILD_SECONDS):
            return f"the fresh process gave no answer in {_CHILD_SECONDS} s"
        answer = ours.recv()
        return answer if isinstance(answer, int | str) else "the fresh process gave no number"
    except Exception as error:  # what does not go into another process: open files, local functions, hooks
        return f"{type(error).__name__}: {str(error)[:120]}"
    finally:
        child.kill()
        child.join()


def _pickled(value: Any) -> bytes:
    import pickle

    return pickle.dumps(value)


def _in_child(pipe: Any, threads: int) -> None:
    """One call in a process that has done nothing else; answers with the bytes of its height."""
    import pickle

    torch.set_num_threads(threads)
    torch.ones(64, 64) @ torch.ones(64, 64)  # what the library itself takes at its first product
    data = pipe.recv_bytes()  # of our own parent
    try:
        network, given = pickle.loads(data)
        held = sum(t.numel() * t.element_size() for t in network.state_dict().values())
        del data
        before = _restart_height() - held
        with torch.inference_mode():
            network(given)
        pipe.send(max(0, _height() - before))
    except Exception as error:
        pipe.send(f"{type(error).__name__}: {str(error)[:120]}")


def _height() -> int:
    """Bytes of the most memory that this process had; the counter of getrusage also knows the parent's."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return 1024 * int(line.split()[1])
    raise OSError("the system does not tell a process its peak memory")


def _restart_height() -> int:
    """Count the height anew from what is held now, which is the answer."""
    Path("/proc/self/clear_refs").write_text("5")
    return _height()
