"""An option that the chosen variant of a class does not use is refused, not read past.

Beside its class a module says which options belong to which variants, ``_USES = {"layers": ("dcrnn",)}``;
its constructor calls ``refuse_unused(Forecaster, self.hparams, "arch", _USES)``. A data module has a table
for each argument that chooses in its ``of_variants``, and calls ``check_variants(Planetoid, locals())``.

``zoo`` and ``datamodules`` do not import each other: each has this file, with the same content.
"""

from __future__ import annotations

import inspect
from collections.abc import Collection, Mapping
from typing import Any

Users = Collection[Any] | str
"""Values of an argument that use an option; a text says what any but null, false and the default must be."""
Uses = Mapping[str, Users | Mapping[str, Users]]
"""Option -> the values of the choice that use it, or the users among several arguments, of which one is
enough."""


def refuse_unused(
    cls: type, given: Mapping[str, Any], choice: str, uses: Uses, baselines: Collection[str] = ()
) -> None:
    """Refuse what differs from its default though the chosen variant has no use for it.

    A default is never refused: checkpoints and configs of every variant hold the defaults of all.

    Args:
        cls: class whose constructor has the defaults.
        given: arguments by name, those of a ``**kwargs`` under its name.
        choice: the argument that chooses.
        uses: see :data:`Uses`.
        baselines: values of the choice that stand in for any other in one word, beside its settings.

    Raises:
        ValueError: naming the option, the variant and what to do.
    """
    defaults, values = _defaults(cls), _values(cls, given)
    chosen = values[choice]
    if chosen in baselines:
        return
    group = "data" if "LightningDataModule" in {c.__name__ for c in cls.__mro__} else "model"
    for name in unused(cls, given, choice, uses):
        others = " or ".join(
            f"{group}.init_args.{key} to "
            + (users if isinstance(users, str) else " or ".join(map(_shown, users)))
            for key, users in _choices(choice, uses[name]).items()
        )
        raise ValueError(
            f"{group}.init_args.{name} is {_shown(values[name])}, which {choice}: {_shown(chosen)} does not "
            f"use; leave it out (its default is {_shown(defaults[name])}), or set {others}"
        )


def check_variants(cls: Any, given: Mapping[str, Any]) -> None:
    """:func:`refuse_unused` for each argument in the ``of_variants`` of a class.

    Args:
        cls: the class whose ``__init__`` calls, not the one being built.
        given: arguments of the call, ``locals()``.

    Raises:
        ValueError: likewise.
    """
    for choice, uses in cls.of_variants.items():
        refuse_unused(cls, given, choice, uses)


def idle_options(cls: Any, given: Mapping[str, Any]) -> set[str]:
    """What :func:`check_variants` would refuse; nothing of a class without tables."""
    tables: Mapping[str, Uses] = getattr(cls, "of_variants", {})
    return {name for choice, uses in tables.items() for name in unused(cls, given, choice, uses)}


def unused(cls: type, given: Mapping[str, Any], choice: str, uses: Uses) -> list[str]:
    """The options that differ from their defaults and that no argument's value uses."""
    defaults, values = _defaults(cls), _values(cls, given)
    found = []
    for name, users in uses.items():
        value, default = values[name], defaults[name]
        if value == default or (isinstance(default, tuple) and value == list(default)):
            continue
        if not any(_used(values[k], defaults.get(k), u) for k, u in _choices(choice, users).items()):
            found.append(name)
    return found


def _choices(choice: str, users: Users | Mapping[str, Users]) -> Mapping[str, Users]:
    return users if isinstance(users, Mapping) else {choice: users}


def _used(chosen: Any, default: Any, users: Users) -> bool:
    if isinstance(users, str):
        return chosen is not None and chosen is not False and chosen != default
    return any(chosen == user and isinstance(chosen, bool) == isinstance(user, bool) for user in users)


def _defaults(cls: type) -> dict[str, Any]:
    """Arguments with their defaults, those of the parents too, to which ``**kwargs`` go."""
    found: dict[str, Any] = {}
    for parent in reversed(cls.__mro__):
        if "__init__" in vars(parent):
            parameters = inspect.signature(vars(parent)["__init__"]).parameters
            found |= {name: parameter.default for name, parameter in parameters.items()}
    return found


def _values(cls: type, given: Mapping[str, Any]) -> dict[str, Any]:
    return {**_defaults(cls), **given, **(given.get("kwargs") or {})}


def _shown(value: Any) -> str:
    words = {None: "null", True: "true", False: "false"}
    return words[value] if isinstance(value, bool | None) else str(value)
