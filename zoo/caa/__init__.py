"""CAA: composite adversarial attacks (Mao et al., AAAI 2021), AutoAttack's chain, and a target to attack."""

from __future__ import annotations

from zoo.declaration import Method, lazy

_DATA = {"class_path": "datamodules.LabelledImages", "init_args": {"batch_size": 16}}

METHODS = (
    Method(
        "CAA",
        page="caa",
        title="CAA",
        about="Composite Adversarial Attacks (Mao et al., AAAI 2021): the search for policies of attackers",
        small=(
            {"population": 4, "longest": 2, "length": 2},
            {"population": 4, "longest": 2, "threat": "l2", "eps": 1.0, "strategy": "random"},
        ),
        data=_DATA,
    ),
    Method(
        "RobustClassifier",
        "classifier",
        page="caa",
        title="CAA",
        about="Adversarial training (Madry et al., ICLR 2018) of a small CNN: the target of CAA's attacks",
        small=(
            {"width": 4, "hidden": 8},
            {"width": 4, "hidden": 8, "norm": "l2", "eps": 1.0},
        ),
        data=_DATA,
    ),
)

__getattr__ = lazy(__name__, METHODS)
