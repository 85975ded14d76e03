"""The networks of IM-NET, named as in the official PyTorch release so that its weights load as they are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from zoo.imnet.field import Version, coordinates, grid_points, leaky_clamp, stride_two_layers
from zoo.nn.batch_norm import GlobalBatchNorm2d, GlobalBatchNorm3d

Init = Literal["paper", "he"]
SLOPE = 0.02
DECODER_MULTIPLES: dict[Version, tuple[int, ...]] = {"v1": (16, 8, 4, 2, 1), "v2": (8, 8, 8, 4, 2, 1)}
_MNIST = 28  # the one side that is no power of two
_KERNEL = 4


def _activation(x: Tensor) -> Tensor:
    return functional.leaky_relu(x, SLOPE)


class ImplicitDecoder(nn.Module):
    r"""f(p, z): the inside-probability of point p for the shape with code z.

    ``v1``: :math:`h_1 = \sigma(W_1 a)`, :math:`h_{k+1} = \sigma(W_{k+1} [h_k, a])`, sigmoid output, with
    a = [p, z]; widths 16w, 8w, 4w, 2w, w. ``v2``: no skips, widths 8w, 8w, 8w, 4w, 2w, w, leaky clamp.
    The input order is [p, z]. z is the same for all points of a shape: W_z z is added once per shape, the
    repeated code is never made.

    Args:
        z_dim: size of the code.
        point_dim: 3, or 2 for pictures.
        width: w, of the last hidden layer.
        version: ``v1`` or ``v2``.
        init: ``paper`` draws all weights from N(0, 0.02), outputs start at 0 and stay there for a while;
            ``he`` does not.
    """

    def __init__(
        self,
        z_dim: int = 256,
        point_dim: int = 3,
        width: int = 128,
        version: Version = "v2",
        init: Init = "paper",
    ) -> None:
        super().__init__()
        self.z_dim, self.point_dim, self.version = z_dim, point_dim, version
        widths = [m * width for m in DECODER_MULTIPLES[version]]
        extra = point_dim + z_dim
        before = [0, *widths[:-1]]
        self.hidden = len(widths)
        for k, (inputs, outputs) in enumerate(zip(before, widths, strict=True), start=1):
            skip = extra if version == "v1" or k == 1 else 0
            setattr(self, f"linear_{k}", nn.Linear(inputs + skip, outputs))
        setattr(self, f"linear_{self.hidden + 1}", nn.Linear(widths[-1], 1))
        self._initialise(init)

    def layer(self, k: int) -> nn.Linear:
        """``linear_k``, from 1."""
        found: nn.Linear = getattr(self, f"linear_{k}")
        return found

    @torch.no_grad()
    def _initialise(self, init: Init) -> None:
        last = self.hidden + 1
        for k in range(1, last + 1):
            layer = self.layer(k)
            nn.init.zeros_(layer.bias)
            if init == "he" and k < last:
                nn.init.kaiming_normal_(layer.weight, a=SLOPE)
            else:
                mean = 1e-5 if k == last and self.version == "v2" else 0.0
                nn.init.normal_(layer.weight, mean, 0.02)

    def forward(self, points: Tensor, z: Tensor) -> Tensor:
        """Values (B, P) of points (B, P, D), in the version's coordinates, for codes (B, Z)."""
        h = _activation(self._mixed(1, None, points, z))
        for k in range(2, self.hidden + 1):
            h = _activation(self._mixed(k, h, points, z) if self.version == "v1" else self.layer(k)(h))
        value: Tensor = self.layer(self.hidden + 1)(h)[..., 0]
        return value.sigmoid() if self.version == "v1" else leaky_clamp(value)

    def _mixed(self, k: int, h: Tensor | None, points: Tensor, z: Tensor) -> Tensor:
        """W [h, p, z] + b without the repeat of z."""
        layer = self.layer(k)
        first = layer.in_features - self.point_dim - self.z_dim
        of_h, of_p, of_z = layer.weight.split([first, self.point_dim, self.z_dim], dim=1)
        out = functional.linear(points, of_p) + functional.linear(z, of_z, layer.bias)[:, None]
        return out if h is None else out + functional.linear(h, of_h)


def _plan(size: int, dims: int) -> list[tuple[int, int, int, int]]:
    """(size, stride, padding before, padding after) of the layers down to 4, TensorFlow's 'same'."""
    strides = [1, 2, 2, 2] if size == _MNIST and dims == 2 else [2] * stride_two_layers(size)
    plan = []
    for stride in strides:
        out = -(-size // stride)
        padding = max((out - 1) * stride + _KERNEL - size, 0)
        plan.append((size, stride, padding // 2, padding - padding // 2))
        size = out
    return plan


def _norm(version: Version, dims: int, channels: int, momentum: float) -> nn.Module:
    """Batch norm in v1; in v2 instance norm without weights or running statistics."""
    if version == "v1":
        return (GlobalBatchNorm3d if dims == 3 else GlobalBatchNorm2d)(channels, momentum=momentum)
    return (nn.InstanceNorm3d if dims == 3 else nn.InstanceNorm2d)(channels)


class ShapeEncoder(nn.Module):
    """Voxels (B, 1, S, S, S) or a picture (B, 1, S, S) -> (B, outputs); convolutions of 4, last one valid.

    Args:
        outputs: size of the code; twice that of a variational one; 1 for a discriminator.
        input_size: S, 8, 16, 32, 64, ..., or 28 for pictures.
        width: channels of the first layer, doubled in each.
        version: ``v1`` has biases and batch norm, ``v2`` neither biases (but the last) nor norm weights.
        dims: 3 or 2.
        momentum: of the batch norm.
    """

    def __init__(
        self,
        outputs: int = 256,
        input_size: int = 64,
        width: int = 32,
        version: Version = "v2",
        dims: int = 3,
        momentum: float = 0.001,
    ) -> None:
        super().__init__()
        conv: Any = nn.Conv3d if dims == 3 else nn.Conv2d
        self.plan, self.dims = _plan(input_size, dims), dims
        channels = 1
        for k, (_, stride, _, _) in enumerate(self.plan, start=1):
            out = width * 2 ** (k - 1)
            setattr(self, f"conv_{k}", conv(channels, out, _KERNEL, stride, bias=version == "v1"))
            setattr(self, f"norm_{k}", _norm(version, dims, out, momentum))
            channels = out
        setattr(self, f"conv_{len(self.plan) + 1}", conv(channels, outputs, _KERNEL))
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Conv3d):
                nn.init.xavier_uniform_(module.weight)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(self, x: Tensor) -> Tensor:
        for k, (_, _, before, after) in enumerate(self.plan, start=1):
            x = functional.pad(x, (before, after) * self.dims)
            x = _activation(getattr(self, f"norm_{k}")(getattr(self, f"conv_{k}")(x)))
        out: Tensor = getattr(self, f"conv_{len(self.plan) + 1}")(x)
        return out.flatten(1)


class CNNDecoder(nn.Module):
    """Codes (B, Z) -> (B, S, S, S) or (B, S, S) in (0, 1): the encoder mirrored, batch norm, sigmoid.

    Arguments as of :class:`ShapeEncoder`.
    """

    def __init__(
        self, z_dim: int = 128, output_size: int = 64, width: int = 32, dims: int = 3, momentum: float = 0.001
    ) -> None:
        super().__init__()
        deconv: Any = nn.ConvTranspose3d if dims == 3 else nn.ConvTranspose2d
        self.dims, self.output_size = dims, output_size
        self.plan = _plan(output_size, dims)[::-1]
        channels = width * 2 ** (len(self.plan) - 1)
        self.deconv_1 = deconv(z_dim, channels, _KERNEL)
        self.norm_1 = _norm("v1", dims, channels, momentum)
        for k, (_, stride, _, _) in enumerate(self.plan, start=2):
            last = k == len(self.plan) + 1
            out = 1 if last else channels // 2
            setattr(self, f"deconv_{k}", deconv(channels, out, _KERNEL, stride))
            if not last:
                setattr(self, f"norm_{k}", _norm("v1", dims, out, momentum))
            channels = out
        for module in self.modules():
            if isinstance(module, nn.ConvTranspose2d | nn.ConvTranspose3d):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)  # type: ignore[arg-type]

    def forward(self, z: Tensor) -> Tensor:
        x = self.deconv_1(z.view(*z.shape, *[1] * self.dims))
        for k, (size, _, before, _) in enumerate(self.plan, start=2):
            x = getattr(self, f"deconv_{k}")(_activation(getattr(self, f"norm_{k - 1}")(x)))
            for axis in range(2, 2 + self.dims):  # the padding of the mirrored convolution, cropped
                x = x.narrow(axis, before, size)
        out: Tensor = x[:, 0].sigmoid()
        return out


class ShapeAutoencoder(nn.Module):
    """An encoder and an implicit or a CNN decoder (``generator``, the official name).

    Codes end in a sigmoid, but those of a variational autoencoder, which has mean and log-variance.
    """

    def __init__(self, encoder: ShapeEncoder, generator: nn.Module, variational: bool = False) -> None:
        super().__init__()
        self.encoder, self.generator, self.variational = encoder, generator, variational

    def encode(self, voxels: Tensor) -> Tensor:
        """Codes (B, Z): in (0, 1), or the means of a variational autoencoder."""
        out: Tensor = self.encoder(voxels)
        return out.chunk(2, dim=1)[0] if self.variational else out.sigmoid()

    def posterior(self, voxels: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log-variance (B, Z) of a variational autoencoder."""
        mean, log_variance = self.encoder(voxels).chunk(2, dim=1)
        return mean, log_variance

    def forward(self, voxels: Tensor, points: Tensor | None = None) -> Tensor:
        """Values (B, P) at points (B, P, D) in the decoder's coordinates; without points, the CNN's grid."""
        z = self.encode(voxels)
        out: Tensor = self.generator(z) if points is None else self.generator(points, z)
        return out


class ResidualBlock(nn.Module):
    """Two 3 x 3 convolutions with batch norm; a new width halves the side and has a 1 x 1 shortcut."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.widens = inputs != outputs
        self.conv_1 = nn.Conv2d(inputs, outputs, 3, 2 if self.widens else 1, 1, bias=False)
        self.bn_1 = GlobalBatchNorm2d(outputs)
        self.conv_2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn_2 = GlobalBatchNorm2d(outputs)
        if self.widens:
            self.conv_s = nn.Conv2d(inputs, outputs, 1, 2, bias=False)
            self.bn_s = GlobalBatchNorm2d(outputs)

    def forward(self, x: Tensor) -> Tensor:
        out = self.bn_2(self.conv_2(_activation(self.bn_1(self.conv_1(x)))))
        return _activation(out + (self.bn_s(self.conv_s(x)) if self.widens else x))


class ImageEncoder(nn.Module):
    """A grey view (B, 1, 128, 128) in [0, 1] -> a code (B, Z) in (0, 1): a ResNet-18 without pooling.

    It inverts the view itself (1 - view): the background of the renderings is white.

    Args:
        z_dim: Z.
        width: channels of the first stage, 64; others are 2, 4, 8 times.
    """

    def __init__(self, z_dim: int = 256, width: int = 64) -> None:
        super().__init__()
        self.conv_0 = nn.Conv2d(1, width, 7, 2, 3, bias=False)
        self.bn_0 = GlobalBatchNorm2d(width)
        widths = [width * m for m in (1, 1, 2, 2, 4, 4, 8, 8)]
        before: Sequence[int] = [width, *widths[:-1]]
        for k, (inputs, outputs) in enumerate(zip(before, widths, strict=True), start=1):
            setattr(self, f"res_{k}", ResidualBlock(inputs, outputs))
        self.conv_9 = nn.Conv2d(8 * width, 8 * width, 4, 2, 1, bias=False)
        self.bn_9 = GlobalBatchNorm2d(8 * width)
        self.conv_10 = nn.Conv2d(8 * width, z_dim, 4)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.xavier_uniform_(module.weight)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(self, view: Tensor) -> Tensor:
        x = _activation(self.bn_0(self.conv_0(1 - view)))
        for k in range(1, 9):
            x = getattr(self, f"res_{k}")(x)
        x = self.conv_10(_activation(self.bn_9(self.conv_9(x))))
        return x.flatten(1).sigmoid()


class SingleView(nn.Module):
    """IM-SVR: the image encoder and the frozen decoder of an autoencoder."""

    def __init__(self, img_encoder: ImageEncoder, generator: ImplicitDecoder) -> None:
        super().__init__()
        self.img_encoder, self.generator = img_encoder, generator

    def forward(self, view: Tensor, points: Tensor) -> Tensor:
        """Values (B, P) at points (B, P, 3) of the shape seen in views (B, 1, 128, 128)."""
        out: Tensor = self.generator(points, self.img_encoder(view))
        return out


class LatentLayers(nn.Sequential):
    """inputs -> hidden -> hidden -> outputs, leaky ReLU between; weights from N(0, 0.02), biases zero."""

    def __init__(self, inputs: int, outputs: int, hidden: int = 2048) -> None:
        super().__init__(
            nn.Linear(inputs, hidden),
            nn.LeakyReLU(SLOPE),
            nn.Linear(hidden, hidden),
            nn.LeakyReLU(SLOPE),
            nn.Linear(hidden, outputs),
        )
        for module in self:
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, 0.0, 0.02)
                nn.init.zeros_(module.bias)


class LatentGAN(nn.Module):
    """Generator and critic of codes."""

    def __init__(self, generator: nn.Module, critic: nn.Module) -> None:
        super().__init__()
        self.generator, self.critic = generator, critic

    def forward(self, noise: Tensor) -> Tensor:
        """Codes (B, Z) in (0, 1) of noise (B, N)."""
        out: Tensor = self.generator(noise)
        return out.sigmoid()


class GridGAN(nn.Module):
    """A decoder that draws whole shapes from noise, and the encoder that judges them."""

    def __init__(
        self, generator: nn.Module, critic: ShapeEncoder, version: Version, size: int, dims: int
    ) -> None:
        super().__init__()
        self.generator, self.critic = generator, critic
        self.size, self.dims = size, dims
        points = coordinates(grid_points(size, dims), version)
        self.register_buffer("points", points, persistent=False)

    points: Tensor

    def forward(self, noise: Tensor) -> Tensor:
        """Shapes (B, 1, S, ..., S) of noise (B, N)."""
        if isinstance(self.generator, CNNDecoder):
            return self.generator(noise)[:, None]
        values = self.generator(self.points.expand(noise.shape[0], -1, -1), noise)
        out: Tensor = values.view(noise.shape[0], 1, *[self.size] * self.dims)
        return out
