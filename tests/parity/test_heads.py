"""The cross-attention and FiLM heads against their equations, written out in loops over plain numbers.

Nothing of torch or of our modules takes part: only the weights are read, by their names.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from coprs_lightning.heatmap_heads import CrossAttentionHead, FiLMHead, HeatmapHead, LinearFuseCrossAttentionHead

Array = NDArray[np.float64]

QUERY, CHANNELS, DIM, HEIGHT, WIDTH, UPSCALE = 5, 6, 12, 4, 3, 4


def weights_of(head: HeatmapHead) -> dict[str, Array]:
    return {name: value.double().numpy() for name, value in head.state_dict().items()}


def silu(x: Array) -> Array:
    return x / (1 + np.exp(-x))


def convolve(x: Array, weight: Array, bias: Array | None = None) -> Array:
    """Zero-padded convolution of (C, h, w) with (O, C, k, k), k odd: out[o, y, x] = b[o] + Σ w[o, c, i, j] · in."""
    outputs, inputs, side, _ = weight.shape
    _, height, width = x.shape
    reach = side // 2
    out = np.zeros((outputs, height, width))
    for o in range(outputs):
        for y in range(height):
            for z in range(width):
                total = 0.0 if bias is None else bias[o]
                for c in range(inputs):
                    for i in range(side):
                        for j in range(side):
                            row, column = y + i - reach, z + j - reach
                            if 0 <= row < height and 0 <= column < width:
                                total += weight[o, c, i, j] * x[c, row, column]
                out[o, y, z] = total
    return out


def enlarge(x: Array, factor: int) -> Array:
    """Bilinear enlargement of (h, w): cell centres lie at (i + 1/2); beyond the outermost ones the map is flat."""
    height, width = x.shape
    out = np.zeros((height * factor, width * factor))
    for i in range(height * factor):
        for j in range(width * factor):
            y = min(max((i + 0.5) / factor - 0.5, 0), height - 1)
            z = min(max((j + 0.5) / factor - 0.5, 0), width - 1)
            top, left = math.floor(y), math.floor(z)
            below, right = min(top + 1, height - 1), min(left + 1, width - 1)
            down, across = y - top, z - left
            upper = (1 - across) * x[top, left] + across * x[top, right]
            lower = (1 - across) * x[below, left] + across * x[below, right]
            out[i, j] = (1 - down) * upper + down * lower
    return out


def cross_attention(w: dict[str, Array], heads: int, query: Array, features: Array) -> Array:
    """H = F_fuse([(q W_i^Q)(K W_i^K)^T / sqrt(d)] for i = 1 … n), enlarged (paper section 3)."""
    width = DIM // heads
    maps = np.zeros((heads, HEIGHT, WIDTH))
    for i in range(heads):
        for y in range(HEIGHT):
            for x in range(WIDTH):
                total = 0.0
                for d in range(i * width, (i + 1) * width):
                    asked = sum(w["q_proj.weight"][d, k] * query[k] for k in range(QUERY))
                    key = sum(w["k_proj.weight"][d, c, 0, 0] * features[c, y, x] for c in range(CHANNELS))
                    total += asked * key
                maps[i, y, x] = total / math.sqrt(width)
    fused = convolve(maps, w["fuser.0.weight"], w["fuser.0.bias"])
    if "fuser.2.weight" in w:
        fused = convolve(silu(fused), w["fuser.2.weight"], w["fuser.2.bias"])
    return enlarge(fused[0], UPSCALE)


def film(w: dict[str, Array], depth: int, groups: int, query: Array, features: Array) -> Array:
    """x ← SiLU((1 + γ) · GroupNorm(Conv3×3(x)) + β) for every block, then Conv1×1, enlarged."""
    modulation = [
        w["film.bias"][row] + sum(w["film.weight"][row, k] * query[k] for k in range(QUERY))
        for row in range(2 * depth * DIM)
    ]
    x = features
    for block in range(depth):
        x = convolve(x, w[f"convs.{block}.weight"])
        members = DIM // groups
        for group in range(groups):
            part = x[group * members : (group + 1) * members]
            mean = part.sum() / part.size
            variance = ((part - mean) ** 2).sum() / part.size
            x[group * members : (group + 1) * members] = (part - mean) / math.sqrt(variance + 1e-5)
        for channel in range(DIM):
            gamma = modulation[2 * block * DIM + channel]
            beta = modulation[(2 * block + 1) * DIM + channel]
            x[channel] = silu((1 + gamma) * x[channel] + beta)
    return enlarge(convolve(x, w["head.weight"], w["head.bias"])[0], UPSCALE)


def inputs() -> tuple[torch.Tensor, torch.Tensor]:
    """Two samples with two queries each, on a grid that is not square."""
    return torch.randn(2, 2, QUERY), torch.randn(2, CHANNELS, HEIGHT, WIDTH)


def check(head: HeatmapHead, expected: Array, query: torch.Tensor, features: torch.Tensor, record) -> None:
    with torch.no_grad():
        result = head(query, features).double().numpy()
    difference = float(np.abs(result - expected).max())
    print(f"{type(head).__name__}: largest difference {difference:.1e} of values up to {np.abs(expected).max():.1f}")
    record("largest difference", difference)
    assert result.shape == expected.shape == (2, 2, HEIGHT * UPSCALE, WIDTH * UPSCALE)
    assert expected.std() > 0.1
    assert difference <= 1e-5


@pytest.mark.parametrize("heads", [1, 4])
@pytest.mark.parametrize("cls", [CrossAttentionHead, LinearFuseCrossAttentionHead])
def test_cross_attention(cls, heads, record_property):
    head = cls(query_dim=QUERY, in_channels=CHANNELS, dim=DIM, num_heads=heads, upscale=UPSCALE)
    with torch.no_grad():
        for parameter in head.parameters():
            parameter.mul_(3)  # far from zero, where all maps would look alike
    query, features = inputs()
    w = weights_of(head)
    rows = [
        [cross_attention(w, heads, q.double().numpy(), f.double().numpy()) for q in row]
        for row, f in zip(query, features, strict=True)
    ]
    check(head, np.array(rows), query, features, record_property)


@pytest.mark.parametrize("depth", [1, 2])
def test_film(depth, record_property):
    head = FiLMHead(query_dim=QUERY, in_channels=CHANNELS, dim=DIM, depth=depth, upscale=UPSCALE)
    query, features = inputs()
    w = weights_of(head)
    groups = math.gcd(32, DIM)
    rows = [
        [film(w, depth, groups, q.double().numpy(), f.double().numpy()) for q in row]
        for row, f in zip(query, features, strict=True)
    ]
    check(head, np.array(rows), query, features, record_property)
