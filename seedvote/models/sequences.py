"""Recurrent networks, which read their input step by step."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from seedvote.errors import unknown
from seedvote.models.pieces import MOST_LAYERS, check_dropout, check_size

CELLS: dict[str, Callable[..., nn.Module]] = {"gru": nn.GRU, "lstm": nn.LSTM}


class Rows(nn.Module):
    """Turns images into sequences: the rows are the steps, from top to bottom."""

    def forward(self, images: Tensor) -> Tensor:
        """Map ``[B, channels, H, W]`` to ``[B, H, channels * W]``."""
        return images.transpose(1, 2).flatten(2)


class RecurrentLayer(nn.Module):
    """One recurrent layer, with dropout on its outputs; torch's own, without the states that it also returns."""

    def __init__(self, cell: str, features: int, hidden: int, bidirectional: bool, dropout: float) -> None:
        """Build a layer with ``hidden`` units in each direction."""
        super().__init__()
        self.cell = CELLS[cell](features, hidden, batch_first=True, bidirectional=bidirectional)
        # Not the option of torch's layer: on CUDA that draws from a state of its own, which no seed sets back.
        self.dropout = nn.Dropout(dropout)

    def forward(self, sequences: Tensor) -> Tensor:
        """Map ``[B, T, features]`` to ``[B, T, directions * hidden]``."""
        outputs: Tensor = self.dropout(self.cell(sequences)[0])
        return outputs


class LastStep(nn.Module):
    """Takes what each direction says once it has read everything."""

    def __init__(self, hidden: int, bidirectional: bool) -> None:
        """Take ``hidden`` units of each direction."""
        super().__init__()
        self.hidden = hidden
        self.bidirectional = bidirectional

    def forward(self, outputs: Tensor) -> Tensor:
        """Map ``[B, T, directions * hidden]`` to ``[B, directions * hidden]``."""
        if not self.bidirectional:
            return outputs[:, -1]
        return torch.cat([outputs[:, -1, : self.hidden], outputs[:, 0, self.hidden :]], dim=1)


def recurrent(
    input_shape: Sequence[int],
    n_classes: int,
    cell: str = "gru",
    hidden: int = 128,
    layers: int = 1,
    bidirectional: bool = False,
    dropout: float = 0.0,
) -> nn.Module:
    """Build a recurrent classifier: its last state, after the whole sequence, goes through a linear layer.

    input_shape: ``(T, features)``, a sequence of T vectors; or ``(channels, H, W)``, an image that is read row by row,
    H steps of channels * W numbers each. cell: ``gru`` (Cho et al., 2014) or ``lstm`` (Hochreiter & Schmidhuber, 1997).
    hidden: units of a layer in each direction. dropout: on the outputs of every layer.

    Raises:
        ValueError: an option makes no sense, or the input is neither a sequence nor an image.
    """
    if cell not in CELLS:
        raise ValueError(unknown("model.cell", cell, CELLS))
    check_size("hidden", hidden)
    check_size("layers", layers)
    if layers > MOST_LAYERS:
        raise ValueError(f"model.layers must be at most {MOST_LAYERS}, got {layers}")
    check_dropout(dropout)
    if len(input_shape) not in (2, 3):
        raise ValueError(
            "model recurrent wants sequences [steps, features], or images [channels, height, width] to read row by "
            f"row, got inputs of shape {list(input_shape)}: use model=mlp for vectors"
        )
    network = nn.Sequential()
    features = input_shape[-1]
    if len(input_shape) == 3:
        network.append(Rows())
        features *= input_shape[0]
    for _ in range(layers):
        network.append(RecurrentLayer(cell, features, hidden, bidirectional, dropout))
        features = hidden * (2 if bidirectional else 1)
    network.append(LastStep(hidden, bidirectional))
    return network.append(nn.Linear(features, n_classes))
