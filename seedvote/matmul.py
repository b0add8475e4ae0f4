"""Which library multiplies float32 matrices on a CPU.

torch has two: MKL, which it takes unless told otherwise, and oneDNN, which it takes for convolutions. On processors
that are not Intel's, MKL leaves half of their vectors unused: on a core of an EPYC (Zen 5) its products reach 100
GFLOP/s, oneDNN's 200. torch hands float32 products to oneDNN once it may round to bfloat16 inside of them; without
matrix units for that, as AMD's processors are, oneDNN keeps to float32. Whether it does is looked at, for a member must
not lose precision.
"""

from __future__ import annotations

from typing import Any

import torch

from seedvote.provenance import processor

ONEDNN: Any = torch.backends.mkldnn  # a module with settings, of which its annotations do not tell
# Rows, inner and columns of products that are looked at: of layers forwards and backwards, odd sizes among them.
LOOKED_AT = ((64, 512, 256), (64, 256, 512), (256, 64, 512), (33, 100, 47), (128, 784, 10))
MORE = 4  # times the error of torch's own choice that sums in another order may have
TORCHS_OWN = str(ONEDNN.matmul.fp32_precision)
BY_ONEDNN = "bf16"


def choose_matmul(choice: str) -> str | None:
    """Let oneDNN multiply float32 matrices in this process where it pays: ``oneDNN``, or ``None`` where it does not.

    choice: ``auto``; ``torch`` for what torch itself would do. What oneDNN multiplies rounds otherwise, as with another
    number of threads.
    """
    set_precision(TORCHS_OWN)
    if choice == "torch" or not _is_held_back():
        return None
    errors = _errors()
    set_precision(BY_ONEDNN)
    if all(error <= MORE * own for error, own in zip(_errors(), errors, strict=True)):
        return "oneDNN"
    set_precision(TORCHS_OWN)
    return None


def precision() -> str:
    """Return what torch lets oneDNN do to float32 products, which decides who multiplies: for other processes."""
    return str(ONEDNN.matmul.fp32_precision)


def set_precision(name: str) -> None:
    """Set what ``precision`` returns."""
    ONEDNN.matmul.fp32_precision = name


def _is_held_back() -> bool:
    """Say whether torch multiplies with MKL on a processor that it does not know."""
    return torch.backends.mkl.is_available() and ONEDNN.is_available() and "AMD" in processor()


def _errors() -> list[float]:
    """Return the largest error of each product, alone and in a batch, against float64."""
    generator = torch.Generator().manual_seed(0)
    found = []
    for rows, between, columns in LOOKED_AT:
        first = torch.randn(3, rows, between, generator=generator)
        second = torch.randn(3, between, columns, generator=generator)
        exact = first.double() @ second.double()
        found += [float((first[0] @ second[0] - exact[0]).abs().max()), float((first @ second - exact).abs().max())]
    return found
