"""Samples that take too much memory, mapped from a file: what is asked for is read, and leaves memory for others."""

from __future__ import annotations

import math
import tempfile

import numpy as np
import torch
from torch import Tensor

from seedvote.data.archive import physical_memory
from seedvote.data.checks import CHUNK_ELEMENTS

SHARE = 4  # splits that take more than this part of the memory are mapped


def too_large(inputs: Tensor, count: int) -> bool:
    """Say whether so many of the samples are to be mapped from a file."""
    return count * inputs[:1].nbytes > physical_memory() // SHARE


def mapped(inputs: Tensor, index: Tensor, directory: str) -> Tensor:
    """Write the samples at ``index`` to a file without a name and map them from there.

    The file is gone when nobody has the tensor any more, however the process ends.

    Raises:
        ValueError: there is no room in the directory, or it cannot be written to.
    """
    shape = (len(index), *inputs.shape[1:])
    step = max(1, CHUNK_ELEMENTS // math.prod(shape[1:]))
    try:
        # Written, not copied into the map: a full disk is an error here and would be the end of the process there.
        with tempfile.TemporaryFile(dir=directory) as stream:
            for part in index.split(step):
                stream.write(inputs.index_select(0, part).numpy().data)
            stream.flush()
            # Copy on write, because PyTorch wants memory that it may write to; nothing reaches the file.
            samples = np.memmap(stream, inputs[:0].numpy().dtype, mode="c", shape=shape)
    except OSError as error:
        room = math.ceil(len(index) * inputs[:1].nbytes / 2**20)
        raise ValueError(
            f"the samples take too much of the memory and cannot be kept in {directory!r} "
            f"({error.strerror or error}): set data.cache to a directory with {room} MiB of room."
        ) from error
    return torch.from_numpy(samples)
