"""Where the numbers are crunched."""

from __future__ import annotations

import torch


def resolve_device(name: str) -> torch.device:
    """Return the device of a name: ``auto`` is CUDA when present, else MPS when present, else the CPU.

    Raises:
        ValueError: the device is not on this machine.
    """
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda", torch.cuda.current_device())
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    kind, _, index = name.partition(":")
    number = int(index or 0)
    count = {
        "cpu": 1,
        "cuda": torch.cuda.device_count(),
        "mps": int(torch.backends.mps.is_available()),
    }[kind]
    if number >= count:
        have = f"this machine has {count} of them" if count else "this machine has none that torch can use"
        raise ValueError(f"device={name} is not there: {have}; use device=auto or device=cpu")
    return torch.device(kind, number) if kind == "cuda" else torch.device(kind)


def device_name(device: torch.device) -> str:
    """Return the device as a person would name it, such as ``cpu`` or ``cuda (NVIDIA H100)``."""
    if device.type == "cuda":
        return f"cuda ({torch.cuda.get_device_name(device)})"
    return device.type
