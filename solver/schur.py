"""One block's share of the interior-point step's system: sum_i A_i (diag D_i - D_i D_i' / d_i) A_i'."""

from __future__ import annotations

from typing import Any

import numpy as np

from .band import Band, Block
from .rows import Floats

__all__ = ["schur"]


def schur(band: Band, block: Block, dd: Floats, d: Floats) -> tuple[Floats, list[Any], list[Any]]:
    """Features x features, (rows, rows x features) per grouped family, and grouped x grouped triples."""
    from scipy.sparse import csr_matrix

    m2, size = band.rows.m + 2, block.size
    width = band.count * m2
    weighted = [dd * u for u in block.features]
    spread = np.zeros(size * width)
    base = np.arange(size) * width + block.columns
    for f, du in enumerate(weighted):
        spread[(base + f * m2).ravel()] = du.ravel()
    q = spread.reshape(size, width)
    scaled = q / np.sqrt(d)[:, None]
    feature = -(scaled.T @ scaled)
    flat = block.columns.ravel()
    at = np.arange(m2)
    for f in range(band.count):
        for g in range(f, band.count):
            diagonal = np.bincount(flat, (weighted[f] * block.features[g]).ravel(), minlength=m2)
            feature[f * m2 + at, g * m2 + at] += diagonal
            if g != f:
                feature[g * m2 + at, f * m2 + at] += diagonal
    cross: list[Any] = []
    pairs: list[Any] = []
    sums = [(dd * u).sum(axis=0) for u, _ in block.grouped]
    for a, (u, row) in enumerate(block.grouped):
        on = np.flatnonzero(row < band.k)
        if not len(on):
            continue
        members, place = np.unique(row[on], return_inverse=True)
        spread = np.zeros(size * width)
        for f, du in enumerate(weighted):
            spread[(base + f * m2).ravel()] = (du * u).ravel()
        both = spread.reshape(size, width) - q * (sums[a] / d)[:, None]
        pick = csr_matrix((np.ones(len(on)), (place, on)), shape=(len(members), size))
        cross.append((members, pick @ both))
        for c in range(a + 1):
            other, other_row = block.grouped[c]
            ok = on[other_row[on] < band.k]
            value = (dd * u * other).sum(axis=0) - sums[a] * sums[c] / d
            pairs.append(((row[ok], other_row[ok]), value[ok]))
            if c != a:
                pairs.append(((other_row[ok], row[ok]), value[ok]))
    return feature, cross, pairs
