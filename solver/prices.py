"""Dual prices and the bounds they prove, in float64.

For any lambda >= 0 let rm_i = min_{j possible} c_ij + sum_k lambda_k a_kij. By weak duality a plan that serves
weight s costs at least ``nu s + sum_i min(0, rm_i - nu w_i) - lambda b`` for every nu >= 0; the best nu is the
weighted quantile of rm_i / w_i at s, so it needs no solver. See ``Plan`` for the other bounds.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from .rows import NEVER, Floats, Rows

__all__ = ["best_unserved", "cheapest", "cost_bound", "served_bound", "surplus_bound"]


def cheapest(rows: Rows, lam: Floats, costs: bool = True) -> Floats:
    """float64[n]: rm_i, the least reduced cost over the possible columns; inf where there is none.

    lam: float64[K] over active rows, >= 0. Without ``costs``, the least price of use alone.
    """

    def work(lo: int, hi: int) -> Any:
        return rows.reduced(lam, lo, hi, np.float64, costs).min(axis=1, initial=float(NEVER))

    if rows.spread is not None:
        return np.where(rows.option, np.concatenate(rows.spread.cheapest(lam, costs)), np.inf)
    least = np.concatenate([np.zeros(0), *rows.passes.over(rows.n, rows.m, work)])
    return np.where(rows.option, least, np.inf)


def best_unserved(rows: Rows, least: Floats, served: float) -> float:
    """nu: the price of leaving weight unserved that makes the bound largest; inf if nothing may be left out."""
    option = np.flatnonzero(rows.option)
    weight = rows.weight[option]
    if served >= weight.sum() * (1 - 1e-12):
        return float("inf")
    ratio = least[option] / weight
    if (
        weight.min() == weight.max()
    ):  # sorting a million for one of them takes longer than a pass over the pairs
        at = min(max(int(np.ceil(served * (1 - 1e-12) / weight[0])) - 1, 0), len(option) - 1)
        return max(0.0, float(np.partition(ratio, at)[at]))
    order = np.argsort(ratio, kind="stable")
    at = int(np.searchsorted(np.cumsum(weight[order]), served * (1 - 1e-12)))
    return max(0.0, float(ratio[order[min(at, len(order) - 1)]]))


def cost_bound(rows: Rows, paid: float, least: Floats, nu: float, served: float) -> float:
    """No plan that serves at least ``served`` costs less, in nano-dollars. least: rm; paid: lam.b."""
    option = rows.option
    if np.isinf(nu):
        return float(least[option].sum()) - paid
    return nu * served + float(np.minimum(0.0, least[option] - nu * rows.weight[option]).sum()) - paid


def served_bound(rows: Rows, paid: float, use: Floats) -> float:
    """No plan serves more weight. use: least prices of use alone; paid: those prices times the caps."""
    option = rows.option
    most = float(rows.weight[option].sum())
    bound = float(np.maximum(0.0, rows.weight[option] - use[option]).sum()) + paid
    if np.all(rows.weight == np.floor(rows.weight)):
        bound = float(np.floor(bound + 1e-6))
    return min(bound, most)


def surplus_bound(rows: Rows, paid: float, least: Floats, value: npt.NDArray[np.int64]) -> float:
    """No plan has a larger surplus, in nano-dollars."""
    option = rows.option
    return float(np.maximum(0.0, value[option] - least[option]).sum()) + paid
