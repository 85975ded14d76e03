"""The views of a micro-batch, their features, each computed once, and the losses of the three pairs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from zoo.seqco.network import SeqCoNetwork, Similarity, View
from zoo.seqco.sampling import Special, shifted
from zoo.seqco.similarity import (
    attention_loss,
    first_token_loss,
    in_batch_loss,
    pooled,
    queue_loss,
    token_similarities,
)
from zoo.seqco.weighting import Pair, directions

ViewFormat = Literal["natural", "shifted"]
Representation = Literal["encoder", "decoder"]


@dataclass(frozen=True)
class Comparison:
    """How views are compared; see :class:`zoo.SeqCo` for the fields."""

    special: Special
    symmetrical: bool = True
    similarity: Similarity = "cross_attention"
    mask_padding: bool = True
    view_format: ViewFormat = "natural"
    representation: Representation = "encoder"
    temperature: float = 0.1
    detach_encoder: bool = False


class Views:
    """Views of the documents of a micro-batch.

    Args:
        network: both networks.
        how: they are compared.
        given: ``x`` and what there is of ``y`` and ``yhat``, as ``<s> tokens </s>``.
        states: encoder states of ``x`` of the summariser's own pass, which take the place of another one.
        documents: places (B,) in the training set, whose own keys in a queue are no negatives.
    """

    def __init__(
        self,
        network: SeqCoNetwork,
        how: Comparison,
        given: dict[str, View],
        states: Tensor | None = None,
        documents: Tensor | None = None,
    ) -> None:
        self.network, self.how, self.given, self.documents = network, how, given, documents
        self.keys: dict[str, Tensor] = {}
        self._views: dict[str, View] = {}
        self._states: dict[tuple[str, bool], Tensor] = {}
        self._features: dict[tuple[str, bool], Tensor] = {}
        if states is not None:
            self._states["x", False] = states

    # --- which sequence -------------------------------------------------------------------------------------

    def _form(self, name: str, pair: Pair) -> str:
        """Key of the form in which a pair sees a view."""
        if pair == "yyhat" and self.how.representation == "decoder":
            return f"{name} decoded"
        official = self.how.view_format == "shifted" and not (name == "x" and pair == "xy")
        return f"{name} shifted" if official else name

    def view(self, form: str) -> View:
        """Ids and mask of a form."""
        if form not in self._views:
            name, _, kind = form.partition(" ")
            view = self.given[name]
            if kind:
                keep = name == "yhat" and kind == "shifted"
                view = View(*shifted(view.ids, view.mask, self.how.special, keep), view.rows)
            self._views[form] = view
        return self._views[form]

    # --- features -------------------------------------------------------------------------------------------

    def states(self, form: str, slow: bool = False) -> Tensor:
        """States of a form before g: of the encoder, or of the decoder over the document."""
        if (form, slow) not in self._states:
            view, network = self.view(form), self.network
            if form.endswith("decoded"):
                source = self.view("x")
                found = network.decode(view.ids, self.states("x", slow), source.mask, slow)
            else:
                found = (network.slow_states if slow else network.encode)(view.ids, view.mask)
            self._states[form, slow] = found
        return self._states[form, slow]

    def features(self, form: str, slow: bool = False) -> Tensor:
        """f_theta, or f_xi where ``slow``."""
        if (form, slow) not in self._features:
            with torch.set_grad_enabled(torch.is_grad_enabled() and not slow):
                states = self.states(form, slow)
                if slow:
                    found = self.network.slow_project(states)
                else:
                    found = self.network.project(states.detach() if self.how.detach_encoder else states)
            self._features[form, slow] = found
        return self._features[form, slow]

    # --- losses ---------------------------------------------------------------------------------------------

    def loss(self, pair: Pair) -> Tensor:
        """L_sim of a pair: the sum of its directions."""
        found = [self._direction(pair, *names) for names in directions(pair, self.how.symmetrical)]
        return torch.stack(found).sum()

    def _direction(self, pair: Pair, online: str, target: str) -> Tensor:
        forms = [self._form(name, pair) for name in (online, target)]
        a, b = (self.view(form) for form in forms)
        rows = a.rows if b.rows is None else b.rows if a.rows is None else a.rows & b.rows
        fast, slow = self.features(forms[0]), self.features(forms[1], slow=True)
        kind, network = self.how.similarity, self.network
        if kind == "cls":
            return first_token_loss(fast, slow, network.predictor, rows)
        if kind == "queue":
            self.keys[target] = slow[:, 0].detach()
            usable = network.queue.usable(target, self.documents, len(fast))
            return queue_loss(fast, slow, network.queue.keys_of(target), usable, self.how.temperature, rows)
        masks = (a.mask, b.mask) if self.how.mask_padding else (None, None)
        if kind == "in_batch":
            return in_batch_loss(pooled(fast, masks[0]), pooled(slow, masks[1]), self.how.temperature, rows)
        return attention_loss(fast, slow, network.attention, masks[0], masks[1], rows)

    def comparable(self, pair: Pair) -> bool:
        """Whether there are negatives of a pair, where it needs such."""
        targets = [target for _, target in directions(pair, self.how.symmetrical)]
        return self.how.similarity != "queue" or all(map(self.network.queue.holds, targets))

    def rewards(self) -> Tensor:
        """cos(Z_j, f_xi(yhat)_j) of each token of the generated summaries (B, T), Z of their documents."""
        with torch.no_grad():
            return token_similarities(
                self.features("x"), self.features("yhat", slow=True), self.network.attention,
                self.view("x").mask if self.how.mask_padding else None,
            )  # fmt: skip

    @property
    def online_forms(self) -> list[str]:
        """Forms of which the online network has made features."""
        return [form for form, slow in self._features if not slow]

    def monitored(self, form: str = "x") -> tuple[Tensor, Tensor]:
        """Mean-pooled states and features of a form (B, d), of length one, without gradient."""
        mask = self.view(form).mask
        with torch.no_grad():
            return pooled(self.states(form).detach(), mask), pooled(self.features(form).detach(), mask)
