"""An MLP, a ResNet-50 in shape and a BERT-like encoder with random weights, as torch modules of any size."""

from __future__ import annotations

from typing import Any


def perceptron(features: int = 512, width: int = 2048) -> Any:
    """Two hidden layers and one score."""
    from torch import nn

    return nn.Sequential(
        *(nn.Linear(features, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 1), nn.Sigmoid())
    )


def resnet(width: int = 16, classes: int = 100) -> Any:
    """ResNet-50 (He et al., 2015): bottlenecks of 3, 4, 6 and 3. It is 64 wide and has 1,000 classes."""
    from torch import nn

    class Bottleneck(nn.Module):
        def __init__(self, given: int, inner: int, stride: int) -> None:
            super().__init__()
            out = 4 * inner
            self.body = nn.Sequential(
                *(nn.Conv2d(given, inner, 1, bias=False), nn.BatchNorm2d(inner), nn.ReLU()),
                *(nn.Conv2d(inner, inner, 3, stride, 1, bias=False), nn.BatchNorm2d(inner), nn.ReLU()),
                *(nn.Conv2d(inner, out, 1, bias=False), nn.BatchNorm2d(out)),
            )
            self.side: Any = nn.Identity()
            if given != out or stride != 1:
                self.side = nn.Sequential(nn.Conv2d(given, out, 1, stride, bias=False), nn.BatchNorm2d(out))
            self.last = nn.ReLU()

        def forward(self, x: Any) -> Any:
            return self.last(self.body(x) + self.side(x))

    layers: list[Any] = [nn.Conv2d(3, width, 7, 2, 3, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
    layers.append(nn.MaxPool2d(3, 2, 1))
    given = width
    for stage, depth in enumerate((3, 4, 6, 3)):
        for number in range(depth):
            inner = width * 2**stage
            layers.append(Bottleneck(given, inner, 2 if stage and not number else 1))
            given = 4 * inner
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(given, classes))


def encoder(layers: int = 4, hidden: int = 256, heads: int = 4, length: int = 128, words: int = 1000) -> Any:
    """BERT (Devlin et al., 2018): attention, a feed-forward network four times as wide, norms behind each.

    Its base has 12 layers, 768 hidden, 12 heads and 30,522 words.
    """
    import torch
    from torch import nn

    class Layer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.three = nn.ModuleList(nn.Linear(hidden, hidden) for _ in range(3))
            self.out, self.first, self.second = nn.Linear(hidden, hidden), nn.LayerNorm(hidden), nn.LayerNorm(hidden)
            self.wide = nn.Sequential(nn.Linear(hidden, 4 * hidden), nn.GELU(), nn.Linear(4 * hidden, hidden))

        def forward(self, x: Any) -> Any:
            batch, size = x.shape[0], hidden // heads
            q, k, v = (one(x).view(batch, length, heads, size).transpose(1, 2) for one in self.three)
            weights = torch.softmax(q @ k.transpose(-1, -2) / size**0.5, -1)
            x = self.first(x + self.out((weights @ v).transpose(1, 2).reshape(batch, length, hidden)))
            return self.second(x + self.wide(x))

    class Encoder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.words, self.places = nn.Embedding(words, hidden), nn.Parameter(torch.randn(length, hidden))
            self.layers, self.head = nn.ModuleList(Layer() for _ in range(layers)), nn.Linear(hidden, 2)

        def forward(self, x: Any) -> Any:
            y = self.words(x) + self.places
            for layer in self.layers:
                y = layer(y)
            return self.head(y[:, 0])

    return Encoder()
