"""Cosine transforms of mirrored fields, in torch: on any device, under automatic differentiation."""

from __future__ import annotations

import math
from functools import lru_cache

import torch
from scipy import fft
from torch import Tensor


@lru_cache(maxsize=32)
def _twist(size: int, device: str, dtype: torch.dtype) -> Tensor:
    """Return what turns the Fourier transform of the reordered line into its orthonormal cosine transform."""
    k = torch.arange(size, dtype=torch.float64)
    scale = torch.full((size,), math.sqrt(2 / size), dtype=torch.float64)
    scale[0] = math.sqrt(1 / size)
    return (torch.exp(-0.5j * math.pi * k / size) * scale).to(
        device=device, dtype=torch.complex64 if dtype == torch.float32 else torch.complex128
    )


def _forward(x: Tensor) -> Tensor:
    reordered = torch.cat([x[..., ::2], x[..., 1::2].flip(-1)], dim=-1)
    twisted: Tensor = torch.fft.fft(reordered) * _twist(x.shape[-1], str(x.device), x.dtype)
    return twisted.real


def _backward(x: Tensor) -> Tensor:
    # With C = X / scale, C[k] − i C[N − k], untwisted, is the Fourier transform of the reordered line.
    twist = _twist(x.shape[-1], str(x.device), x.dtype)
    scale = twist.abs()
    plain = x / scale
    turned = torch.nn.functional.pad(plain[..., 1:].flip(-1), (1, 0))
    line = torch.fft.ifft(torch.complex(plain, -turned) * twist.conj() / scale).real
    half = (x.shape[-1] + 1) // 2
    out = torch.empty_like(x)
    out[..., ::2] = line[..., :half]
    out[..., 1::2] = line[..., half:].flip(-1)
    return out


def _plain(field: Tensor) -> bool:
    """Return whether a field needs neither torch's device nor its derivatives: SciPy is four times as fast then."""
    return field.device.type == "cpu" and not field.requires_grad


def cosine_transform(field: Tensor) -> Tensor:
    """Return the orthonormal cosine transform (DCT-II) along the last two axes."""
    if _plain(field):
        return torch.from_numpy(fft.dctn(field.numpy(), axes=(-2, -1), norm="ortho"))
    return _forward(_forward(field).mT).mT


def inverse_cosine_transform(modes: Tensor) -> Tensor:
    """Return the field of orthonormal cosine modes."""
    if _plain(modes):
        return torch.from_numpy(fft.idctn(modes.numpy(), axes=(-2, -1), norm="ortho"))
    return _backward(_backward(modes.mT).mT)
