"""Points near the central path of a band to start from: prices in balance, then options centred exactly.

From the corner of the box of prices an interior-point run needs fifty steps, most of them to become feasible. After a
few rounds of raising the price of what is asked for too much it needs ten or fifteen.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from .band import Band, Block
from .rows import Floats

__all__ = ["BLUR", "TURNS", "State", "balanced", "centre"]

TURNS = 15
BLUR, SHARP = (
    0.3,
    0.1,
)  # temperature of choices while prices are balanced, of r: from nothing, from given prices
EAGER = 0.5  # a row used r times its cap has its price multiplied by r ** EAGER
FURTHEST = 20.0  # r is clipped to 1 / FURTHEST .. FURTHEST
LEAST_OMEGA = 1e-3
NOTHING: Floats = np.zeros(0)


@dataclass(slots=True, eq=False)
class State:
    """Iterates of one block, all (w, b) but y, omega, ratio (b).

    omega: the size of r times the weight of the request. target: rc, the right-hand side of the complementarity
    rows. ratio: by how many times its room a request moves in a step of length one.
    """

    block: Block
    cost: Floats
    omega: Floats
    x: Floats
    z: Floats
    y: Floats
    target: Floats = field(default_factory=lambda: NOTHING)
    d: Floats = field(default_factory=lambda: NOTHING)
    dd: Floats = field(default_factory=lambda: NOTHING)
    dx: Floats = field(default_factory=lambda: NOTHING)
    dz: Floats = field(default_factory=lambda: NOTHING)
    dy: Floats = field(default_factory=lambda: NOTHING)
    ratio: Floats = field(default_factory=lambda: NOTHING)

    @classmethod
    def at(cls, block: Block, cost: Floats, priced: Floats, mu: float) -> State:
        """The exact centre of every request of a block at the given prices."""
        r = priced + cost
        omega = np.maximum(r.min(axis=0), LEAST_OMEGA) * block.weight
        y = centre(r, mu * omega, block.weight)
        r -= y
        return cls(block, cost, omega, (mu * omega) / r, r, y)

    def recentre(self, goal: float, step: float) -> None:
        """Puts requests that a step would have taken out of their cone back to their centre at the new prices."""
        out = np.flatnonzero(self.ratio * step > 0.999)
        if not len(out):
            return
        r = self.z[:, out] + self.y[out]
        own = goal * self.omega[out]
        self.y[out] = centre(r, own, self.block.weight[out])
        self.z[:, out] = r - self.y[out]
        self.x[:, out] = own / self.z[:, out]


def centre(r: Floats, goal: Floats, weight: Floats) -> Floats:
    """float64[b]: the y_i < min_o r_oi with sum_o goal_i / (r_oi - y_i) = weight_i, by Newton's method on 1 / sum."""
    least = r.min(axis=0)
    share = goal / weight
    y = least - len(r) * share
    for _ in range(40):
        q = share / (r - y)
        total = q.sum(axis=0)
        if np.abs(total - 1.0).max(initial=0.0) < 1e-9:
            break
        y = np.minimum(y + total * (1.0 - total) * share / (q * q).sum(axis=0), least - share)
    return np.asarray(y)


def balanced(band: Band, costs: list[Floats], lam: Floats, b: Floats, turns: int, blur: float) -> Floats:
    """lam after some rounds of multiplicative updates: what is used more than its cap grows dearer.

    costs: per block, in the unit of lam. lam, b: float64[K], scaled as the rows of the band are. A row with negative
    usage counts it as room. blur: temperature of the choices, of the least reduced cost.
    """
    for _ in range(turns):
        scaled = lam / band.scale
        priced = scaled @ band.lift, np.append(scaled, 0.0)

        def work(item: tuple[Block, Floats], priced: tuple[Floats, Floats] = priced) -> Any:
            block, cost = item
            r = band.priced(block, *priced)
            r += cost
            least = r.min(axis=0)
            np.subtract(least, r, out=r)
            r /= blur * np.maximum(least, LEAST_OMEGA)
            np.exp(r, out=r)
            r *= block.weight / r.sum(axis=0)
            return band.used(block, r)

        asked = band.total(
            band.summed(band.rows.passes.map(work, list(zip(band.blocks, costs, strict=True))))
        )
        asked = asked / band.scale
        over = np.where(b > 0, asked / np.where(b > 0, b, 1.0), np.where(asked > b, FURTHEST, 1.0))
        lam = lam * np.clip(over, 1.0 / FURTHEST, FURTHEST) ** EAGER
    return lam
