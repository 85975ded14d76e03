"""An option that the chosen variant of a method does not use is refused, not read past.

Beside its class a module says which options belong to which variants, ``_USES = {"layers": ("dcrnn",)}``;
its constructor calls ``refuse_unused(Forecaster, self.hparams, "arch", _USES)``.
"""

from __future__ import annotations

import inspect
from collections.abc import Collection, Mapping
from typing import Any

Uses = Mapping[str, Collection[str] | str]
"""Option -> the values of the choice that use it; a text says what any value but null and false must be."""


def refuse_unused(
    cls: type, given: Mapping[str, Any], choice: str, uses: Uses, baselines: Collection[str] = ()
) -> None:
    """Refuse what differs from its default though the chosen variant has no use for it.

    A default is never refused: checkpoints and configs of every variant hold the defaults of all.

    Args:
        cls: class whose constructor has the defaults.
        given: arguments by name.
        choice: the argument that chooses.
        uses: see :data:`Uses`.
        baselines: values of the choice that stand in for any other in one word, beside its settings.

    Raises:
        ValueError: naming the option, the variant and what to do.
    """
    chosen, parameters = given[choice], inspect.signature(cls).parameters
    if chosen in baselines:
        return
    for name, users in uses.items():
        used = bool(chosen) if isinstance(users, str) else chosen in users
        value, default = given[name], parameters[name].default
        if used or value == default or (isinstance(default, tuple) and value == list(default)):
            continue
        others = users if isinstance(users, str) else " or ".join(users)
        shown = {None: "null", True: "true", False: "false"}
        known, own = (shown.get(v, v) if isinstance(v, bool | None) else v for v in (chosen, default))
        raise ValueError(
            f"model.init_args.{name} is {value}, which {choice}: {known} does not use; leave it out (its "
            f"default is {own}), or set model.init_args.{choice} to {others}"
        )
