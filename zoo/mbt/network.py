"""MBT (Nagrani et al., NeurIPS 2021): two ViT streams that exchange information from layer L_f on.

Shapes: B batch, M modalities, N_i tokens of modality i, D width, K bottleneck tokens, C classes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from zoo.mbt.bottleneck import (
    BottleneckUpdate,
    bottleneck_layer,
    cross_attention_layer,
    key_mask,
    mean_of_present,
    temporal_indices,
)
from zoo.nn.vision_transformer import StochasticDepth

Fusion = Literal["bottleneck", "cross_attention", "shared_self_attention", "late"]
Classifier = Literal["token", "gap"]
PatchMode = Literal["temporal_sampling", "tubelet"]
Activation = Literal["gelu_tanh", "gelu"]
FUSIONS = ("bottleneck", "cross_attention", "shared_self_attention", "late")
MODALITIES = ("rgb", "spectrogram")
SIZES: dict[str, dict[str, int]] = {
    "tiny": {"width": 192, "depth": 4, "heads": 4, "mlp": 768},
    "S": {"width": 384, "depth": 12, "heads": 6, "mlp": 1536},
    "B": {"width": 768, "depth": 12, "heads": 12, "mlp": 3072},
    "L": {"width": 1024, "depth": 24, "heads": 16, "mlp": 4096},
}


class Block(nn.Module):
    """y = z + drop(MHSA(LN(z))); out = y + drop(MLP(LN(y))).

    With ``context`` (B, N', D) the queries are those of z, keys and values those of [context ; z], which goes
    through this block's own norm and projections. ``mask`` (B, 1, 1, keys) is true where a key counts.
    """

    def __init__(
        self,
        width: int,
        heads: int,
        mlp: int,
        drop_path: float = 0.0,
        rescale: bool = False,
        dropout: float = 0.0,
        eps: float = 1e-6,
        activation: Activation = "gelu_tanh",
    ) -> None:
        super().__init__()
        self.heads, self.width = heads, width
        self.approximate = "tanh" if activation == "gelu_tanh" else "none"
        self.norm1, self.norm2 = nn.LayerNorm(width, eps=eps), nn.LayerNorm(width, eps=eps)
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.fc1, self.fc2 = nn.Linear(width, mlp), nn.Linear(mlp, width)
        self.dropout = nn.Dropout(dropout)
        # Two modules, since the masks of the two branches are independent.
        self.drop1, self.drop2 = StochasticDepth(drop_path, rescale), StochasticDepth(drop_path, rescale)
        self.recorded: list[Tensor] | None = None

    def forward(self, z: Tensor, context: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        y = z + self.drop1(self.dropout(self.attend(z, context, mask)))
        hidden = self.dropout(F.gelu(self.fc1(self.norm2(y)), approximate=self.approximate))
        return y + self.drop2(self.dropout(self.fc2(hidden)))

    def attend(self, z: Tensor, context: Tensor | None, mask: Tensor | None) -> Tensor:
        normed = self.norm1(z)
        if context is None:
            q, k, v = self.qkv(normed).chunk(3, dim=2)
        else:
            d = self.width
            q = F.linear(normed, self.qkv.weight[:d], self.qkv.bias[:d])
            keys = torch.cat([self.norm1(context), normed], dim=1)
            k, v = F.linear(keys, self.qkv.weight[d:], self.qkv.bias[d:]).chunk(2, dim=2)
        q, k, v = (x.unflatten(2, (self.heads, -1)).transpose(1, 2) for x in (q, k, v))
        if self.recorded is None:
            out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        else:
            scores = q @ k.transpose(2, 3) / math.sqrt(q.shape[3])
            if mask is not None:
                scores = scores.masked_fill(~mask, -math.inf)
            weights = scores.softmax(dim=3)
            self.recorded.append(weights.mean(dim=1))  # over the heads: (B, queries, keys)
            out = weights @ v
        return self.proj(out.transpose(1, 2).flatten(2))


class FusionNetwork(nn.Module):
    """Patches of frames and of a log-mel spectrogram to class logits.

    Args:
        modalities: ``rgb``, ``spectrogram`` or both; also the order of the sequential update.
        fusion: ``bottleneck``, ``cross_attention``, ``shared_self_attention`` or ``late`` (no exchange).
        fusion_layer: L_f; layers L_f .. L-1 exchange. 0 is early fusion, L is late fusion.
        num_bottlenecks: K; ``extra_bottleneck`` adds one, as the official model with CLS tokens does.
        classifier: ``token`` (a CLS per modality, a logit vector each) or ``gap`` (the mean over all tokens
            of all modalities, one logit vector).
        frames: frames that the position table is made for; in mode ``temporal_sampling`` so many of the
            given ones are kept, ``tubelet`` takes all and joins ``tubelet_frames`` of them.
        spectrogram_channels: 3 repeats the spectrogram, so that kernels of images fit; 1 does not.
    """

    def __init__(
        self,
        num_classes: int = 527,
        width: int = 768,
        depth: int = 12,
        heads: int = 12,
        mlp: int = 3072,
        modalities: Sequence[str] = MODALITIES,
        fusion: Fusion = "bottleneck",
        fusion_layer: int = 8,
        num_bottlenecks: int = 4,
        extra_bottleneck: bool = False,
        bottleneck_update: BottleneckUpdate = "mean",
        share_encoder: bool = False,
        classifier: Classifier = "token",
        image_size: int = 224,
        patch_size: int = 16,
        frames: int = 8,
        patch_mode: PatchMode = "temporal_sampling",
        tubelet_frames: int = 2,
        spectrogram_frames: int = 800,
        mel_bins: int = 128,
        spectrogram_patch: int = 16,
        spectrogram_channels: int = 3,
        stochastic_depth: float = 0.0,
        rescale: bool = False,
        dropout: float = 0.0,
        layer_norm_eps: float = 1e-6,
        activation: Activation = "gelu_tanh",
        activation_checkpointing: bool = False,
    ) -> None:
        super().__init__()
        self.modalities, self.fusion = tuple(modalities), fusion
        self._check(fusion, fusion_layer, depth, width, heads)
        self.depth, self.width, self.num_classes = depth, width, num_classes
        self.fusion_layer = depth if fusion == "late" or len(self.modalities) == 1 else fusion_layer
        self.update, self.classifier, self.extra_bottleneck = bottleneck_update, classifier, extra_bottleneck
        self.frames, self.patch_mode = frames, patch_mode
        self.spectrogram_channels = spectrogram_channels
        self.shapes: dict[str, tuple[int, ...]] = {
            "rgb": (3, frames, image_size, image_size),
            "spectrogram": (1, spectrogram_frames, mel_bins),
        }
        self.activation_checkpointing = activation_checkpointing
        self.shared = share_encoder or fusion == "shared_self_attention"
        self.grids: dict[str, tuple[int, ...]] = {}
        if "rgb" in self.modalities:
            side = _divided(image_size, patch_size, "image_size", "patch_size")
            times = frames
            if patch_mode == "tubelet":
                times = _divided(frames, tubelet_frames, "frames", "tubelet_frames")
            self.grids["rgb"] = (times, side, side)
        if "spectrogram" in self.modalities:
            self.grids["spectrogram"] = (
                # 200 frames are 12 patches: the convolution leaves out what makes no whole one
                _divided(
                    spectrogram_frames, spectrogram_patch, "spectrogram_frames", "spectrogram_patch", False
                ),
                _divided(mel_bins, spectrogram_patch, "mel_bins", "spectrogram_patch"),
            )
        kernels: dict[str, nn.Module] = {}
        if "rgb" in self.modalities:
            p = patch_size
            tube = (tubelet_frames, p, p)
            kernels["rgb"] = nn.Conv3d(3, width, tube, tube) if patch_mode == "tubelet" else nn.Conv2d(
                3, width, p, p
            )  # fmt: skip
        if "spectrogram" in self.modalities:
            q = spectrogram_patch
            kernels["spectrogram"] = nn.Conv2d(spectrogram_channels, width, q, q)
        self.patch = nn.ModuleDict(kernels)
        token = classifier == "token"
        self.cls = nn.ParameterDict(
            {m: nn.Parameter(torch.zeros(1, 1, width)) for m in self.modalities} if token else {}
        )
        self.positions = nn.ParameterDict(
            {m: nn.Parameter(torch.zeros(1, math.prod(g) + token, width)) for m, g in self.grids.items()}
        )
        self.bottleneck: nn.Parameter | None = None
        if fusion == "bottleneck" and len(self.modalities) > 1:
            # Without a fusion layer nothing reads it, and DDP waits for the gradient of what may have one.
            self.bottleneck = nn.Parameter(
                torch.zeros(1, num_bottlenecks + extra_bottleneck, width), self.fusion_layer < depth
            )
        self.drop = nn.Dropout(dropout)
        # Rate p l / (L - 1): 0 in the first layer, p in the last.
        rates = [stochastic_depth * i / max(depth - 1, 1) for i in range(depth)]
        self.blocks = nn.ModuleDict(
            {
                name: nn.ModuleList(
                    Block(width, heads, mlp, rate, rescale, dropout, layer_norm_eps, activation)
                    for rate in rates
                )
                for name in (("shared",) if self.shared else self.modalities)
            }
        )
        self.norm = nn.LayerNorm(width, eps=layer_norm_eps)
        self.head = nn.Linear(width, num_classes)
        self.initialise()

    def _check(self, fusion: str, fusion_layer: int, depth: int, width: int, heads: int) -> None:
        if not self.modalities or set(self.modalities) - set(MODALITIES):
            raise ValueError(f"modalities must be of {', '.join(MODALITIES)}, got {list(self.modalities)}")
        if fusion not in FUSIONS:
            raise ValueError(f"fusion must be one of {', '.join(FUSIONS)}, got {fusion!r}")
        if len(self.modalities) > 1 and fusion != "late" and not 0 <= fusion_layer <= depth:
            raise ValueError(f"fusion_layer must lie in 0..{depth} (the depth), got {fusion_layer}")
        if width % heads:
            raise ValueError(f"heads must divide width, got {heads} and {width}")

    def initialise(self) -> None:
        """The official initialisation; head and CLS tokens are 0, so a fresh network's logits are 0."""
        for module in self.modules():
            if isinstance(module, Block):
                for part in module.qkv.weight.chunk(3):
                    nn.init.xavier_uniform_(part)
                for linear in (module.proj, module.fc1, module.fc2):
                    nn.init.xavier_uniform_(linear.weight)
                nn.init.zeros_(module.qkv.bias)
                nn.init.zeros_(module.proj.bias)
                nn.init.normal_(module.fc1.bias, std=1e-6)
                nn.init.normal_(module.fc2.bias, std=1e-6)
            elif isinstance(module, nn.Conv2d | nn.Conv3d):
                # LeCun-normal: variance 1 / fan_in of a normal cut at two deviations
                fan_in = module.weight[0].numel()
                std = 1 / math.sqrt(fan_in) / 0.87962566103423978
                nn.init.trunc_normal_(module.weight, std=std, a=-2 * std, b=2 * std)
                nn.init.zeros_(module.bias)  # type: ignore[arg-type]
        for table in self.positions.values():
            nn.init.normal_(table, std=0.02)
        if self.bottleneck is not None:
            nn.init.normal_(self.bottleneck, std=0.02)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(
        self,
        rgb: Tensor | None = None,
        spectrogram: Tensor | None = None,
        present: Tensor | None = None,
        fuse: bool = True,
    ) -> Tensor:
        """Logits per modality (B, M, C), of ``gap`` (B, 1, C); M counts the given modalities.

        Args:
            rgb: (B, 3, T, H, W) in [-1, 1].
            spectrogram: (B, 1, T_a, mel bins), normalised.
            present: bool (B, M), which of the given modalities a sample has; None for all.
            fuse: False leaves the exchange out, as the official ``test_with_bottlenecks=false``.
        """
        streams = self.embed(rgb, spectrogram)
        return self.classify(self.encode(streams, present, fuse), present)

    def set_function(self, layer_norm_eps: float | None = None, activation: Activation | None = None) -> None:
        """Change the norms' eps or the GELU, to those of loaded weights."""
        for module in self.modules():
            if isinstance(module, nn.LayerNorm) and layer_norm_eps is not None:
                module.eps = layer_norm_eps
            if isinstance(module, Block) and activation is not None:
                module.approximate = "tanh" if activation == "gelu_tanh" else "none"

    def example_inputs(self, batch: int) -> dict[str, Tensor]:
        """Random inputs of the network's sizes, on the current device."""
        inputs = {name: torch.randn(batch, *self.shapes[name]) for name in MODALITIES}
        return {name: x for name, x in inputs.items() if name in self.modalities}

    def embed(self, rgb: Tensor | None, spectrogram: Tensor | None) -> dict[str, Tensor]:
        """Tokens with positions, CLS first, of each given modality: (B, N_i, D)."""
        given = {"rgb": rgb, "spectrogram": spectrogram}
        streams = {}
        for name in self.modalities:
            x = given[name]
            if x is None:
                continue
            tokens = self._rgb_patches(x) if name == "rgb" else self._spectrogram_patches(x)
            if self.classifier == "token":
                tokens = torch.cat([self.cls[name].expand(tokens.shape[0], -1, -1), tokens], dim=1)
            table = self.positions[name]
            if tokens.shape[1] != table.shape[1]:
                raise ValueError(
                    f"{name} of shape {tuple(x.shape)} gives {tokens.shape[1]:,} tokens, the network has "
                    f"positions for {table.shape[1]:,}"
                )
            streams[name] = self.drop(tokens + table)
        if not streams:
            raise ValueError(f"the network needs {' or '.join(self.modalities)}, got none of them")
        return streams

    def _rgb_patches(self, x: Tensor) -> Tensor:
        """Tokens in the order frame, row, column."""
        if self.patch_mode == "tubelet":
            return self.patch["rgb"](x).flatten(2).transpose(1, 2)
        if x.shape[2] > self.frames:
            x = x[:, :, temporal_indices(x.shape[2], self.frames)]
        b, _, t = x.shape[:3]
        patches = self.patch["rgb"](x.transpose(1, 2).flatten(0, 1))  # (B T, D, h, w)
        return patches.flatten(2).unflatten(0, (b, t)).permute(0, 1, 3, 2).flatten(1, 2)

    def _spectrogram_patches(self, x: Tensor) -> Tensor:
        """Tokens time-major: time patch * mel patches + mel patch."""
        x = x.expand(-1, self.spectrogram_channels, -1, -1)
        return self.patch["spectrogram"](x).flatten(2).transpose(1, 2)

    def stack(self, modality: str) -> nn.ModuleList:
        """The blocks that a modality goes through."""
        blocks: Any = self.blocks["shared" if self.shared else modality]
        return blocks

    def _run(self, block: Block) -> Callable[..., Tensor]:
        if not (self.activation_checkpointing and self.training):
            return block
        return lambda *args: checkpoint(block, *args, use_reentrant=False)

    def encode(
        self, streams: dict[str, Tensor], present: Tensor | None = None, fuse: bool = True
    ) -> dict[str, Tensor]:
        """The streams after L layers, before the final norm.

        Args:
            streams: modality -> (B, N_i, D).
            present: bool (B, M) in the order of ``streams``.
            fuse: False leaves the exchange out: the same weights as independent streams.
        """
        names, z = list(streams), list(streams.values())
        start = self.fusion_layer if fuse else self.depth
        bottleneck = None if self.bottleneck is None else self.bottleneck.expand(z[0].shape[0], -1, -1)
        for layer in range(self.depth):
            blocks = [self._run(self.stack(n)[layer]) for n in names]  # type: ignore[arg-type]
            if layer < start:
                z = [block(x) for block, x in zip(blocks, z, strict=True)]
            elif bottleneck is not None:
                z, bottleneck = bottleneck_layer(blocks, z, bottleneck, self.update, present)
            elif self.fusion == "cross_attention":
                z = cross_attention_layer(blocks, z, present)
            else:
                return self._joint(names, z, layer, present)
        return dict(zip(names, z, strict=True))

    def _joint(
        self, names: list[str], z: list[Tensor], start: int, present: Tensor | None
    ) -> dict[str, Tensor]:
        """Concatenated once, ordinary self-attention from layer ``start`` on, then split."""
        mask = key_mask(z, range(len(z)), present)
        joint = torch.cat(z, dim=1)
        for layer in range(start, self.depth):
            joint = self._run(self.stack(names[0])[layer])(joint, None, mask)  # type: ignore[arg-type]
        return dict(zip(names, joint.split([x.shape[1] for x in z], dim=1), strict=True))

    def classify(self, streams: dict[str, Tensor], present: Tensor | None = None) -> Tensor:
        """Logits (B, M, C) of the CLS tokens, or (B, 1, C) of the mean over all tokens: one norm and head."""
        if self.classifier == "token":
            return self.head(self.norm(torch.stack([z[:, 0] for z in streams.values()], dim=1)))
        normed = [self.norm(z) for z in streams.values()]
        if present is None:
            return self.head(torch.cat(normed, dim=1).mean(dim=1, keepdim=True))
        sums = torch.stack([z.sum(dim=1) for z in normed], dim=1)
        counts = torch.tensor([z.shape[1] for z in normed], device=sums.device, dtype=sums.dtype)
        kept = present.to(sums.dtype)
        total = (kept * counts).sum(dim=1, keepdim=True).clamp(min=1)
        mean = torch.where(present[:, :, None], sums, 0).sum(dim=1) / total
        return self.head(mean[:, None])


class SpectrogramNetwork(FusionNetwork):
    """A network of sound alone, whose first input is the spectrogram."""

    def forward(  # type: ignore[override]
        self, spectrogram: Tensor, present: Tensor | None = None, fuse: bool = True
    ) -> Tensor:
        """Logits (B, 1, C)."""
        return super().forward(None, spectrogram, present, fuse)


def build(**arguments: Any) -> FusionNetwork:
    """The network of these arguments of :class:`FusionNetwork`."""
    alone = list(arguments.get("modalities", MODALITIES)) == ["spectrogram"]
    return SpectrogramNetwork(**arguments) if alone else FusionNetwork(**arguments)


def fused_logits(logits: Tensor, present: Tensor | None = None) -> Tensor:
    """Evaluation: the mean (B, C) of the present modalities' logits (B, M, C), before softmax or sigmoid."""
    if logits.shape[1] == 1:
        return logits[:, 0]
    return mean_of_present(logits, present)


def _divided(size: int, patch: int, size_name: str, patch_name: str, whole: bool = True) -> int:
    if size < patch or (whole and size % patch):
        rule = "divide" if whole else "not exceed"
        raise ValueError(f"{patch_name} must {rule} {size_name}, got {patch} and {size}")
    return size // patch
