"""Inception-v3 as Google's TensorFlow graph of 2015-12-05 computes it: the network behind published FIDs.

Keys are those of the torch port that pytorch-fid, torch-fidelity and torchmetrics share
(``pt_inception-2015-12-05-6726825d.pth``). The graph differs from torchvision's Inception-v3 in its resize,
its input scale, its average pools, which leave the padding out, and a maximum pool in its last block.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.hub import foreign

POOL_SIZE, SPATIAL_CHANNELS, SPATIAL_SIDE, LOGITS = 2048, 7, 17, 1008
SPATIAL_SIZE = SPATIAL_CHANNELS * SPATIAL_SIDE**2
"""Sizes of the features of FID (2048), of sFID (2023 = 7 x 17 x 17) and of the class scores (1008)."""

_SIDE = 299
_SOURCE = (
    "the torch port of the TF-2015 graph, pt_inception-2015-12-05-6726825d.pth of "
    "github.com/mseitzer/pytorch-fid (release fid_weights)"
)


def resize_like_tensorflow1(images: Tensor, side: int = _SIDE) -> Tensor:
    """Bilinear resize of TensorFlow 1 with align_corners=False: output pixel i reads at i (in / out).

    No half-pixel shift and no antialiasing, so that a smaller output skips pixels. (B, C, H, W) float ->
    (B, C, side, side).
    """

    def neighbours(size: int) -> tuple[Tensor, Tensor, Tensor]:
        at = torch.arange(side, dtype=torch.float32, device=images.device) * torch.tensor(
            size / side, dtype=torch.float32
        )
        low = at.long()
        return low, (low + 1).clamp(max=size - 1), (at - low).to(images.dtype)

    top, bottom, dy = neighbours(images.shape[2])
    left, right, dx = neighbours(images.shape[3])
    rows = [images[:, :, r] for r in (top, bottom)]  # (B, C, side, W)
    upper, lower = (r[..., left] + (r[..., right] - r[..., left]) * dx for r in rows)
    return upper + (lower - upper) * dy[:, None]


class ConvUnit(nn.Module):
    """Convolution without bias, batch norm (eps 1e-3), ReLU; "same" padding where ``same``."""

    def __init__(
        self, channels: int, out: int, kernel: int | tuple[int, int], stride: int = 1, same: bool = False
    ) -> None:
        super().__init__()
        size = (kernel, kernel) if isinstance(kernel, int) else kernel
        padding = (size[0] // 2, size[1] // 2) if same else 0
        self.conv = nn.Conv2d(channels, out, size, stride, padding, bias=False)
        self.bn = nn.BatchNorm2d(out, eps=1e-3)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.bn(self.conv(x)), inplace=True)


def _average(x: Tensor) -> Tensor:
    """TensorFlow's 3 x 3 "same" average pool: at a border it divides by the pixels that are there."""
    return F.avg_pool2d(x, 3, stride=1, padding=1, count_include_pad=False)


class InceptionA(nn.Module):
    """35 x 35: 1x1, 5x5, two 3x3 in a row, average pool."""

    def __init__(self, channels: int, pool: int) -> None:
        super().__init__()
        self.branch1x1 = ConvUnit(channels, 64, 1)
        self.branch5x5_1 = ConvUnit(channels, 48, 1)
        self.branch5x5_2 = ConvUnit(48, 64, 5, same=True)
        self.branch3x3dbl_1 = ConvUnit(channels, 64, 1)
        self.branch3x3dbl_2 = ConvUnit(64, 96, 3, same=True)
        self.branch3x3dbl_3 = ConvUnit(96, 96, 3, same=True)
        self.branch_pool = ConvUnit(channels, pool, 1)

    def forward(self, x: Tensor) -> Tensor:
        double = self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(x)))
        branches = [self.branch1x1(x), self.branch5x5_2(self.branch5x5_1(x)), double]
        return torch.cat([*branches, self.branch_pool(_average(x))], dim=1)


class InceptionB(nn.Module):
    """35 x 35 -> 17 x 17."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.branch3x3 = ConvUnit(channels, 384, 3, stride=2)
        self.branch3x3dbl_1 = ConvUnit(channels, 64, 1)
        self.branch3x3dbl_2 = ConvUnit(64, 96, 3, same=True)
        self.branch3x3dbl_3 = ConvUnit(96, 96, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        double = self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(x)))
        return torch.cat([self.branch3x3(x), double, F.max_pool2d(x, 3, stride=2)], dim=1)


class InceptionC(nn.Module):
    """17 x 17: 1x1, 7x7 and twice 7x7 in rows and columns, average pool."""

    def __init__(self, channels: int, inner: int) -> None:
        super().__init__()
        row, column = (1, 7), (7, 1)
        self.branch1x1 = ConvUnit(channels, 192, 1)
        self.branch7x7_1 = ConvUnit(channels, inner, 1)
        self.branch7x7_2 = ConvUnit(inner, inner, row, same=True)
        self.branch7x7_3 = ConvUnit(inner, 192, column, same=True)
        self.branch7x7dbl_1 = ConvUnit(channels, inner, 1)
        self.branch7x7dbl_2 = ConvUnit(inner, inner, column, same=True)
        self.branch7x7dbl_3 = ConvUnit(inner, inner, row, same=True)
        self.branch7x7dbl_4 = ConvUnit(inner, inner, column, same=True)
        self.branch7x7dbl_5 = ConvUnit(inner, 192, row, same=True)
        self.branch_pool = ConvUnit(channels, 192, 1)

    def forward(self, x: Tensor) -> Tensor:
        single = self.branch7x7_3(self.branch7x7_2(self.branch7x7_1(x)))
        double = self.branch7x7dbl_3(self.branch7x7dbl_2(self.branch7x7dbl_1(x)))
        double = self.branch7x7dbl_5(self.branch7x7dbl_4(double))
        return torch.cat([self.branch1x1(x), single, double, self.branch_pool(_average(x))], dim=1)


class InceptionD(nn.Module):
    """17 x 17 -> 8 x 8."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.branch3x3_1 = ConvUnit(channels, 192, 1)
        self.branch3x3_2 = ConvUnit(192, 320, 3, stride=2)
        self.branch7x7x3_1 = ConvUnit(channels, 192, 1)
        self.branch7x7x3_2 = ConvUnit(192, 192, (1, 7), same=True)
        self.branch7x7x3_3 = ConvUnit(192, 192, (7, 1), same=True)
        self.branch7x7x3_4 = ConvUnit(192, 192, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        small = self.branch3x3_2(self.branch3x3_1(x))
        large = self.branch7x7x3_4(self.branch7x7x3_3(self.branch7x7x3_2(self.branch7x7x3_1(x))))
        return torch.cat([small, large, F.max_pool2d(x, 3, stride=2)], dim=1)


class InceptionE(nn.Module):
    """8 x 8: 1x1, 3x3 and twice 3x3 split into a row and a column, a pool.

    The pool is an average in the first of the two blocks and a maximum in the last: so is the graph.
    """

    def __init__(self, channels: int, maximum: bool) -> None:
        super().__init__()
        self.maximum = maximum
        self.branch1x1 = ConvUnit(channels, 320, 1)
        self.branch3x3_1 = ConvUnit(channels, 384, 1)
        self.branch3x3_2a = ConvUnit(384, 384, (1, 3), same=True)
        self.branch3x3_2b = ConvUnit(384, 384, (3, 1), same=True)
        self.branch3x3dbl_1 = ConvUnit(channels, 448, 1)
        self.branch3x3dbl_2 = ConvUnit(448, 384, 3, same=True)
        self.branch3x3dbl_3a = ConvUnit(384, 384, (1, 3), same=True)
        self.branch3x3dbl_3b = ConvUnit(384, 384, (3, 1), same=True)
        self.branch_pool = ConvUnit(channels, 192, 1)

    def forward(self, x: Tensor) -> Tensor:
        single = self.branch3x3_1(x)
        double = self.branch3x3dbl_2(self.branch3x3dbl_1(x))
        pooled = F.max_pool2d(x, 3, stride=1, padding=1) if self.maximum else _average(x)
        splits = [self.branch3x3_2a(single), self.branch3x3_2b(single)]
        splits += [self.branch3x3dbl_3a(double), self.branch3x3dbl_3b(double)]
        return torch.cat([self.branch1x1(x), *splits, self.branch_pool(pooled)], dim=1)


@dataclass
class InceptionFeatures:
    """What ADM's evaluator reads of the graph.

    Attributes:
        pool_3: (B, 2048), the mean over the last 8 x 8 block.
        spatial: (B, 2023), the first 7 channels of mixed_6/conv in the graph's order (row, column, channel).
        logits: (B, 1008) class scores ``pool_3 W^T`` without the bias, as ADM's evaluator forms them.
    """

    pool_3: Tensor
    spatial: Tensor
    logits: Tensor


class InceptionV3(nn.Module):
    """The feature network of FID, sFID, IS, precision and recall: 23,850,960 parameters, none trained."""

    def __init__(self) -> None:
        super().__init__()
        self.Conv2d_1a_3x3 = ConvUnit(3, 32, 3, stride=2)
        self.Conv2d_2a_3x3 = ConvUnit(32, 32, 3)
        self.Conv2d_2b_3x3 = ConvUnit(32, 64, 3, same=True)
        self.Conv2d_3b_1x1 = ConvUnit(64, 80, 1)
        self.Conv2d_4a_3x3 = ConvUnit(80, 192, 3)
        self.Mixed_5b = InceptionA(192, pool=32)  # the graph's "mixed"
        self.Mixed_5c = InceptionA(256, pool=64)
        self.Mixed_5d = InceptionA(288, pool=64)
        self.Mixed_6a = InceptionB(288)
        self.Mixed_6b = InceptionC(768, inner=128)
        self.Mixed_6c = InceptionC(768, inner=160)
        self.Mixed_6d = InceptionC(768, inner=160)  # the graph's "mixed_6"
        self.Mixed_6e = InceptionC(768, inner=192)
        self.Mixed_7a = InceptionD(768)
        self.Mixed_7b = InceptionE(1280, maximum=False)
        self.Mixed_7c = InceptionE(2048, maximum=True)
        self.fc = nn.Linear(POOL_SIZE, LOGITS)
        self.requires_grad_(False).eval()

    def train(self, mode: bool = True) -> InceptionV3:
        """A yardstick: its batch norms never leave evaluation mode."""
        return super().train(False)

    @torch.no_grad()
    def forward(self, images: Tensor) -> InceptionFeatures:
        """Images (B, 3, H, W) in 0..255, of any number type and size."""
        x = resize_like_tensorflow1(images.to(self.fc.weight.dtype))
        x = (x - 128) / 128
        x = self.Conv2d_2b_3x3(self.Conv2d_2a_3x3(self.Conv2d_1a_3x3(x)))
        x = F.max_pool2d(x, 3, stride=2)
        x = F.max_pool2d(self.Conv2d_4a_3x3(self.Conv2d_3b_1x1(x)), 3, stride=2)
        x = self.Mixed_6a(self.Mixed_5d(self.Mixed_5c(self.Mixed_5b(x))))
        x = self.Mixed_6c(self.Mixed_6b(x))  # (B, 768, 17, 17)
        spatial = self.Mixed_6d.branch1x1(x)[:, :SPATIAL_CHANNELS].permute(0, 2, 3, 1).flatten(1)
        x = self.Mixed_7a(self.Mixed_6e(self.Mixed_6d(x)))
        pool_3 = self.Mixed_7c(self.Mixed_7b(x)).mean(dim=(2, 3))
        return InceptionFeatures(pool_3, spatial, F.linear(pool_3, self.fc.weight))


def load_inception(path: str | Path) -> InceptionV3:
    """The network with the weights of a file.

    Args:
        path: ``pt_inception-2015-12-05-6726825d.pth``, or a ``.safetensors`` with its keys.

    Raises:
        FileNotFoundError: no such file.
        ValueError: a file that is no such state dict, with the first key that is missing, foreign or of
            another shape.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no Inception weights at {path}; download {_SOURCE}")
    state = _read_state(path)
    network = InceptionV3()
    wanted = {k: v for k, v in network.state_dict().items() if not k.endswith("num_batches_tracked")}
    given = {k: v for k, v in state.items() if not k.endswith("num_batches_tracked")}
    missing, others = sorted(wanted.keys() - given.keys()), sorted(given.keys() - wanted.keys())
    wrong = [k for k in sorted(wanted.keys() & given.keys()) if given[k].shape != wanted[k].shape]
    if missing or others or wrong:
        parts = [f"{len(missing)} keys are missing (first {missing[0]})"] if missing else []
        parts += [f"{len(others)} are not of this network (first {others[0]})"] if others else []
        if wrong:
            shapes = f"{tuple(given[wrong[0]].shape)}, not {tuple(wanted[wrong[0]].shape)}"
            parts.append(f"{wrong[0]} is {shapes}")
        raise ValueError(f"{path} is not {_SOURCE}: {'; '.join(parts)}")
    network.load_state_dict(foreign.fitted(given, network.state_dict(), path))
    return network


def _read_state(path: Path) -> dict[str, Tensor]:
    try:
        return foreign.state_dict(foreign.load(path), path)
    except ValueError as error:
        raise ValueError(f"{error}; download {_SOURCE}") from None
