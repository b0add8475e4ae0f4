"""Recognising and recovering from a lack of memory."""

from __future__ import annotations

import gc

import torch


def is_out_of_memory(error: Exception) -> bool:
    """Say whether an error means that the device, or this computer, has no more memory."""
    # On the CPU torch raises a plain RuntimeError.
    return isinstance(error, (MemoryError, torch.OutOfMemoryError)) or "can't allocate memory" in str(error)


def release_memory(device: torch.device) -> None:
    """Give back what dead tensors hold."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
