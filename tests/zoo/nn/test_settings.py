"""What a network takes of its module's settings."""

from __future__ import annotations

import inspect

from zoo.dtr.module import DTR
from zoo.dtr.network import DiT
from zoo.dtr.unet import UNet
from zoo.mbt.module import MBT
from zoo.mbt.network import FusionNetwork
from zoo.nn.settings import settings_of


def test_a_network_takes_what_it_names_and_its_own_prefix_first() -> None:
    given = {"dropout": 0.1, "unet_dropout": 0.2, "timesteps": 50, "label_dropout": 0.3}
    assert settings_of(UNet, given, prefix="unet_") == {"dropout": 0.2, "timesteps": 50}
    assert settings_of(DiT, given) == {"timesteps": 50}


def test_modules_give_their_networks_all_they_take() -> None:
    """An argument that the module does not name would stay at the network's default, unseen."""
    taken = [
        settings_of(FusionNetwork, inspect.signature(MBT).parameters),
        settings_of(DiT, inspect.signature(DTR).parameters),
        settings_of(UNet, inspect.signature(DTR).parameters, prefix="unet_"),
    ]
    missing = [
        set(inspect.signature(n).parameters) - set(t)
        for n, t in zip((FusionNetwork, DiT, UNet), taken, strict=True)
    ]
    assert missing == [set(), {"mlp_ratio"}, set()]
