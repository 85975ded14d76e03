"""Tag decoders: the paper's LSTM, a linear-chain CRF, and a softmax of each word alone.

All take h_enc (B, T, D) of the real words with their mask (B, T), give a loss, the best tags with the
log-probability of each step, and the distributions of each word. The output has K columns: it cannot emit
[GO].
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

DecoderName = Literal["lstm", "crf", "linear"]


@dataclass
class Decoded:
    """The tags that a decoder takes for the best.

    Attributes:
        tags: int64 (B, T); what stands at padding means nothing.
        log_p: (B,) log P(y*|x), double.
        probabilities: (B, T, K) of each word: along the greedy path, or a CRF's marginals.
    """

    tags: Tensor
    log_p: Tensor
    probabilities: Tensor


class LinearDecoder(nn.Module):
    """p(y_t | x) = softmax(W h_t + b), each word alone. The head of a fine-tuned transformer."""

    def __init__(self, width: int, num_tags: int, dropout: float) -> None:
        super().__init__()
        self.dropout = nn.Dropout(dropout)
        self.output = nn.Linear(width, num_tags)

    def negative_log_likelihood(self, h: Tensor, mask: Tensor, tags: Tensor) -> Tensor:
        """-sum_t log p(y_t | x) of each sentence, (B,)."""
        log_p = self.output(self.dropout(h)).log_softmax(-1)
        return -(_at(log_p, tags) * mask).sum(1)

    def decode(self, h: Tensor, mask: Tensor) -> Decoded:
        log_p = self.output(self.dropout(h)).log_softmax(-1)
        best, tags = log_p.max(-1)
        return Decoded(tags, (best.double() * mask).sum(1), log_p.exp())


class LSTMDecoder(nn.Module):
    """s_t = LSTM([h_t ; onehot(y_{t-1})], s_{t-1}), p(y_t | y_<t, x) = softmax(W s_t + b) (section 3.3).

    s_0 = 0 and y_0 = [GO], whose place is the last of the K + 1 of the one-hot vector.
    """

    def __init__(
        self, width: int, num_tags: int, hidden: int, dropout: float, feedback: str = "gold"
    ) -> None:
        super().__init__()
        self.width, self.num_tags, self.feedback = width, num_tags, feedback
        self.lstm = nn.LSTM(width + num_tags + 1, hidden, batch_first=True)
        self.dropout = nn.Dropout(dropout)
        self.output = nn.Linear(hidden, num_tags)

    def negative_log_likelihood(self, h: Tensor, mask: Tensor, tags: Tensor) -> Tensor:
        """-log p(y|x) of each sentence, (B,): teacher forcing is one call of the LSTM over all words.

        With ``feedback: greedy`` the tag that is fed back is the decoder's own.
        """
        if self.feedback == "gold":
            fed = tags
        else:
            with torch.no_grad():
                fed = self.decode(h, mask).tags
        return -(_at(self.log_probabilities(h, fed), tags) * mask).sum(1)

    def log_probabilities(self, h: Tensor, tags: Tensor) -> Tensor:
        """log p(. | y_<t, x) along given tags, (B, T, K)."""
        go = torch.full_like(tags[:, :1], self.num_tags)
        before = functional.one_hot(torch.cat([go, tags[:, :-1]], 1), self.num_tags + 1)
        states, _ = self.lstm(torch.cat([h, before.to(h.dtype)], 2))
        return self.output(self.dropout(states)).log_softmax(-1)

    def decode(self, h: Tensor, mask: Tensor) -> Decoded:
        """Left to right, each time the most probable tag; of equals the lowest."""
        if torch.compiler.is_exporting():
            return self._decode_in_a_file(h, mask)
        inputs, state = self._inputs(h), self._start(h)
        go = torch.full((len(h),), self.num_tags, device=h.device)
        tags, steps = [go], []
        for t in range(h.shape[1]):
            log_p, state = self._step(inputs[:, t], tags[-1], state)
            steps.append(log_p)
            tags.append(log_p.argmax(-1))
        log_probs = torch.stack(steps, 1)
        found = torch.stack(tags[1:], 1)
        total = (_at(log_probs, found).double() * mask).sum(1)
        return Decoded(found, total, log_probs.exp())

    def _decode_in_a_file(self, h: Tensor, mask: Tensor) -> Decoded:
        """:meth:`decode` whose loop is part of the exported program: sentences may have any length."""
        from torch._higher_order_ops import scan

        # scan would trace a backward pass of whatever wants a gradient
        weights, recurrent = (w.detach() for w in self.lstm.all_weights[0][:2])
        columns = weights[:, self.width :].T
        output, bias = self.output.weight.detach(), self.output.bias.detach()
        inputs = self._inputs(h).transpose(0, 1).detach()  # (T, B, 4 H)

        def step(carry: Any, word: Tensor) -> Any:
            before, *state = carry
            hidden, cell = lstm_cell(word + columns[before], state[0], state[1], recurrent)
            log_p = functional.linear(hidden, output, bias).log_softmax(-1)
            tag = log_p.argmax(-1)
            return (tag, hidden, cell), (tag.clone(), log_p)

        hidden, cell = self._start(h)
        go = torch.full((h.shape[0],), self.num_tags, device=h.device)
        _, (tags, log_probs) = scan(step, (go, hidden, cell.clone()), inputs, dim=0)
        tags, log_probs = tags.transpose(0, 1), log_probs.transpose(0, 1)
        return Decoded(tags, (_at(log_probs, tags).double() * mask).sum(1), log_probs.exp())

    def beam(self, h: Tensor, mask: Tensor, width: int) -> Decoded:
        """The best of ``width`` hypotheses kept at each word; width 1 is the greedy path."""
        size, length = h.shape[:2]
        inputs = self._inputs(h)
        tags = torch.full((size, 1), self.num_tags, device=h.device)  # (B, W) the last ones
        history = torch.empty(size, 1, 0, dtype=torch.int64, device=h.device)
        scores = torch.zeros(size, 1, dtype=torch.double, device=h.device)
        state = self._start(h)
        for t in range(length):
            beams = tags.shape[1]
            step = inputs[:, t].repeat_interleave(beams, 0)
            log_p, state = self._step(step, tags.flatten(), state)
            real = mask[:, t, None, None]
            # a padded word has one continuation, which costs nothing: the order of the beams stays
            log_p = log_p.double().unflatten(0, (size, beams))
            only = torch.full_like(log_p, -torch.inf)
            only[..., 0] = 0
            total = scores[..., None] + torch.where(real, log_p, only)
            scores, place = total.flatten(1).topk(min(width, total[0].numel()), dim=1)
            origin, tags = place // self.num_tags, place % self.num_tags
            history = torch.cat([history.gather(1, origin[..., None].expand(-1, -1, t)), tags[..., None]], 2)
            rows = (torch.arange(size, device=h.device)[:, None] * beams + origin).flatten()
            state = (state[0][rows], state[1][rows])
        found = history[:, 0]
        return Decoded(found, scores[:, 0], self.log_probabilities(h, found).exp())

    def _inputs(self, h: Tensor) -> Tensor:
        """W h_t + b of all words at once, (B, T, 4 H): the tag before is added step by step."""
        inputs, _, bias, bias_of_state = self.lstm.all_weights[0]
        return functional.linear(h, inputs[:, : self.width], bias + bias_of_state)

    def _start(self, h: Tensor) -> tuple[Tensor, Tensor]:
        zero = h.new_zeros(h.shape[0], self.lstm.hidden_size)
        return zero, zero

    def _step(
        self, inputs: Tensor, before: Tensor, state: tuple[Tensor, Tensor]
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """One word: log-probabilities (N, K) and the state after it."""
        weights, recurrent, *_ = self.lstm.all_weights[0]
        columns = weights[:, self.width :].T  # (K + 1, 4 H)
        hidden, cell = lstm_cell(inputs + columns[before], *state, recurrent)
        return self.output(self.dropout(hidden)).log_softmax(-1), (hidden, cell)


def lstm_cell(inputs: Tensor, hidden: Tensor, cell: Tensor, recurrent: Tensor) -> tuple[Tensor, Tensor]:
    """One step of torch's LSTM: ``inputs`` W x + b of all gates, then the state before."""
    gates = inputs + functional.linear(hidden, recurrent)
    i, f, g, o = gates.chunk(4, -1)
    cell = f.sigmoid() * cell + i.sigmoid() * g.tanh()
    return o.sigmoid() * cell.tanh(), cell


class CRFDecoder(nn.Module):
    """p(y|x) ~ exp(sum_t (W h_t + b)_{y_t} + sum_{t>1} A_{y_{t-1}, y_t}), A by [from, to], no start or
    stop."""

    def __init__(self, width: int, num_tags: int, dropout: float) -> None:
        super().__init__()
        self.dropout = nn.Dropout(dropout)
        self.output = nn.Linear(width, num_tags)
        self.transitions = nn.Parameter(torch.zeros(num_tags, num_tags))

    def emissions(self, h: Tensor) -> Tensor:
        """W h_t + b, (B, T, K), in float32: sums of exponentials lose a half precision's digits."""
        return self.output(self.dropout(h)).float()

    def negative_log_likelihood(self, h: Tensor, mask: Tensor, tags: Tensor) -> Tensor:
        """log Z - score(y) of each sentence, (B,)."""
        emissions = self.emissions(h)
        return self._forward(emissions, mask)[:, -1].logsumexp(-1) - self.score(emissions, mask, tags)

    def score(self, emissions: Tensor, mask: Tensor, tags: Tensor) -> Tensor:
        """The exponent of given tags, (B,)."""
        steps = self.transitions[tags[:, :-1], tags[:, 1:]] * mask[:, 1:]
        return (_at(emissions, tags) * mask).sum(1) + steps.sum(1)

    def _forward(self, emissions: Tensor, mask: Tensor) -> Tensor:
        """log sum over the tags before, (B, T, K); padded words repeat the last real one."""
        alphas = [emissions[:, 0]]
        for t in range(1, emissions.shape[1]):
            step = (alphas[-1][:, :, None] + self.transitions).logsumexp(1) + emissions[:, t]
            alphas.append(torch.where(mask[:, t, None], step, alphas[-1]))
        return torch.stack(alphas, 1)

    def _backward(self, emissions: Tensor, mask: Tensor) -> Tensor:
        betas = [torch.zeros_like(emissions[:, 0])]
        for t in range(emissions.shape[1] - 1, 0, -1):
            step = (self.transitions + (emissions[:, t] + betas[-1])[:, None]).logsumexp(2)
            betas.append(torch.where(mask[:, t, None], step, betas[-1]))
        return torch.stack(betas[::-1], 1)

    def decode(self, h: Tensor, mask: Tensor) -> Decoded:
        """Viterbi's path with its normalised log-probability, and the marginals of each word."""
        emissions = self.emissions(h)
        alphas = self._forward(emissions, mask)
        log_z = alphas[:, -1].logsumexp(-1)
        marginals = (alphas + self._backward(emissions, mask)).softmax(-1)
        tags = self.viterbi(emissions, mask)
        log_p = self.score(emissions.double(), mask, tags) - log_z.double()
        return Decoded(tags, log_p, marginals)

    def viterbi(self, emissions: Tensor, mask: Tensor) -> Tensor:
        """The best tags, (B, T)."""
        best, origins = emissions[:, 0], []
        identity = torch.arange(emissions.shape[2], device=emissions.device).expand(len(emissions), -1)
        for t in range(1, emissions.shape[1]):
            value, origin = (best[:, :, None] + self.transitions).max(1)
            real = mask[:, t, None]
            best = torch.where(real, value + emissions[:, t], best)
            origins.append(torch.where(real, origin, identity))
        tags = [best.argmax(-1)]
        for origin in reversed(origins):
            tags.append(origin.gather(1, tags[-1][:, None])[:, 0])
        return torch.stack(tags[::-1], 1)


def _at(values: Tensor, tags: Tensor) -> Tensor:
    """values (B, T, K) at the tags (B, T)."""
    return values.gather(-1, tags[..., None])[..., 0]
