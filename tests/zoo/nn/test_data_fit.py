"""A module's sizes against those of its data."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from zoo.nn.data_fit import check_fit


@pytest.mark.parametrize(
    ("shape", "found"), [((1, 8, 8), None), ((1, 8, 6), 6), ((1, 6, 8), 6), ((3,), None)]
)
def test_both_sides_of_a_picture_are_compared(shape: tuple[int, ...], found: int | None) -> None:
    trainer = SimpleNamespace(datamodule=SimpleNamespace(shape=shape))
    sizes = {"input_size": "shape.1 shape.2"}
    module = SimpleNamespace(trainer=trainer, data_sizes=sizes, hparams={"input_size": 8})
    if found is None:
        check_fit(module)
        return
    with pytest.raises(
        ValueError, match=f"model.init_args.input_size is 8, but the data .* has {found}; set"
    ):
        check_fit(module)
