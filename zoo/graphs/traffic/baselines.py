"""Forecasts without a graph: historical average, last value, FC-LSTM."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class HistoricalAverage(nn.Module):
    """Mean of the training rows at the same time of the period; one forecast for all horizons.

    Args:
        num_nodes: N.
        period: steps after which the mean repeats; 2,016 is a week of five minutes, 288 a day.
    """

    table: Tensor

    def __init__(self, num_nodes: int, period: int = 2016) -> None:
        super().__init__()
        self.period = period
        self.register_buffer("table", torch.zeros(period, num_nodes))

    def set_history(self, values: Tensor, clock: Tensor, known: Tensor) -> None:
        """Average training rows (T, N) at times (T,) where ``known`` (T, N); times never seen take the
        sensor's mean."""
        slot = clock % self.period
        sums, counts = (
            torch.zeros(self.period, values.shape[1], dtype=torch.float64).index_add_(0, slot, x.double())
            for x in (values * known, known)
        )
        overall = sums.sum(dim=0) / counts.sum(dim=0).clamp(min=1)
        mean = torch.where(counts > 0, sums / counts.clamp(min=1), overall)
        self.table.copy_(mean)

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        """``time`` (B, outputs) -> (B, outputs, N)."""
        return self.table[time % self.period]


class LastValue(nn.Module):
    """The last measurement of each sensor that is not missing, for all horizons."""

    null: Tensor
    has_null: Tensor

    def __init__(self, outputs: int) -> None:
        super().__init__()
        self.outputs = outputs
        self.register_buffer("null", torch.tensor(0.0))
        self.register_buffer("has_null", torch.tensor(False))

    def set_null(self, value: Tensor) -> None:
        """What a missing measurement is written as, normalised."""
        self.null.copy_(value)
        self.has_null.fill_(True)

    def forward(self, x: Tensor) -> Tensor:
        """(B, lags, N, C) -> (B, outputs, N)."""
        values = x[..., 0]
        known = ((values - self.null).abs() > 1e-6) | ~self.has_null
        steps = torch.arange(1, values.shape[1] + 1, device=x.device)[:, None]
        last = (known * steps).amax(dim=1).clamp(min=1) - 1  # (B, N)
        return values.gather(1, last[:, None]).expand(-1, self.outputs, -1)


class FCLSTM(nn.Module):
    """Encoder and decoder of two LSTM layers over the vector of all sensors; the decoder reads its forecast.

    Args:
        num_nodes: N.
        outputs: steps of the forecast.
        channels: of the input; the time of day is read once, not per sensor.
        hidden: units of a layer.
        layers: of encoder and of decoder.
    """

    def __init__(
        self, num_nodes: int, outputs: int = 12, channels: int = 2, hidden: int = 256, layers: int = 2
    ) -> None:
        super().__init__()
        self.outputs = outputs
        self.encoder = nn.LSTM(num_nodes + channels - 1, hidden, layers, batch_first=True)
        self.decoder = nn.LSTM(num_nodes, hidden, layers, batch_first=True)
        self.projection = nn.Linear(hidden, num_nodes)

    def forward(self, x: Tensor) -> Tensor:
        """(B, lags, N, C) -> (B, outputs, N)."""
        past = torch.cat([x[..., 0], x[:, :, 0, 1:]], dim=-1)
        _, state = self.encoder(past)
        signal, forecast = torch.zeros_like(x[:, :1, :, 0]), []
        for _ in range(self.outputs):
            hidden, state = self.decoder(signal, state)
            signal = self.projection(hidden)
            forecast.append(signal)
        return torch.cat(forecast, dim=1)
