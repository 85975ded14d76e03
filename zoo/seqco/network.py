"""The summariser with its head, its cross attention and the slow copies that it is compared with."""

from __future__ import annotations

import copy
from collections.abc import Collection
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from zoo.seqco import backbones
from zoo.seqco.queue import KeyQueue
from zoo.seqco.sampling import evaluating
from zoo.seqco.similarity import CrossAttention, unit

Similarity = Literal["cross_attention", "cls", "in_batch", "queue"]


@dataclass
class View:
    """A sequence that means what the others of its document mean.

    Attributes:
        ids: int64 (B, T).
        mask: bool (B, T), its real tokens.
        rows: bool (B,), false where it holds no ordinary token; None where all do.
    """

    ids: Tensor
    mask: Tensor
    rows: Tensor | None = None


class SeqCoNetwork(nn.Module):
    """An encoder-decoder and, where sequences are compared, head g, predictor omega and the target network.

    f_theta(s) = g(Enc(s)) / |g(Enc(s))| for each token, g = Linear(d, 4d), ReLU, Linear(4d, d); the target
    f_xi has copies of encoder and g (and of the decoder where that represents summaries), which no optimiser
    moves. Nothing of it is used for inference: ``backbone`` is an ordinary model of transformers.

    Args:
        settings: of the backbone, see :func:`zoo.seqco.backbones.settings`.
        ids: vocabulary and special ids of its tokenizer.
        compared: build what sequences are compared with.
        similarity: ``cross_attention``, ``cls``, ``in_batch`` or ``queue``.
        decoder_views: summaries may be represented by decoder states, which needs a slow decoder.
        target_dropout: leave the target network in train mode while training, as the official code does.
        head_factor: hidden width of g in units of d.
        queued: views that have keys of earlier updates, and how many.
    """

    def __init__(
        self,
        settings: dict[str, Any],
        ids: dict[str, int | None],
        compared: bool = True,
        similarity: Similarity = "cross_attention",
        decoder_views: bool = False,
        target_dropout: bool = False,
        head_factor: int = 4,
        queued: tuple[Collection[str], int] = ((), 0),
    ) -> None:
        super().__init__()
        config = backbones.config_of(settings, **ids)
        self.backbone: Any = backbones.build(config)
        self.compared, self.decoder_views, self.target_dropout = compared, decoder_views, target_dropout
        self.register_state_dict_post_hook(_without_copies)
        self.register_load_state_dict_pre_hook(_with_copies)
        if not compared:
            return
        width = backbones.width_of(config)
        hidden = head_factor * width
        self.head = nn.Sequential(nn.Linear(width, hidden), nn.ReLU(), nn.Linear(hidden, width))
        if similarity == "cross_attention":
            self.attention: Any = CrossAttention(
                width, backbones.heads_of(config), backbones.attention_dropout_of(config)
            )
        elif similarity == "cls":
            self.predictor = nn.Sequential(
                nn.LayerNorm(width), nn.Linear(width, hidden), nn.ReLU(), nn.Linear(hidden, width)
            )
        elif similarity == "queue":
            self.queue = KeyQueue(*queued, width)
        self.target = nn.ModuleDict({"encoder": self._copied("encoder"), "head": copy.deepcopy(self.head)})
        if decoder_views:
            self.target["decoder"] = self._copied("decoder")
        self.target.requires_grad_(False)

    def _online(self, part: str) -> Any:
        if part == "head":
            return self.head
        return self.backbone.get_encoder() if part == "encoder" else self.backbone.get_decoder()

    def _copied(self, part: str) -> nn.Module:
        # a deep copy has embeddings of its own: moving xi does not move theta
        return copy.deepcopy(self._online(part))

    def freeze_compared(self) -> None:
        """Head and omega as they were drawn: what is reported then is no training's doing."""
        for part in ("head", "attention", "predictor"):
            if hasattr(self, part):
                getattr(self, part).requires_grad_(False)

    # --- the target network ---------------------------------------------------------------------------------

    def _pairs(self) -> tuple[list[Tensor], list[Tensor]]:
        """Parameters of the target network, and those that they follow."""
        slow, fast = [], []
        for name, part in self.target.items():
            own, online = dict(part.named_parameters()), dict(self._online(name).named_parameters())
            slow += [own[k].data for k in own]
            fast += [online[k].data for k in own]
        return slow, fast

    @torch.no_grad()
    def reset_target(self) -> None:
        """xi = theta: after pretrained weights are in."""
        slow, fast = self._pairs()
        for own, online in zip(slow, fast, strict=True):
            own.copy_(online)

    @torch.no_grad()
    def move_target(self, decay: float) -> None:
        """xi = beta xi + (1 - beta) theta: 1 freezes, 0 copies."""
        slow, fast = self._pairs()
        if decay == 0:  # x + (y - x) is not y to the bit
            self.reset_target()
        else:
            torch._foreach_lerp_(slow, fast, 1 - decay)

    # --- representations ------------------------------------------------------------------------------------

    def encode(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Encoder states (B, T, d) of the online network."""
        return _encoded(self.backbone.get_encoder(), ids, mask)

    def project(self, states: Tensor) -> Tensor:
        """f_theta of encoder or decoder states."""
        return unit(self.head(states))

    def _slow_mode(self) -> Any:
        """The target network has no dropout, unless it is to have it while training."""
        return nullcontext() if self.target_dropout else evaluating(self.target)

    @torch.no_grad()
    def slow_states(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Encoder states of the target network."""
        with self._slow_mode():
            return _encoded(self.target["encoder"], ids, mask)

    @torch.no_grad()
    def slow_project(self, states: Tensor) -> Tensor:
        """f_xi of its states."""
        return unit(self.target["head"](states))

    def decode(self, inputs: Tensor, states: Tensor, mask: Tensor, slow: bool = False) -> Tensor:
        """Last hidden states (B, T, d) of a decoder over ``inputs``, before the language-model head.

        Args:
            inputs: decoder inputs, the start token first.
            states: encoder states of the document.
            mask: of its real tokens.
            slow: by the target network's decoder.
        """
        decoder = self.target["decoder"] if slow else self.backbone.get_decoder()
        with self._slow_mode() if slow else nullcontext(), torch.set_grad_enabled(_wanted(slow)):
            found = decoder(
                input_ids=inputs,
                encoder_hidden_states=states,
                encoder_attention_mask=mask.long(),
                use_cache=False,
            )
        return found.last_hidden_state

    def forward(self, input_ids: Tensor, attention_mask: Tensor, decoder_input_ids: Tensor) -> Tensor:
        """Logits (B, T, V) of the summariser."""
        found = self.backbone(
            input_ids=input_ids,
            attention_mask=attention_mask.long(),
            decoder_input_ids=decoder_input_ids,
            use_cache=False,
        )
        return found.logits

    def logits_over(self, states: Tensor, mask: Tensor, decoder_inputs: Tensor) -> Tensor:
        """Logits (B, T, V) of other summaries of documents whose encoder states (B, S, d) are known."""
        found = self.backbone(
            encoder_outputs=(states,),
            attention_mask=mask.long(),
            decoder_input_ids=decoder_inputs,
            use_cache=False,
        )
        return found.logits

    def logits_and_states(self, ids: Tensor, mask: Tensor, decoder_inputs: Tensor) -> tuple[Tensor, Tensor]:
        """As :meth:`forward`, and the encoder's states (B, T, d), which may serve as a view once more."""
        found = self.backbone(
            input_ids=ids, attention_mask=mask.long(), decoder_input_ids=decoder_inputs, use_cache=False
        )
        return found.logits, found.encoder_last_hidden_state


def _encoded(encoder: Any, ids: Tensor, mask: Tensor) -> Tensor:
    states: Tensor = encoder(input_ids=ids, attention_mask=mask.long()).last_hidden_state
    return states[:, : ids.shape[1]]  # LED fills up to whole windows


def _wanted(slow: bool) -> bool:
    return torch.is_grad_enabled() and not slow


def _copies(network: nn.Module) -> dict[str, str]:
    """Names of tied weights -> the name under which each is first found."""
    first: dict[int, str] = {}
    found = {}
    for name, parameter in network.named_parameters(remove_duplicate=False):
        kept = first.setdefault(id(parameter), name)
        if kept != name:
            found[name] = kept
    return found


def _without_copies(network: nn.Module, state: dict[str, Any], prefix: str, metadata: Any) -> None:
    """Tied embeddings are saved once: safetensors refuses shared memory, and the others would be copies."""
    for name in _copies(network):
        state.pop(prefix + name, None)


def _with_copies(network: nn.Module, state: dict[str, Any], prefix: str, *others: Any) -> None:
    for name, kept in _copies(network).items():
        if prefix + kept in state:
            state.setdefault(prefix + name, state[prefix + kept])
