"""Few new weights beside frozen ones: LoRA, IA3, adapters, prefixes, prompts, on any model of transformers.

LoRA (Hu et al. 2022): y = W x + (alpha / r) B A x with B = 0 at first; rsLoRA divides by the root of r. IA3
(Liu et al. 2022): learned scales of keys, values and the input of the last feed-forward layer, 1 at first.
Both are peft's layers. Adapters (Houlsby et al. 2019): y + up(gelu(down y)) behind attention and feed-forward
layer, up = 0 at first. Prefixes (Li & Liang 2021): learned keys and values before those of each layer.
Prompts (Lester et al. 2021): learned embeddings before those of the text.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

Adapt = Literal["none", "lora", "ia3", "adapters", "prefix", "prompt"]
_BASE = ".base_layer"
_LORA = {"gpt2": ["c_attn"], "llama": ["q_proj", "v_proj"]}
_IA3 = {"gpt2": (["c_attn", "mlp.c_proj"], ["mlp.c_proj"]),
        "llama": (["k_proj", "v_proj", "down_proj"], ["down_proj"])}  # fmt: skip
_SUBLAYERS = {"gpt2": ("attn.c_proj", "mlp.c_proj"), "llama": ("self_attn.o_proj", "mlp.down_proj")}


def freeze(model: nn.Module) -> None:
    """No weight of ``model`` learns."""
    for parameter in model.parameters():
        parameter.requires_grad_(False)


def scale_of(rank: int, alpha: float | None, by_root: bool) -> float:
    """The factor of B A x; a null alpha is 2 r."""
    chosen = 2.0 * rank if alpha is None else alpha
    return chosen / (rank**0.5 if by_root else rank)


def add_lora(
    model: Any, rank: int, alpha: float | None = None, targets: Sequence[str] | None = None,
    by_root: bool = False,
) -> None:  # fmt: skip
    """Put LoRA beside linear layers, in place; all other weights freeze.

    Args:
        model: of transformers.
        rank: r.
        alpha: null is 2 r.
        targets: last parts of the layers' names; ``["all-linear"]`` takes all but the output layer; null is
            GPT-2's ``c_attn``, Llama's ``q_proj`` and ``v_proj``.
        by_root: rsLoRA.

    Raises:
        ValueError: for a target that no layer is, and without peft.
    """
    family, wanted = model.config.model_type, list(targets) if targets else None
    config = _peft().LoraConfig(
        r=rank, lora_alpha=2.0 * rank if alpha is None else alpha, use_rslora=by_root, bias="none",
        target_modules=_targets(model, wanted or _LORA[family]), fan_in_fan_out=family == "gpt2",
    )  # fmt: skip
    _inject(config, model)


def add_ia3(model: Any, targets: Sequence[str] | None = None) -> None:
    """Scales of IA3, in place; all other weights freeze. See :func:`add_lora`."""
    family = model.config.model_type
    usual, inner = _IA3[family]
    wanted = list(targets) if targets else usual
    last = [t for t in wanted if t in inner]
    config = _peft().IA3Config(
        target_modules=_targets(model, wanted), feedforward_modules=_targets(model, last) if last else [],
        fan_in_fan_out=family == "gpt2",
    )  # fmt: skip
    _inject(config, model)


def _peft() -> Any:
    try:
        import peft
    except ImportError:
        raise ValueError("adapt: lora and ia3 need peft: pip install 'lightning-zoo[language]'") from None
    return peft


def _targets(model: Any, wanted: Sequence[str]) -> list[str]:
    """Whole names of the layers that end in one of ``wanted``."""
    output, table = model.get_output_embeddings(), model.get_input_embeddings()
    layers = {n: m for n, m in model.named_modules() if _is_linear(m) and m is not output}
    if list(wanted) == ["all-linear"]:
        return list(layers)
    layers |= {n: m for n, m in model.named_modules() if m is table}
    found = []
    for target in wanted:
        fitting = [name for name in layers if name == target or name.endswith(f".{target}")]
        if not fitting:
            known = sorted({name.rpartition(".")[2] for name in layers})
            raise ValueError(
                f"model.init_args.targets: no layer is called {target!r}; known are all-linear, "
                f"{', '.join(known)}"
            )
        found += fitting
    return found


def _is_linear(module: nn.Module) -> bool:
    return isinstance(module, nn.Linear) or type(module).__name__ == "Conv1D"


def _inject(config: Any, model: nn.Module) -> None:
    freeze(model)
    _peft().inject_adapter_in_model(config, model)


class Adapter(nn.Module):
    """A layer and a bottleneck behind it: y + up(gelu(down y)).

    Args:
        base_layer: whose output has ``width`` features.
        width: d.
        hidden: m.
    """

    def __init__(self, base_layer: nn.Module, width: int, hidden: int) -> None:
        super().__init__()
        self.base_layer = base_layer
        self.down, self.up = nn.Linear(width, hidden), nn.Linear(hidden, width)
        nn.init.zeros_(self.up.weight)
        nn.init.zeros_(self.up.bias)

    def forward(self, x: Tensor) -> Tensor:
        y = self.base_layer(x)
        return y + self.up(functional.gelu(self.down(y)))


def add_adapters(model: Any, hidden: int) -> None:
    """Houlsby's adapters behind attention and feed-forward layers, in place; all other weights freeze."""
    freeze(model)
    ends = _SUBLAYERS[model.config.model_type]
    for name, layer in [(n, m) for n, m in model.named_modules() if n.endswith(ends)]:
        parent, _, last = name.rpartition(".")
        setattr(model.get_submodule(parent), last, Adapter(layer, model.config.hidden_size, hidden))


class Virtual(nn.Module):
    """Tokens that are no text, before each row: a prompt's embeddings, or a prefix's keys and values.

    Args:
        model: of transformers, which freezes.
        count: k, how many.
        is_prefix: of each layer's keys and values, not of embeddings.
    """

    def __init__(self, model: Any, count: int, is_prefix: bool) -> None:
        super().__init__()
        freeze(model)
        config, table = model.config, model.get_input_embeddings().weight
        self.count, self.is_prefix, self.layers = count, is_prefix, config.num_hidden_layers
        heads = getattr(config, "num_key_value_heads", config.num_attention_heads)
        size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        shape = (self.layers, 2, heads, count, size) if is_prefix else (count, config.hidden_size)
        self.weight = nn.Parameter(torch.empty(shape, device=table.device))
        nn.init.normal_(self.weight, std=0.02)

    def cache(self, rows: int, config: Any) -> Any:
        """A cache of transformers with the prefix for ``rows`` rows."""
        from transformers import DynamicCache

        made = DynamicCache(config=config)
        for layer in range(self.layers):
            key, value = (part.expand(rows, -1, -1, -1) for part in self.weight[layer])
            made.update(key, value, layer)
        return made

    def before(self, embeddings: Tensor) -> Tensor:
        """Embeddings (B, k + T, d) with the prompt before them."""
        prompt = self.weight.expand(len(embeddings), -1, -1).to(embeddings.dtype)
        return torch.cat([prompt, embeddings], dim=1)


def trainable(model: nn.Module) -> tuple[int, int]:
    """How many weights learn, and how many there are."""
    counts = [(p.numel(), p.requires_grad) for p in model.parameters()]
    return sum(n for n, learns in counts if learns), sum(n for n, _ in counts)


# --- names and merging ---------------------------------------------------------------------------------


def keep_plain_names(module: Any) -> None:
    """State dicts of ``module`` have the weights of a wrapped layer under the names that they have without
    LoRA, IA3 or adapters: base weights fit both, ``--weights_fit partial``."""

    def shorten(module: Any, state: dict[str, Any], prefix: str, metadata: Any) -> None:
        for name in [k for k in state if k.startswith(prefix) and _BASE in k]:
            state[name.replace(_BASE, "")] = state.pop(name)

    def restore(module: Any, state: dict[str, Any], prefix: str, *rest: Any) -> None:
        for name, _ in [*module.named_parameters(), *module.named_buffers()]:
            plain = prefix + name.replace(_BASE, "")
            if _BASE in name and plain in state:
                state[prefix + name] = state.pop(plain)

    module.register_state_dict_post_hook(shorten)
    module.register_load_state_dict_pre_hook(restore)


def merged(model: Any) -> Any:
    """A copy of a model with LoRA or IA3, whose layers are plain ones again that compute the same.

    A table of tokens that is tied to the output layer is untied where LoRA is beside the table alone.

    Raises:
        ValueError: for adapters, whose bottleneck no linear layer can take.
    """
    import copy

    made = copy.deepcopy(model)
    if any(isinstance(m, Adapter) for m in made.modules()):
        raise ValueError("adapters do not merge into linear layers: transformers has no place for them")
    table, output = made.get_input_embeddings(), made.get_output_embeddings()
    if hasattr(table, "base_layer") and table.base_layer.weight is output.weight:
        output.weight = nn.Parameter(output.weight.detach().clone())
        made.config.tie_word_embeddings = False
    for name, layer in list(_tuned(made)):
        layer.merge()
        parent, _, last = name.rpartition(".")
        setattr(made.get_submodule(parent), last, layer.get_base_layer())
    return made


def _tuned(model: nn.Module) -> Iterator[tuple[str, Any]]:
    for name, module in model.named_modules():
        if hasattr(module, "base_layer") and hasattr(module, "merge"):
            yield name, module
