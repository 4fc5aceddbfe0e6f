"""The models of the benchmark ``gpu``: a convolutional net of the size of ResNet-50 and a surrogate of dense layers.

A servable's file: it is copied into its directory, so it imports nothing of ours. Weights are random.

Source: K. He et al., Deep Residual Learning for Image Recognition, 2016, table 1, for the sizes of the 50-layer net.
"""

from __future__ import annotations

import itertools
from typing import Any

import torch
from torch import nn


class Bottleneck(nn.Module):
    """1×1, 3×3 and 1×1 convolutions beside a way around them."""

    def __init__(self, wide: int, narrow: int, stride: int) -> None:
        super().__init__()
        out = 4 * narrow
        self.around: nn.Module = nn.Identity()
        if stride != 1 or wide != out:
            self.around = nn.Sequential(nn.Conv2d(wide, out, 1, stride, bias=False), nn.BatchNorm2d(out))
        self.through = nn.Sequential(
            nn.Conv2d(wide, narrow, 1, bias=False),
            nn.BatchNorm2d(narrow),
            nn.ReLU(inplace=True),
            nn.Conv2d(narrow, narrow, 3, stride, 1, bias=False),
            nn.BatchNorm2d(narrow),
            nn.ReLU(inplace=True),
            nn.Conv2d(narrow, out, 1, bias=False),
            nn.BatchNorm2d(out),
        )

    def forward(self, x: Any) -> Any:
        """Both, added."""
        return torch.relu(self.through(x) + self.around(x))


class ConvNet(nn.Module):
    """Images of bytes to scores of classes."""

    def __init__(self, blocks: tuple[int, ...], narrow: int, classes: int) -> None:
        super().__init__()
        self.first = nn.Sequential(
            nn.Conv2d(3, narrow, 7, 2, 3, bias=False),
            nn.BatchNorm2d(narrow),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(3, 2, 1),
        )
        layers: list[nn.Module] = []
        wide = narrow
        for stage, count in enumerate(blocks):
            for block in range(count):
                layers.append(Bottleneck(wide, narrow << stage, 2 if stage and not block else 1))
                wide = 4 * (narrow << stage)
        self.layers = nn.Sequential(*layers)
        self.last = nn.Linear(wide, classes)

    def forward(self, x: Any) -> Any:
        """Args: x: uint8[batch, 3, H, W]. Returns: float32[batch, classes]."""
        pixels = x.to(self.last.weight.dtype) / 255 - 0.5
        return self.last(self.layers(self.first(pixels)).mean(dim=(2, 3)))


def dense(inputs: int, width: int, depth: int, outputs: int) -> nn.Module:
    """Layers of one width with ReLU between."""
    widths = [inputs, *[width] * depth]
    hidden = [layer for a, b in itertools.pairwise(widths) for layer in (nn.Linear(a, b), nn.ReLU())]
    return nn.Sequential(*hidden, nn.Linear(width, outputs))


def convnet() -> nn.Module:
    """The size of ResNet-50: 25.6 million weights, 4.1 GMAC for an image of 224 × 224."""
    return ConvNet((3, 4, 6, 3), 64, 1000)


def surrogate() -> nn.Module:
    """101 million weights."""
    return dense(256, 4096, 7, 64)


def small_convnet() -> nn.Module:
    """For a look whether all this runs."""
    return ConvNet((1, 1), 8, 10)


def small_surrogate() -> nn.Module:
    """The same."""
    return dense(16, 64, 2, 4)
