"""Parts of a module that keep their number type when the module is cast."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn


def keeping_dtype(fn: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """``fn`` of ``nn.Module._apply`` (a move or a cast) without the cast.

    Casting down and up again would keep the type but round the values.
    """

    def move(tensor: Tensor) -> Tensor:
        moved = fn(tensor)
        return moved if moved.dtype == tensor.dtype else tensor.to(moved.device)

    return move


class ExactModuleDict(nn.ModuleDict):
    """Modules that ``.to(torch.bfloat16)`` leaves as they are: a mean summed up in bfloat16 has two digits.

    torchmetrics guards its states against ``.bfloat16()``, but not against ``.to(torch.bfloat16)``, which is
    what Lightning calls for ``precision: bf16-true``.
    """

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> ExactModuleDict:
        super()._apply(keeping_dtype(fn), recurse)
        return self
