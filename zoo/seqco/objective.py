"""The loss of a micro-batch: teacher forcing, and how alike the views of each document are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from zoo.randomness import global_seed
from zoo.seqco.network import SeqCoNetwork, View
from zoo.seqco.queue import Keys
from zoo.seqco.sampling import ordinary, sample, uniform_draws, wrapped
from zoo.seqco.similarity import mean_token_loss, policy_loss, spread
from zoo.seqco.views import Comparison, Views
from zoo.seqco.weighting import PAIRS, Pair, Schedule, directions, schedule


@dataclass
class Parts:
    """What a micro-batch gives.

    Attributes:
        loss: to be divided by what all micro-batches of the update have counted.
        counted: target tokens, and sequences under ``token_sum``.
        nll: mean over its tokens, label-smoothed.
        pairs: L_sim of each pair in use.
        policy: the policy gradient's loss and the mean reward, where it is in use.
        keys: of a queue's views: keys, documents, and which rows count.
        spreads: of encoder states and of features, where there are two rows to compare.
    """

    loss: Tensor
    counted: float
    nll: Tensor
    pairs: dict[Pair, Tensor] = field(default_factory=dict)
    policy: tuple[Tensor, Tensor] | None = None
    keys: Keys = field(default_factory=dict)
    spreads: tuple[Tensor, Tensor] | None = None


class Objective:
    """L = L_NLL + sum over the pairs of w L_sim, with the settings of a module.

    Args:
        network: both networks.
        how: views are compared.
        settings: hyperparameters of the module.

    Raises:
        ValueError: for a weight that is none.
    """

    def __init__(self, network: SeqCoNetwork, how: Comparison, settings: Mapping[str, Any]) -> None:
        self.network, self.how, self.settings, self.special = network, how, settings, how.special
        self.weights = weights_of(settings)
        self.policy = schedule(settings["weight_policy"], "model.init_args.weight_policy")

    # --- weights --------------------------------------------------------------------------------------------

    def weights_at(self, step: int) -> dict[Pair, float]:
        """Weights of the pairs in use at an update of the whole run; those at 0 are not."""
        h, update = self.settings, step - self.settings["restart_at"]
        if not contrasted(self.weights) or update < 0:
            return {}
        found = {pair: weight(update) for pair, weight in self.weights.items()}
        if h["generated"] == "online" and update % h["sample_every"]:
            found = {"xy": found["xy"]}
        return {pair: value for pair, value in found.items() if value}

    # --- views ----------------------------------------------------------------------------------------------

    def decoder_inputs(self, target: Tensor) -> Tensor:
        """Summaries (B, T) one place further, the start token before them."""
        start = torch.full_like(target[:, :1], self.special.start)
        return torch.cat([start, target[:, :-1]], dim=1)

    def view_of(self, drawn: Tensor, width: int = 0) -> View:
        """Drawn ids as a view, at least ``width`` wide."""
        rows = ordinary(drawn, self.special)
        ids, mask = (t.to(drawn.device) for t in wrapped(rows, self.special, width))
        return View(ids, mask, torch.tensor([bool(row) for row in rows], device=drawn.device))

    def generated(self, batch: Mapping[str, Any], step: int) -> View:
        """Generated summaries of a micro-batch: drawn for this update and document, or the data's own."""
        h, width = self.settings, 0 if self.how.mask_padding else self.settings["sample_length"]
        if h["generated"] == "cached":
            if "yhat" not in batch:
                raise ValueError(
                    "model.init_args.generated is cached, but the data have no column yhat: jsonl with such "
                    "a field (data.init_args.yhat_field), or generated: online"
                )
            mask = batch["yhat_mask"]
            return View(batch["yhat"], mask, mask.sum(dim=1) > self.special.fewest)
        uniform = uniform_draws(global_seed(), step, batch["index"].tolist(), h["sample_length"] - 1)
        drawn = sample(
            self.network.backbone, batch["source"], batch["source_mask"], self.special, uniform,
            h["sample_top_p"], h["sample_beams"],
        )  # fmt: skip
        return self.view_of(drawn, width)

    def views(
        self, batch: Mapping[str, Any], yhat: View | None, states: Tensor | None, learns: bool = False
    ) -> Views:
        """Views of a micro-batch; ``states`` are those of its documents, where they are known."""
        given = {"x": View(batch["source"], batch["source_mask"])}
        if "target" in batch:
            given["y"] = View(batch["target"], batch["target_mask"])
        if yhat is not None:
            given["yhat"] = yhat
        return Views(self.network, self.how, given, states, batch["index"] if learns else None)

    # --- losses ---------------------------------------------------------------------------------------------

    def __call__(self, batch: Mapping[str, Any], step: int) -> Parts:
        """The loss of a micro-batch at an update."""
        labels = batch["target"].masked_fill(~batch["target_mask"], -100)
        logits, states = self.network.logits_and_states(
            batch["source"], batch["source_mask"], self.decoder_inputs(batch["target"])
        )
        total, tokens = mean_token_loss(logits, labels, self.settings["label_smoothing"])
        found = Parts(total, float(tokens), (total / tokens).detach())
        weights = self.weights_at(step)
        if weights:
            self._contrast(found, batch, step, weights, states)
        elif contrasted(self.weights):
            # DDP waits for a gradient of every parameter
            named = self.network.named_parameters()
            others = [p for n, p in named if p.requires_grad and "backbone" not in n]
            found.loss = found.loss + 0.0 * torch.stack([p.sum() for p in others]).sum()
        return found

    def _contrast(
        self,
        found: Parts,
        batch: Mapping[str, Any],
        step: int,
        weights: Mapping[Pair, float],
        states: Tensor,
    ) -> None:
        """Add the weighted sum of L_sim over the pairs in use, and sequences counted once per direction."""
        rows = len(batch["source"])
        yhat = self.generated(batch, step) if "xyhat" in weights or "yyhat" in weights else None
        reuse = self.settings["reuse_source"] or self.how.representation == "decoder"
        views = self.views(batch, yhat, states if reuse else None, learns=True)
        total, sequences = batch["source"].new_zeros((), dtype=torch.float32), 0
        for pair, weight in weights.items():
            loss = views.loss(pair)
            found.pairs[pair] = loss.detach()
            total = total + weight * loss
            sequences += rows * len(directions(pair, self.how.symmetrical))
        if yhat is not None and not self.policy.is_zero:
            total = total + self._policy(found, batch, step, views, states)
        if self.settings["contrast_reduction"] == "token_sum":
            found.loss, found.counted = found.loss + total, found.counted + sequences
        else:  # so that the division by all tokens of the update leaves the weighted mean of L_sim
            found.loss = found.loss + total * found.counted
        for view, keys in views.keys.items():
            counts = views.given[view].rows
            counts = torch.ones(rows, dtype=torch.bool, device=keys.device) if counts is None else counts
            found.keys[view] = keys, batch["index"], counts
        # of summaries where there are any
        forms = sorted(views.online_forms, reverse=True)
        if rows > 1 and forms:
            states, features = map(spread, views.monitored(forms[0]))
            found.spreads = states, features

    def _policy(
        self, found: Parts, batch: Mapping[str, Any], step: int, views: Views, states: Tensor
    ) -> Tensor:
        """Weighted loss of the policy gradient: drawn tokens that are like their document become likelier."""
        yhat, weight = views.view("yhat"), self.policy(step - self.settings["restart_at"])
        logits = self.network.logits_over(states, batch["source_mask"], self.decoder_inputs(yhat.ids))
        rewards = views.rewards()
        centred = self.settings["policy_baseline"] == "mean"
        loss = policy_loss(logits, yhat.ids, yhat.mask, rewards, centred, yhat.rows)
        found.policy = loss.detach(), (rewards * yhat.mask).sum() / yhat.mask.sum()
        return weight * loss


def weights_of(settings: Mapping[str, Any]) -> dict[Pair, Schedule]:
    """Schedules of the three weights."""
    return {p: schedule(settings[f"weight_{p}"], f"model.init_args.weight_{p}") for p in PAIRS}


def contrasted(weights: Mapping[Pair, Schedule]) -> bool:
    """Whether any pair is ever compared."""
    return any(not weight.is_zero for weight in weights.values())
