"""Sizes of the model that nothing sets are taken from the data, before the model is built."""

from __future__ import annotations

import io
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path

from jsonargparse import Namespace
from lightning.pytorch import LightningDataModule
from lightning.pytorch.cli import LightningArgumentParser
from lightning.pytorch.utilities.model_helpers import is_overridden
from lightning.pytorch.utilities.seed import isolate_rng

from zoo.engine.arguments import Arguments
from zoo.engine.configs import class_named
from zoo.engine.ranks import is_child
from zoo.nn.data_fit import named, shown, told
from zoo.reports import say


def sizes_from_data(arguments: Arguments, config: Namespace) -> None:
    """Fill in what the model's class declares in ``data_sizes`` and no config, checkpoint or flag sets.

    A complete configuration costs nothing. Otherwise the data module is made on its own and, where that does
    not tell, prepared and set up; the run makes its own afterwards, from the same random state. Where the
    data cannot tell, the class's default stays.

    Args:
        arguments: of the run.
        config: parsed, of the verb; ``model.init_args`` is changed in place.
    """
    model, data = config.get("model"), config.get("data")
    if model is None or data is None:
        return
    declared = getattr(class_named(model.class_path), "data_sizes", {})
    given = arguments.sets_model()
    missing = {key: path for key, path in declared.items() if key not in given}
    if not missing:
        return
    with isolate_rng(include_cuda=False):
        parser = LightningArgumentParser()
        parser.add_subclass_arguments(LightningDataModule, "data")
        made = parser.instantiate_classes(Namespace(data=data)).data
        if any(told(made, path) is None for path in missing.values()) and not _set_up(made, arguments.verb):
            return
        found = {key: told(made, path) for key, path in missing.items()}
    known = {key: value for key, value in found.items() if value is not None}
    for key, value in known.items():
        model.init_args[key] = value
    if known:
        told_sizes = ", ".join(f"{key}: {shown(value)}" for key, value in known.items())
        say(f"model.init_args.{told_sizes} from the data")
    for key in (key for key in found if key not in known):
        say(f"{named(made)} does not tell model.init_args.{key}: {model.init_args[key]} is its default")


def _set_up(data: LightningDataModule, stage: str) -> bool:
    """False where files are missing, which the run itself will say when it comes to its data."""
    try:
        if is_overridden("prepare_data", data) and not is_child():  # a child's parent has prepared
            with _in_turn():
                data.prepare_data()
        with _unheard():
            data.setup(stage)
    except FileNotFoundError:
        return False
    except AttributeError:
        return True  # a user's own class may ask its trainer, which is not there yet
    return True


@contextmanager
def _unheard() -> Iterator[None]:
    """Lines on the terminal are left out, which the run's own data will say; not where an error follows."""
    heard = io.StringIO()
    try:
        with redirect_stdout(heard):
            yield
    except Exception:
        print(heard.getvalue(), end="", flush=True)
        raise


@contextmanager
def _in_turn() -> Iterator[None]:
    """Processes of one machine, one after the other: all but the first find what is there already."""
    try:
        import fcntl
    except ImportError:  # Windows, where each machine has one process
        yield
        return
    path = Path(tempfile.gettempdir()) / f"zoo-prepare-{os.getuid()}"
    file = os.open(path, os.O_CREAT | os.O_RDWR | os.O_NOFOLLOW, 0o600)  # others may put a link in its place
    try:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
    finally:
        os.close(file)
