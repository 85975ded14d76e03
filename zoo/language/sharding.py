"""A language model over several devices: rows over some (FSDP2), tensors over others (tensor parallel).

Tensor parallelism is Megatron's (Shoeybi et al. 2019): queries, keys, values, gate and up split by columns,
so that each device has some heads and some units; output and down projections by rows, whose products are
summed; the table of tokens by entries. FSDP2 keeps of each block a share on each device and gathers it when
needed.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.strategies import ModelParallelStrategy
from torch import Tensor, nn
from torch import distributed as dist
from torch.distributed.tensor import DTensor, Replicate
from torchmetrics import Metric

_COLUMNS = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "mlp.gate_proj", "mlp.up_proj")
_ROWS = ("self_attn.o_proj", "mlp.down_proj")


def check_strategy(module: LightningModule, model: nn.Module, stage: str) -> None:
    """What the trainer's strategy asks of a model.

    Args:
        module: whose trainer is asked.
        model: of transformers.
        stage: ``fit``, ``validate``, ``test`` or ``predict``.

    Raises:
        ValueError: for generation with a sharded model, whose processes would wait for each other's longest
            text, and for tensors that cannot be split.
    """
    if not isinstance(module.trainer.strategy, ModelParallelStrategy):
        return
    if stage == "predict":
        raise ValueError(
            f"zoo.{type(module).__name__} does not generate with sharded weights: use trainer/ddp "
            "or one device"
        )
    mesh = module.device_mesh
    if mesh is not None and mesh["tensor_parallel"].size() > 1:
        parts = int(mesh["tensor_parallel"].size())
        check_split(model, parts)
        if (adapt := module.hparams.get("adapt", "none")) != "none":
            raise ValueError(
                f"model.init_args.adapt: {adapt} adds weights that are not split: set "
                "tensor_parallel_size: 1 and shard by rows (trainer/fsdp)"
            )
        if not module.hparams.get("decay_embeddings", True):
            raise ValueError(
                "model.init_args.decay_embeddings: false puts tables that are split into one group of the "
                f"optimizer with norms that are not: with tensor_parallel_size {parts} leave it out"
            )


def check_split(model: nn.Module, parts: int) -> None:
    """Whether the tensors of a model of transformers can be split over ``parts`` devices.

    Raises:
        ValueError: for a model without separate projections, heads or units that do not divide, dropout,
            which would differ between devices that hold the same states, and untied halves of a pair.
    """
    config: Any = model.config
    if config.model_type != "llama":
        raise ValueError(
            f"tensor parallelism splits models like Llama, {config.model_type} has queries, keys and "
            "values in one projection: set tensor_parallel_size: 1 and shard by rows (trainer/fsdp)"
        )
    sizes = {
        "heads": config.num_attention_heads,
        "kv_heads": config.num_key_value_heads,
        "hidden": config.intermediate_size,
    }
    for name, size in sizes.items():
        if size % parts:
            raise ValueError(
                f"model.init_args.{name} is {size}, which tensor_parallel_size {parts} does not divide"
            )
    if config.attention_dropout:
        raise ValueError(
            f"model.init_args.dropout is {config.attention_dropout}, which would differ between the devices "
            f"of tensor_parallel_size {parts}: set it to 0"
        )


def split_tensors(model: Any, mesh: Any) -> None:
    """Split the tensors of a Llama of transformers over a one-dimensional mesh, in place. Weights that were
    tied stay so; the same logits, whole, on each device."""
    from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

    head, table = model.get_output_embeddings(), model.get_input_embeddings()
    tied = head.weight is table.weight
    names = {id(m): name for name, m in model.named_modules()}
    plan: dict[str, Any] = {
        names[id(table)]: RowwiseParallel(input_layouts=Replicate(), output_layouts=Replicate()),
        names[id(head)]: ColwiseParallel(output_layouts=Replicate()),
    }
    for block in model.base_model.layers:
        plan |= {f"{names[id(block)]}.{part}": ColwiseParallel() for part in _COLUMNS}
        plan |= {f"{names[id(block)]}.{part}": RowwiseParallel() for part in _ROWS}
    parallelize_module(model, mesh, plan)
    if tied:
        head.weight = table.weight


def shard(module: LightningModule, model: Any, blocks: Iterable[nn.Module]) -> None:
    """Split and shard a model of transformers over the module's mesh; nothing without one, nor a second time.

    Args:
        module: whose ``configure_model`` this is.
        model: in whose last unit table and output layer, which may be tied, are together.
        blocks: of the model, the units before.
    """
    mesh = module.device_mesh
    if mesh is None or any(isinstance(p, DTensor) for p in model.parameters()):
        return
    for metric in module.modules():
        if isinstance(metric, Metric):  # counts each row once
            metric.process_group = mesh["data_parallel"].get_group()
    if mesh["tensor_parallel"].size() > 1:
        check_split(model, int(mesh["tensor_parallel"].size()))
        split_tensors(model, mesh["tensor_parallel"])
    if mesh["data_parallel"].size() > 1:
        from torch.distributed.fsdp import fully_shard

        for part in [*blocks, model]:
            fully_shard(part, mesh=mesh["data_parallel"])


# --- gradients ----------------------------------------------------------------------------------------------


def _kind(tensor: Tensor) -> Any:
    """Tensors of one kind can stand in one fused operation."""
    return (id(tensor.device_mesh), tensor.placements) if isinstance(tensor, DTensor) else None


@torch.no_grad()
def global_norm(gradients: Iterable[Tensor]) -> Tensor:
    """The Euclidean norm over gradients of any placement, as if they lay on one device."""
    sums: dict[Any, list[Any]] = {}
    for gradient in gradients:
        local = gradient.to_local() if isinstance(gradient, DTensor) else gradient
        square = local.double().square().sum()
        entry = sums.setdefault(_kind(gradient), [gradient, torch.zeros_like(square)])
        entry[1] += square
    whole = [_over_shards(gradient, square) for gradient, square in sums.values()]
    return torch.stack(whole).sum().sqrt() if whole else torch.zeros(())


def _over_shards(gradient: Tensor, square: Tensor) -> Tensor:
    if isinstance(gradient, DTensor):
        for axis, placement in enumerate(gradient.placements):
            if placement.is_shard():
                dist.all_reduce(square, group=gradient.device_mesh.get_group(axis))
    return square


@torch.no_grad()
def clip_norm(parameters: Iterable[Tensor], most: float) -> Tensor:
    """Scale gradients in place so that their norm over all devices is at most ``most``; the norm before."""
    gradients = [p.grad for p in parameters if p.grad is not None]
    norm = global_norm(gradients)
    scale = (most / (norm + 1e-6)).clamp(max=1.0)  # as torch.nn.utils.clip_grad_norm_
    for gradient in gradients:
        local = gradient.to_local() if isinstance(gradient, DTensor) else gradient
        local.mul_(scale.to(local.dtype))
    return norm


def clip_sharded(module: LightningModule, optimizer: Any, value: float | None, algorithm: str | None) -> None:
    """A module's ``configure_gradient_clipping``: the norm is that over all devices."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    is_norm = algorithm in (None, "norm")
    if value and is_norm and any(isinstance(p, DTensor) for p in parameters):
        clip_norm(parameters, float(value))
    else:
        module.clip_gradients(optimizer, gradient_clip_val=value, gradient_clip_algorithm=algorithm)
