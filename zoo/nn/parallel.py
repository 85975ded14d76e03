"""Sharding of a network's parts with FSDP2, Lightning's strategy for it, and what runs in one process."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.core.optimizer import LightningOptimizer
from lightning.pytorch.strategies import ModelParallelStrategy
from torch import nn
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer

from zoo.hub.shards import META, numbered, whole_checkpoint
from zoo.nn.sharded import load_whole

_SPLIT = "tensor_parallel_size"  # entry of a checkpoint


class FSDP2(ModelParallelStrategy):
    """``ModelParallelStrategy`` whose ``auto`` is every device.

    Lightning's is one data-parallel rank per machine, with tensor parallelism inside it, and fails on two
    GPUs of one machine unless their number is written down. The methods here shard and do not split tensors.

    Args:
        data_parallel_size: devices to shard over; ``auto`` is all that ``tensor_parallel_size`` leaves.
        tensor_parallel_size: of modules that split their own tensors; ``auto`` is every device of a machine.
        save_distributed_checkpoint: whether each rank writes its shard, into a folder, or rank 0 one file.
        process_group_backend: null takes NCCL on GPUs and gloo on CPUs.
    """

    def __init__(
        self,
        data_parallel_size: Literal["auto"] | int = "auto",
        tensor_parallel_size: Literal["auto"] | int = 1,
        save_distributed_checkpoint: bool = False,
        process_group_backend: str | None = None,
    ) -> None:
        super().__init__(
            data_parallel_size, tensor_parallel_size, save_distributed_checkpoint, process_group_backend
        )

    def setup_environment(self) -> None:
        if self._tensor_parallel_size == "auto":
            self._tensor_parallel_size = self.num_processes
        if self._data_parallel_size == "auto":
            assert isinstance(self._tensor_parallel_size, int)
            self._data_parallel_size = self.num_nodes * self.num_processes // self._tensor_parallel_size
        super().setup_environment()

    def optimizer_state(self, optimizer: Optimizer) -> dict[str, Any]:
        """Gathered, numbered group by group as torch's own optimizers do; Lightning counts over a module."""
        if self._save_distributed_checkpoint:
            return super().optimizer_state(optimizer)
        from torch.distributed.checkpoint.state_dict import StateDictOptions, get_optimizer_state_dict

        assert self.model is not None
        own = optimizer._optimizer if isinstance(optimizer, LightningOptimizer) else optimizer
        options = StateDictOptions(full_state_dict=True, cpu_offload=True)
        state = get_optimizer_state_dict(self.model, own, options=options)
        return numbered(state) if self.global_rank == 0 else state

    def save_checkpoint(
        self, checkpoint: dict[str, Any], filepath: str | Path, storage_options: Any | None = None
    ) -> None:
        checkpoint[_SPLIT] = int(self.device_mesh["tensor_parallel"].size())
        super().save_checkpoint(checkpoint, filepath, storage_options)

    def load_checkpoint(
        self, checkpoint_path: str | Path, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """A file of one process, or a folder of shards that any number of processes wrote.

        Lightning's looks for a tied weight under each of its names, and takes the numbers of an optimizer of
        several groups for places in the module.
        """
        path = Path(self.broadcast(checkpoint_path))
        if path.is_dir():
            meta = torch.load(path / META, map_location="cpu", weights_only=True)
            if meta.get(_SPLIT, 1) == self.device_mesh["tensor_parallel"].size():
                return super().load_checkpoint(path, weights_only=True)
            checkpoint = whole_checkpoint(path)
        else:
            checkpoint = torch.load(path, map_location="cpu", mmap=True, weights_only=True)
        assert self.model is not None
        assert self.lightning_module is not None
        load_whole(self.model, self.optimizers, checkpoint, self.lightning_module.strict_loading)
        return checkpoint


def shard_blocks(module: LightningModule, parts: Iterable[nn.Module | None]) -> None:
    """Call ``fully_shard`` on each part, in the given order (inner blocks first), over the data-parallel
    mesh.

    Does nothing without a device mesh, and nothing on a second call: Lightning may run ``configure_model``
    twice. Every part with trainable parameters must be listed, or its gradients are not averaged over the
    ranks.
    """
    mesh = module.device_mesh
    if mesh is None:
        return
    from torch.distributed.fsdp import fully_shard

    if mesh["tensor_parallel"].size() > 1:
        raise ValueError(
            f"zoo.{type(module).__name__} does not split its tensors: set tensor_parallel_size: 1 in "
            "trainer.strategy.init_args"
        )
    present = [part for part in parts if part is not None]
    if any(isinstance(p, DTensor) for part in present for p in part.parameters()):
        return
    for part in present:
        fully_shard(part, mesh=mesh["data_parallel"])


def refuse_sharding(module: LightningModule) -> None:
    """Raises ValueError under a strategy that would leave an unsharded module's ranks to themselves."""
    if isinstance(module.trainer.strategy, ModelParallelStrategy):
        raise ValueError(f"zoo.{type(module).__name__} is not sharded: use trainer/ddp, not trainer/fsdp")


def refuse_processes(module: LightningModule, why: str, instead: str = "") -> None:
    """Raises ValueError where several processes would run what has nothing to split.

    Args:
        module: whose trainer is asked.
        why: what the module does, after its name.
        instead: what else can be done.
    """
    processes = module.trainer.world_size
    if processes > 1:
        raise ValueError(
            f"zoo.{type(module).__name__} {why}: {processes} processes would do the same work; set "
            f"trainer.devices: 1 and trainer.num_nodes: 1{instead}"
        )


def refuse_whole_graph_in_parts(module: LightningModule, instead: str = "") -> None:
    """Raises ValueError for several processes and for accumulation, when each batch is the whole graph."""
    refuse_processes(module, "trains on one graph, which is one batch", instead)
    if module.trainer.accumulate_grad_batches > 1:
        raise ValueError(
            f"zoo.{type(module).__name__} makes one optimiser step per batch, which is the whole graph; set "
            "trainer.accumulate_grad_batches: 1"
        )


def predict_in_one_process(module: LightningModule, stage: str) -> None:
    """Raises ValueError where several processes would each predict a part of what is reported together."""
    if stage == "predict" and module.trainer.world_size > 1:
        raise ValueError(
            f"zoo.{type(module).__name__} draws its predictions in one picture: set trainer.devices: 1 for "
            "predict"
        )
