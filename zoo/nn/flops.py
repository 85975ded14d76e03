"""FLOPs of what a block of code computes: products of matrices, convolutions, attention, recurrence.

One multiplication with its addition are 2 FLOPs. Elementwise operations, reductions, gathering and scattering
count nothing, as in ``torch.utils.flop_counter``, whose formulas are used. Those that it lacks are here:
attention of the CPU, the fused path of ``nn.TransformerEncoder`` and ``nn.MultiheadAttention`` in eval mode,
LSTMs, quantised layers, sparse matrices, bags of embeddings. A formula of ours takes the place of torch's, so
that nothing counts twice when torch learns one. What has no formula is named, never counted as 0.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

Formula = Callable[..., int]
aten = torch.ops.aten

# Of aten, what costs more than its elements. What is named so and has no formula is not free.
_HEAVY = re.compile(
    r"convolution|conv[123]d|conv_tbc|conv_transpose|(^|_)(mm|bmm|addmm|baddbmm|matmul|mv|addmv|linear)(_|$)"
    r"|rnn|lstm|gru|attention|attn|encoder_layer|cdist|euclidean_dist|trilinear|linalg|cholesky|lu_solve|fft"
    r"|pack_mm|int_mm|grouped_mm|scaled_mm"
)
# Weights that are brought into another layout, and the elementwise half of a cell
_FREE = re.compile(r"upsample|reorder|thnn_fused|fused_sdp_choice|linalg_vector_norm|fftfreq|_fft_.*cache")
_FREE_NAMESPACES = {
    *("aten", "prim", "prims", "profiler", "c10d", "c10d_functional", "_c10d_functional", "inductor"),
    *("_dtensor", "fsdp", "symm_mem"),
}


class UncountedFlops(ValueError):
    """What was computed has parts whose FLOPs nobody knows, named in the message."""


@dataclass(frozen=True)
class Flops:
    """What a block of code computed.

    Attributes:
        dense: all, zeros in the weights included.
        effective: without those with a weight of zero; None where it was not asked for.
        by_operation: of each operation, by its name in torch.
    """

    dense: int
    effective: int | None
    by_operation: dict[str, int]


class FlopCounter(TorchDispatchMode):
    """Counts while it is entered. Computes nothing else, draws nothing and changes no result.

    Args:
        effective: also count what weights that are not zero do, which reads the weights.

    Attributes:
        dense: all FLOPs so far.
        by_operation: FLOPs of each operation.
        uncounted: operations without a formula, and modules that should have counted and did not.
    """

    def __init__(self, effective: bool = False) -> None:
        super().__init__()
        self.dense = 0
        self.by_operation: Counter[str] = Counter()
        self.uncounted: dict[str, None] = {}
        self._effective = 0.0 if effective else None
        self._met: set[int] = set()  # parameters that an operation took
        self._open: list[tuple[nn.Module, int]] = []
        self._hooks: list[Any] = []
        self._known: dict[Any, tuple[Formula | None, bool, bool]] = {}

    @contextmanager
    def _parts(self) -> Iterator[None]:
        """Count what an operation is made of; its modules are those that are open already."""
        super().__enter__()
        try:
            yield
        finally:
            super().__exit__(None, None, None)

    def result(self) -> Flops:
        """What was counted.

        Raises:
            UncountedFlops: when there is something that was not.
        """
        if self.uncounted:
            raise UncountedFlops(self.why)
        effective = None if self._effective is None else round(self._effective)
        return Flops(self.dense, effective, dict(self.by_operation))

    @property
    def why(self) -> str:
        """What was not counted, in words; empty when all was."""
        names = list(self.uncounted)
        more = f" and {len(names) - 4} more" if len(names) > 4 else ""
        return f"no FLOPs are known of {', '.join(names[:4])}{more}" if names else ""

    def __enter__(self) -> FlopCounter:
        self._hooks = [
            register_module_forward_pre_hook(self._enter_module),
            register_module_forward_hook(self._leave_module, always_call=True),
        ]
        super().__enter__()
        return self

    def __exit__(self, *exception: Any) -> None:
        super().__exit__(*exception)
        for hook in self._hooks:
            hook.remove()
        self._hooks, self._open = [], []

    def _enter_module(self, module: nn.Module, args: Any) -> None:
        self._open.append((module, self.dense))

    def _leave_module(self, module: nn.Module, args: Any, output: Any) -> None:
        while self._open:
            entered, before = self._open.pop()
            if entered is module:
                if self.dense == before and not isinstance(module, nn.Embedding):
                    self._check_silent(module)
                return

    def _check_silent(self, module: nn.Module) -> None:
        """A module whose matrices nothing took has computed out of our sight; a table that is added not."""
        held = [p for p in module._parameters.values() if p is not None and not nn.parameter.is_lazy(p)]
        matrices = [p for p in held if p.ndim > 1 and p.numel()]
        if matrices and not any(id(p) in self._met for p in matrices):
            self.uncounted[f"a module {type(module).__name__} with parameters, which counted 0"] = None

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if not isinstance(func, torch._ops.OpOverload):
            self.uncounted[str(func)] = None
            return func(*args, **kwargs)
        known = self._known.get(func)
        if known is None:
            formula = _formula(func._overloadpacket)
            parts = formula is None and func._can_decompose() and _is_composite(func)
            known = self._known[func] = formula, parts, _is_free(func)
        formula, parts, free = known
        if parts:
            with self._parts():
                return func.decompose(*args, **kwargs)
        out = func(*args, **kwargs)
        for arg in args:
            for tensor in arg if isinstance(arg, list | tuple) else (arg,):
                if isinstance(tensor, nn.Parameter):
                    self._met.add(id(tensor))
        if formula is None:
            if not free:
                self.uncounted[func._schema.name] = None
            return out
        try:
            flops = int(formula(*args, **kwargs, out_val=out))
        except Exception as error:  # an argument that the formula does not know must not end a training
            self.uncounted[f"{func._schema.name} ({type(error).__name__}: {str(error)[:80]})"] = None
            return out
        self.by_operation[func._schema.name.removeprefix("aten::")] += flops
        self.dense += flops
        if self._effective is not None:
            self._effective += flops * self._share(args)
        return out

    def _share(self, args: Any) -> float:
        """Which part of the weight of an operation is not zero: of the module at work, masked or not."""
        if not self._open:
            return 1.0
        module = self._open[-1][0]
        held = [*module._parameters.values(), *(v for v in vars(module).values() if isinstance(v, Tensor))]
        places = {t.untyped_storage().data_ptr() for t in held if isinstance(t, Tensor) and t.ndim > 1}
        for arg in args:
            matrix = isinstance(arg, Tensor) and arg.layout == torch.strided and arg.ndim > 1 and arg.numel()
            if matrix and arg.untyped_storage().data_ptr() in places:
                return float(torch.count_nonzero(arg)) / float(arg.numel())
        return 1.0


@contextmanager
def _without_fast_path() -> Iterator[None]:
    """``nn.TransformerEncoder`` computes padded tokens too, layer by layer, as it does while it trains."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


def count_flops(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Flops:
    """FLOPs of ``function(*args, **kwargs)``, dense and effective.

    Raises:
        UncountedFlops: naming operations without a formula, and modules whose parameters counted 0.
    """
    with _without_fast_path(), FlopCounter(effective=True) as counter:
        function(*args, **kwargs)
    return counter.result()


def _is_composite(func: Any) -> bool:
    return bool(func.has_kernel_for_dispatch_key(torch._C.DispatchKey.CompositeImplicitAutograd))


def _is_free(func: Any) -> bool:
    space, _, name = func._schema.name.partition("::")
    if space not in _FREE_NAMESPACES:
        return bool(space == "quantized" and not re.search("linear|conv|lstm|gru|rnn|matmul", name))
    return space != "aten" or not _HEAVY.search(name) or bool(_FREE.search(name))


def _formula(packet: Any) -> Formula | None:
    name = packet._qualified_op_name.removeprefix("aten::")
    if name.endswith("_") and not name.endswith("__"):  # in place: the same product
        packet = getattr(aten, name.rstrip("_"), packet)
    return _OURS.get(packet) or flop_registry.get(packet)


# --- formulas: the operation's own arguments and out_val -> FLOPs


def _nonzeros(matrix: Tensor) -> int:
    return matrix._nnz() if matrix.layout != torch.strided else matrix.numel()


def _mm(a: Tensor, b: Tensor, *_: Any, **__: Any) -> int:
    """(m, k) x (k, n), either of which may be sparse."""
    if a.layout != torch.strided and b.layout != torch.strided:
        raise TypeError("a product of two sparse matrices")
    return 2 * (_nonzeros(a) * b.shape[-1] if a.layout != torch.strided else _nonzeros(b) * a.shape[-2])


def _addmm(bias: Tensor, a: Tensor, b: Tensor, *_: Any, **__: Any) -> int:
    return _mm(a, b)


def _mv(a: Tensor, b: Tensor, *_: Any, **__: Any) -> int:
    return 2 * _nonzeros(a)


def _addmv(bias: Tensor, a: Tensor, b: Tensor, *_: Any, **__: Any) -> int:
    return 2 * _nonzeros(a)


def _addr(bias: Tensor, a: Tensor, b: Tensor, *_: Any, **__: Any) -> int:
    return 2 * a.numel() * b.numel()


def _attention(q: Tensor, k: Tensor, v: Tensor, *_: Any, **__: Any) -> int:
    """Queries (B, H, S, D), keys (B, h, T, D), values (B, h, T, d): S x T scores and what they weigh."""
    pairs = math.prod(q.shape[:-1]) * k.shape[-2]
    return 2 * pairs * (q.shape[-1] + v.shape[-1])


def _attention_backward(gradient: Tensor, q: Tensor, k: Tensor, v: Tensor, *_: Any, **__: Any) -> int:
    """Two products for each of the forward pass, as torch counts its other kernels."""
    return 2 * _attention(q, k, v)


def _lengths(tokens: Tensor) -> list[int]:
    """Of each sequence of a batch, padded or nested."""
    if tokens.is_nested:
        return [int(n) for n in tokens._nested_tensor_size()[:, 0]]
    return [tokens.shape[1]] * tokens.shape[0]


def _self_attention(tokens: Tensor, width: int, matrices: list[Tensor]) -> int:
    lengths = _lengths(tokens)
    return 2 * sum(lengths) * sum(m.numel() for m in matrices) + 4 * width * sum(n * n for n in lengths)


def _encoder_layer(src: Tensor, width: int, heads: int, *args: Any, **_: Any) -> int:
    """Arguments from the third on: qkv and its bias, projection and its, three settings, two norms, two
    layers with their biases."""
    return _self_attention(src, width, [args[0], args[2], args[11], args[13]])


def _multi_head(q: Tensor, k: Tensor, v: Tensor, width: int, heads: int, *args: Any, **_: Any) -> int:
    return _self_attention(q, width, [args[0], args[2]])


def _recurrent(tokens: Tensor, matrices: list[Tensor]) -> int:
    """Each matrix of each layer and direction meets each token once."""
    return 2 * (tokens.numel() // tokens.shape[-1]) * sum(m.numel() for m in matrices if m.ndim > 1)


def _mkldnn_rnn(tokens: Tensor, inner: Tensor, hidden: Tensor, *_: Any, **__: Any) -> int:
    return _recurrent(tokens, [inner, hidden])


def _mkldnn_rnn_backward(*args: Any, **_: Any) -> int:
    return 2 * _mkldnn_rnn(*args)


def _cudnn_rnn(tokens: Tensor, weights: list[Tensor], *_: Any, **__: Any) -> int:
    return _recurrent(tokens, weights)


def _cudnn_rnn_backward(*args: Any, **_: Any) -> int:
    return 2 * _cudnn_rnn(*args)


def _quantized_rnn(gates: int, tokens: Tensor, hx: Any, layers: int, both_ways: bool) -> int:
    hidden = (hx[0] if isinstance(hx, list | tuple) else hx).shape[-1]
    ways, width, total = 1 + both_ways, tokens.shape[-1], 0
    for _ in range(layers):
        total += ways * gates * hidden * (width + hidden)
        width = ways * hidden
    return 2 * (tokens.numel() // tokens.shape[-1]) * total


def _quantized_lstm(tokens: Tensor, hx: Any, packed: Any, *args: Any, **_: Any) -> int:
    """Further arguments: biases, layers, dropout, training, both directions, batch first."""
    return _quantized_rnn(4, tokens, hx, args[1], args[4])


def _quantized_gru(tokens: Tensor, hx: Any, packed: Any, *args: Any, **_: Any) -> int:
    """Further arguments: biases, layers, dropout, training, both directions, batch first."""
    return _quantized_rnn(3, tokens, hx, args[1], args[4])


def _quantized_linear(x: Tensor, *_: Any, out_val: Tensor, **__: Any) -> int:
    return 2 * x.numel() * out_val.shape[-1]


def _quantized_conv(x: Tensor, packed: Any, *_: Any, out_val: Tensor, **__: Any) -> int:
    weight = packed.unpack()[0]  # (out, in / groups, kernel...)
    return 2 * out_val.numel() * (weight.numel() // weight.shape[0])


def _packed_mm(a: Tensor, b: Tensor, *_: Any, out_val: Tensor, **__: Any) -> int:
    return 2 * a.numel() * out_val.shape[-1]


def _embedding_bag(table: Tensor, indices: Tensor, *args: Any, **_: Any) -> int:
    """Rows that are added up, and multiplied where they have weights of their own."""
    weighted = len(args) > 4 and args[4] is not None
    return indices.numel() * table.shape[-1] * (1 + weighted)


def _distances(a: Tensor, b: Tensor, *_: Any, **__: Any) -> int:
    """Difference, power and sum for each pair of rows."""
    return 3 * math.prod(a.shape[:-1]) * b.shape[-2] * a.shape[-1]


def _distances_backward(gradient: Tensor, a: Tensor, b: Tensor, *_: Any, **__: Any) -> int:
    return _distances(a, b)


def _euclidean(a: Tensor, b: Tensor, *_: Any, **__: Any) -> int:
    return 2 * math.prod(a.shape[:-1]) * b.shape[-2] * (a.shape[-1] + 2)


def _trilinear(a: Tensor, b: Tensor, c: Tensor, *_: Any, out_val: Tensor, **__: Any) -> int:
    """Of nn.Bilinear: rows (B, 1, i, 1) and (B, 1, 1, j) with a weight (1, o, i, j)."""
    rows = max(a.shape[0], c.shape[0])
    return 3 * rows * b.numel()


_CPU, _ANY = "_scaled_dot_product_flash_attention_for_cpu", "_scaled_dot_product_fused_attention_overrideable"
_ATEN: dict[str, Formula] = {
    "mm": _mm,
    "_sparse_mm": _mm,
    "addmm": _addmm,
    "_addmm_activation": _addmm,
    "_sparse_addmm": _addmm,
    "mv": _mv,
    "dot": _mv,
    "vdot": _mv,
    "addmv": _addmv,
    "addr": _addr,
    _CPU: _attention,
    _ANY: _attention,
    "_scaled_dot_product_attention_math_for_mps": _attention,
    f"{_CPU}_backward": _attention_backward,
    f"{_ANY}_backward": _attention_backward,
    "_transformer_encoder_layer_fwd": _encoder_layer,
    "_native_multi_head_attention": _multi_head,
    "mkldnn_rnn_layer": _mkldnn_rnn,
    "mkldnn_rnn_layer_backward": _mkldnn_rnn_backward,
    "_cudnn_rnn": _cudnn_rnn,
    "_cudnn_rnn_backward": _cudnn_rnn_backward,
    "quantized_lstm": _quantized_lstm,
    "quantized_gru": _quantized_gru,
    "_int_mm": _packed_mm,
    "_weight_int8pack_mm": _packed_mm,
    "_weight_int4pack_mm_for_cpu": _packed_mm,
    "_embedding_bag": _embedding_bag,
    "_embedding_bag_forward_only": _embedding_bag,
    "_cdist_forward": _distances,
    "_cdist_backward": _distances_backward,
    "_euclidean_dist": _euclidean,
    "_trilinear": _trilinear,
}
_QUANTIZED: dict[str, Formula] = {
    **{f"linear{end}": _quantized_linear for end in ("", "_relu", "_dynamic", "_relu_dynamic")},
    "linear_dynamic_fp16": _quantized_linear,
    **{f"conv{n}d{end}": _quantized_conv for n in (1, 2, 3) for end in ("", "_relu", "_dynamic")},
}
_OURS: dict[Any, Formula] = {
    **{packet: f for name, f in _ATEN.items() if (packet := getattr(aten, name, None)) is not None},
    **{
        packet: f
        for name, f in _QUANTIZED.items()
        if (packet := getattr(torch.ops.quantized, name, None)) is not None
    },
}
