"""Whether a module has the sizes of its data: the class says which hyperparameter is which attribute.

``data_sizes: ClassVar[DataSizes] = {"features": "num_features", "input_size": "shape.1"}``. A size that
nothing else sets is taken from the data before the module is built. ``shape.1 shape.2``: both have that size.
"""

from __future__ import annotations

import inspect
import operator
from collections.abc import Callable, Mapping
from typing import Any

DataSizes = Mapping[str, str]
_MOST_SHOWN, _LONGEST_SHOWN = 20, 120


def told(data: Any, path: str) -> Any:
    """What the data say at the first of ``path``: attributes, keys, positions between dots; else None."""
    for part in path.split()[0].split("."):
        if isinstance(data, Mapping):
            data = data.get(part)
        elif part.isdigit():
            data = data[int(part)] if data is not None and int(part) < len(data) else None
        else:
            data = getattr(data, part, None)
    return data


def shown(value: Any) -> str:
    """A size in words; of a long list its first values and how many there are."""
    if isinstance(value, list) and len(value) > _MOST_SHOWN:
        some = ", ".join(map(str, value[:3]))  # names of a file, which go to a terminal
        some = "".join(c if c.isprintable() else "?" for c in some)[:_LONGEST_SHOWN]
        return f"[{some}, ... {len(value):,} in all]"
    return "null" if value is None else str(value)


def named(data: Any) -> str:
    """The data in the words of an error."""
    return f"the data ({type(data).__module__.split('.')[0]}.{type(data).__name__})"


def check_fit(module: Any, **fits: Callable[[Any, Any], bool]) -> None:
    """Compare each of the module's ``data_sizes`` with what the data tell.

    Args:
        module: a LightningModule.
        **fits: ``fits(own, found)`` of sizes that need not be equal, by the hyperparameter's name.

    Raises:
        ValueError: naming both numbers and both YAML keys.
    """
    data = getattr(module.trainer, "datamodule", None)
    for key, path in module.data_sizes.items():
        for place in path.split():
            found = told(data, place)
            if found is not None and not fits.get(key, operator.eq)(module.hparams[key], found):
                raise misfit(module, key, found)


def misfit(module: Any, key: str, found: Any) -> ValueError:
    """The error of a hyperparameter that is not what the data have."""
    data = module.trainer.datamodule
    given, wanted = shown(module.hparams[key]), shown(found)
    # the data's key that decides it, where it has one; a parent's too, for which **kwargs may stand
    own = {
        k
        for c in type(data).__mro__
        if "__init__" in vars(c)
        for k in inspect.signature(vars(c)["__init__"]).parameters
    }
    of_data = f" or data.init_args.{key}: {given}" if key in own else ""
    set_it = f"set model.init_args.{key}: {wanted}{of_data}"
    if isinstance(found, list) and len(found) > _MOST_SHOWN:
        set_it = f"leave model.init_args.{key} to the data"
    return ValueError(
        f"model.init_args.{key} is {given}, but {named(data)} has {wanted}; {set_it}, or choose other data "
        "with data.class_path"
    )
