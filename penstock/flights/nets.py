"""The two delay models as torch modules that take raw features: all preparation of the input is inside the graph."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

CLIP = 5.0
_DAY_HOURS = 24.0


class Preparation(nn.Module):
    """Raw numbers [rows, k] to network inputs [rows, 2k + 2]: z-scores, missing flags, time of day on a circle.

    A column with a weight w above 0 is first drawn in to sign(x)·log(1 + w·|x|): delays and rain have long tails. A NaN
    takes the training mean, and its flag says so. Z-scores are clipped, so that a value never seen cannot carry a score
    away.
    """

    mean: Tensor
    scale: Tensor
    tails: Tensor

    def __init__(self, numeric: Tensor, hour: int, tails: Sequence[float]) -> None:
        """`numeric`: the training rows [rows, k], whose means and deviations it keeps; none leaves them open.

        `hour`: the column that holds hours since midnight. `tails`: [k], the weights.
        """
        super().__init__()
        columns = numeric.shape[1]
        self.register_buffer("mean", torch.zeros(columns))
        self.register_buffer("scale", torch.ones(columns))
        self.register_buffer("tails", torch.tensor(tails))
        self.hour = hour
        self.width = 2 * columns + 2
        if len(numeric):
            drawn = self._drawn_in(numeric).double()
            self.mean.copy_(drawn.nanmean(0))
            self.scale.copy_((drawn - drawn.nanmean(0)).square().nanmean(0).sqrt().clamp(min=1e-6))

    def _drawn_in(self, numeric: Tensor) -> Tensor:
        logs = torch.sign(numeric) * torch.log1p(self.tails * torch.abs(numeric))
        return torch.where(self.tails > 0, logs, numeric)

    def forward(self, numeric: Tensor) -> Tensor:
        missing = torch.isnan(numeric)
        filled = torch.where(missing, self.mean, self._drawn_in(numeric))
        scores = torch.clamp((filled - self.mean) / self.scale, -CLIP, CLIP)
        angle = filled[:, self.hour : self.hour + 1] * (2 * torch.pi / _DAY_HOURS)
        return torch.cat([scores, missing.to(numeric.dtype), torch.sin(angle), torch.cos(angle)], dim=1)


class Regression(nn.Module):
    """Version 1: logistic regression; a category's weight is an embedding of width one."""

    def __init__(self, preparation: Preparation, categories: Sequence[int]) -> None:
        """`categories`: how many values each category has, its unseen index included."""
        super().__init__()
        self.preparation = preparation
        self.linear = nn.Linear(preparation.width, 1)
        self.weights = nn.ModuleList(nn.Embedding(size, 1) for size in categories)
        for parameter in self.parameters():
            nn.init.zeros_(parameter)

    def logits(self, numeric: Tensor, *categories: Tensor) -> Tensor:
        """Log odds [rows]."""
        total: Tensor = self.linear(self.preparation(numeric))
        for weight, index in zip(self.weights, categories, strict=True):
            total = total + weight(index)
        return total.squeeze(1)

    def forward(self, numeric: Tensor, *categories: Tensor) -> Tensor:
        return torch.sigmoid(self.logits(numeric, *categories))


class Perceptron(nn.Module):
    """Version 2: two hidden layers over the prepared numbers and an embedding for each category."""

    def __init__(
        self,
        preparation: Preparation,
        categories: Sequence[int],
        widths: Sequence[int],
        hidden: tuple[int, int] = (32, 16),
        dropout: float = 0.2,
    ) -> None:
        """`categories` as in `Regression`; `widths`: each one's embedding width."""
        super().__init__()
        self.preparation = preparation
        embeddings = [nn.Embedding(size, width) for size, width in zip(categories, widths, strict=True)]
        for embedding in embeddings:
            nn.init.normal_(embedding.weight, std=0.1)
        self.embeddings = nn.ModuleList(embeddings)
        self.layers = nn.Sequential(
            nn.Linear(preparation.width + sum(widths), hidden[0]),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(hidden[0], hidden[1]),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(hidden[1], 1),
        )

    def logits(self, numeric: Tensor, *categories: Tensor) -> Tensor:
        """Log odds [rows]."""
        embedded = [embedding(index) for embedding, index in zip(self.embeddings, categories, strict=True)]
        total: Tensor = self.layers(torch.cat([self.preparation(numeric), *embedded], dim=1))
        return total.squeeze(1)

    def forward(self, numeric: Tensor, *categories: Tensor) -> Tensor:
        return torch.sigmoid(self.logits(numeric, *categories))
