"""Networks of linear layers: the two-layer one of the tutorial, and a perceptron that takes images or vectors."""

from __future__ import annotations

import torch
from torch import nn

from tellapart.errors import ConfigError


class SimpleModel(nn.Module):
    """Linear, ReLU, linear: float `(B, input_size)` to `(B, output_size)`.

    Args:
        input_size: length of an input vector.
        hidden_size: width between the two linear layers.
        output_size: numbers put out per vector.
    """

    def __init__(self, input_size: int = 10, hidden_size: int = 20, output_size: int = 1) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(input_size, hidden_size),
            nn.ReLU(),
            nn.Linear(hidden_size, output_size),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return float `(B, output_size)`."""
        return self.layers(x)


class MLP(nn.Module):
    """Three linear layers, with ReLU and dropout after the first two; each layer keeps PyTorch's initial weights.

    Args:
        input_size: numbers per input; for images, channels x height x width.
        hidden_size: width of the first hidden layer, at least 2; the second has `hidden_size // 2`.
        num_classes: number of logits.
        dropout: probability with which a hidden number is set to zero in training.

    Raises:
        ConfigError: `hidden_size` is below 2, which would leave the second layer empty.
    """

    def __init__(self, input_size: int, hidden_size: int, num_classes: int, *, dropout: float = 0.2) -> None:
        super().__init__()
        if hidden_size < 2:
            raise ConfigError([f"MLP's hidden_size must be at least 2, as it is halved; found {hidden_size}."])
        self.layers = nn.Sequential(
            nn.Linear(input_size, hidden_size),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(hidden_size, hidden_size // 2),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(hidden_size // 2, num_classes),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return logits `(B, num_classes)` for vectors `(B, input_size)` or images `(B, C, H, W)`, both float."""
        return self.layers(x.flatten(1))
