"""Instances for the solver: a synthetic market, the classic generalised-assignment files, and the baseline.

:func:`market` draws requests with lognormal tokens, offers with log-uniform prices, filters that leave about
83 % of the pairs, and every kind of limit at once. ``load`` 1 is as many requests as the cheaper half of the
offers can take. Everything is synthetic: a figure measured on it is a property of this generator.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import numpy.typing as npt

from solver.problem import Limit, Problem, tolerance

__all__ = ["data_path", "gap_instance", "gap_names", "greedy", "market"]

CHUNK = 50_000  # requests drawn at a time: bounds the memory beyond the instance itself
HORIZON_S = 60.0
Floats = npt.NDArray[np.float32]


def market(
    n: int,
    m: int,
    load: float = 0.9,
    seed: int = 1,
    *,
    mean_quality: float | None = None,
    total_budget: float | None = None,
    commitments: int = 0,
) -> Problem:
    """A market of ``n`` requests and ``m`` offers; the same arguments give the same bytes.

    Limits per offer: requests and tokens per window, concurrency (seconds of answering). Per provider (about
    five offers each): requests and tokens, 90 % of its offers' sum. Per tenant (about 75 + 1.5 m of them): a
    budget. mean_quality: floor for the mean quality of what is served, e.g. 0.7. total_budget: cap on all
    cost, as a multiple of each request's mean allowed cost. commitments: how many of the dearest offers must
    each carry a tenth of their request limit. Arrays per pair are float32 and shared between limits.
    """
    rng = np.random.default_rng([seed, n, m])
    price = np.exp(rng.uniform(np.log(100.0), np.log(8000.0), m))  # nano-dollars per token: 0.1 .. 8 $/Mtok
    dearness = np.log(price / 100.0) / np.log(80.0)
    quality = np.clip(0.45 + 0.4 * dearness + rng.normal(0, 0.08, m), 0.2, 0.97)
    speed = np.exp(rng.normal(np.log(80.0), 0.4, m))  # tokens per second
    tokens = np.exp(rng.normal(6.5, 1.0, n)).astype(np.float32)
    np.clip(tokens, 16, 60_000, out=tokens)
    cost = np.empty((n, m), dtype=np.int64)
    allowed = np.empty((n, m), dtype=np.bool_)
    latency = np.empty((n, m), dtype=np.float32)
    graded = np.empty((n, m), dtype=np.float32) if mean_quality is not None else None
    for start in range(0, n, CHUNK):
        part = slice(start, min(start + CHUNK, n))
        _draw(rng, part, tokens, price, quality, speed, cost, allowed, latency, graded)
    limits = _limits(rng, load, price, tokens, latency, cost, allowed)
    dearest = np.argsort(price)[::-1]
    for j in dearest[:commitments]:
        share = 0.1 * float(limits[3 * int(j)].cap)
        limits.append(Limit(f"commitment {j}", -max(1.0, np.floor(share)), models=[int(j)], usage=-1.0))
    if graded is not None:
        limits.append(Limit("mean quality", 0.0, usage=np.float32(mean_quality) - graded))
    if total_budget is not None:
        mean = float(_mean_allowed(cost, allowed).sum())
        limits.append(Limit("total budget", float(np.floor(total_budget * mean)), usage=cost))
    return Problem(cost=cost, allowed=allowed, limits=limits)


def _draw(
    rng: np.random.Generator,
    part: slice,
    tokens: Floats,
    price: npt.NDArray[np.float64],
    quality: npt.NDArray[np.float64],
    speed: npt.NDArray[np.float64],
    cost: npt.NDArray[np.int64],
    allowed: npt.NDArray[np.bool_],
    latency: Floats,
    graded: Floats | None,
) -> None:
    """Fill one chunk of the arrays per pair."""
    size, m = cost[part].shape
    spread = np.exp(0.15 * rng.standard_normal((size, m), dtype=np.float32))
    warm = rng.random((size, m), dtype=np.float32) < 0.05  # a prompt cache that still knows the prefix
    pair = (
        tokens[part, None]
        * price.astype(np.float32)
        * spread
        * np.where(warm, np.float32(0.5), np.float32(1))
    )
    cost[part] = np.ceil(pair)
    noise = np.exp(0.25 * rng.standard_normal((size, m), dtype=np.float32))
    latency[part] = (0.3 + 0.25 * tokens[part, None] / speed.astype(np.float32)) * noise
    ability = quality.astype(np.float32) + 0.05 * rng.standard_normal((size, m), dtype=np.float32)
    if graded is not None:
        graded[part] = np.clip(ability, 0, 1)
    floor = 0.8 * rng.beta(2.0, 3.5, (size, 1)).astype(np.float32)  # the quality asked for
    patience = np.exp(rng.normal(3.0, 1.0, (size, 1))).astype(np.float32)  # the deadline, seconds
    purse = tokens[part, None] * np.exp(rng.normal(9.0, 1.0, (size, 1))).astype(np.float32)
    allowed[part] = (ability >= floor) & (latency[part] <= patience) & (pair <= purse)


def _limits(
    rng: np.random.Generator,
    load: float,
    price: npt.NDArray[np.float64],
    tokens: Floats,
    latency: Floats,
    cost: npt.NDArray[np.int64],
    allowed: npt.NDArray[np.bool_],
) -> list[Limit]:
    """Three rows per offer, then two per provider, then one per tenant."""
    n, m = cost.shape
    share = np.exp(rng.normal(0, 0.5, m)) * np.where(price > np.median(price), 0.4, 1.0)
    slack = np.exp(rng.normal(0, 0.25, (2, m)))  # tokens and concurrency as multiples of what requests need
    cheaper = np.argsort(price)[: max(1, (m + 1) // 2)]
    capacity = share * np.minimum(1.0, slack.min(axis=0))
    scale = n / max(load, 1e-9) / capacity[cheaper].sum()
    requests = np.maximum(1.0, np.floor(share * scale))
    mean_tokens = float(tokens.mean()) if n else 1.0
    mean_latency = latency.mean(axis=0, dtype=np.float64) if n else np.ones(m)
    limits = []
    for j in range(m):
        per_minute = float(np.ceil(requests[j] * mean_tokens * slack[0, j]))
        busy = float(requests[j] * mean_latency[j] * slack[1, j])
        limits.append(Limit(f"offer {j} requests", float(requests[j]), models=[j]))
        limits.append(Limit(f"offer {j} tokens", per_minute, models=[j], usage=tokens))
        limits.append(
            Limit(f"offer {j} concurrency", np.ceil(busy / HORIZON_S) * HORIZON_S, models=[j], usage=latency)
        )
    providers = rng.permutation(np.arange(m) % max(2, m // 5))
    for p in np.unique(providers):
        own = np.flatnonzero(providers == p)
        for kind, at, usage in (("requests", 0, 1.0), ("tokens", 1, tokens)):
            total = sum(float(limits[3 * j + at].cap) for j in own)
            limits.append(Limit(f"provider {p} {kind}", np.floor(0.9 * total), models=own, usage=usage))
    size = rng.dirichlet(np.full(tenants := round(75 + 1.5 * m), 0.7))
    tenant = rng.choice(tenants, size=n, p=size).astype(np.int32)
    mean = _mean_allowed(cost, allowed)
    budget = np.bincount(tenant, weights=mean, minlength=tenants) * np.exp(rng.normal(-1.3, 0.5, tenants))
    largest = np.zeros(tenants)
    np.maximum.at(largest, tenant, mean)  # room for one large request: small tenants are no knapsack puzzles
    budget = np.ceil(budget + largest)
    limits.append(Limit("tenant budget", budget, usage=cost, group=tenant))
    return limits


def _mean_allowed(cost: npt.NDArray[np.int64], allowed: npt.NDArray[np.bool_]) -> npt.NDArray[np.float64]:
    """The mean cost of each request over the pairs its filters leave, 0 where none is left."""
    count = allowed.sum(axis=1)
    total = np.einsum("ij,ij->i", cost, allowed, dtype=np.float64, casting="unsafe")
    return np.asarray(total / np.maximum(count, 1))


def data_path(given: str | None = None) -> Path | None:
    """Where the public data lies: ``given``, ``NEGOTIATOR_DATA``, or ``../shared/data`` beside the repository."""
    beside = Path(__file__).resolve().parents[2] / "shared" / "data"
    for place in (given, os.environ.get("NEGOTIATOR_DATA"), str(beside)):
        if place and Path(place).is_dir():
            return Path(place)
    return None


def gap_names(data: Path) -> list[dict[str, object]]:
    """One dict per generalised-assignment instance under ``data/gap``: name, cls, m, n, best_known_min, ..."""
    index = json.loads((data / "gap" / "index.json").read_text(encoding="utf-8"))
    return list(index["instances"])


def gap_instance(data: Path, name: str) -> Problem:
    """One generalised-assignment instance: every job on one agent within its capacity, least cost.

    The equality "every job is served" is the first objective of ``served_then_cost``; the published costs
    stand in for nano-dollars.
    """
    with np.load(data / "gap" / f"{name}.npz") as file:
        cost = file["cost"].T.astype(np.int64)
        weight = np.ascontiguousarray(file["weight"].T.astype(np.float64))
        capacity = file["capacity"]
    limits = [Limit(f"agent {j}", float(cap), models=[j], usage=weight) for j, cap in enumerate(capacity)]
    return Problem(
        cost=np.ascontiguousarray(cost), allowed=np.ones(cost.shape, dtype=np.bool_), limits=limits
    )


def greedy(problem: Problem, block: int | None = None) -> npt.NDArray[np.int32]:
    """Cheapest-first: in order of arrival each request takes its cheapest column that still fits every row.

    Returns int32[n], -1 = not served. Runs in blocks of ``block`` requests; within one, requests that overfill
    a row try again with what is left. Rows that ask for a least amount (negative caps) are not pursued.
    """
    n, m = problem.cost.shape
    block = block or max(512, n // 128)
    choice = np.full(n, -1, dtype=np.int32)
    left = problem.caps + tolerance(problem.caps)
    covers = np.ones((len(problem.limits), m), dtype=np.bool_)
    for limit, row in zip(problem.limits, covers, strict=True):
        if limit.models is not None:
            row[:] = np.isin(np.arange(m), limit.models)
    for start in range(0, n if m else 0, block):
        stop = min(start + block, n)
        price = np.where(problem.allowed[start:stop], problem.cost[start:stop].astype(np.float64), np.inf)
        price[:, _full(problem, covers, left)] = np.inf
        pending = np.arange(stop - start)
        best = price.argmin(axis=1)
        while pending.size:
            open_ = np.isfinite(price[pending, best])
            pending, best = pending[open_], best[open_]
            by_column = np.lexsort((pending, best))
            pending, best = pending[by_column], best[by_column]
            fits, alone = _fit(problem, covers, start + pending, best, left)
            price[pending[~alone], best[~alone]] = np.inf
            choice[start + pending[fits]] = best[fits]
            pending = pending[~fits]
            best = price[pending].argmin(axis=1)
    return choice


def _full(
    problem: Problem, covers: npt.NDArray[np.bool_], left: npt.NDArray[np.float64]
) -> npt.NDArray[np.bool_]:
    """Columns under a count that is used up for every request."""
    full = np.zeros(covers.shape[1], dtype=np.bool_)
    for limit, row, first in zip(problem.limits, covers, problem.first_row, strict=False):
        everyone = limit.requests is None and limit.group is None
        if everyone and isinstance(limit.usage, float) and limit.usage > 0 and left[first] < limit.usage:
            full |= row
    return full


def _fit(
    problem: Problem,
    covers: npt.NDArray[np.bool_],
    requests: npt.NDArray[np.intp],
    columns: npt.NDArray[np.intp],
    left: npt.NDArray[np.float64],
) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
    """Which pairs (sorted by column) fit after those before them, which alone; what fits leaves ``left``."""
    fits = np.ones(len(requests), dtype=np.bool_)
    alone = fits.copy()
    used = []
    begins = np.searchsorted(columns, np.arange(covers.shape[1] + 1))
    for limit, covered, first in zip(problem.limits, covers, problem.first_row, strict=False):
        own = np.flatnonzero(covered & (np.diff(begins) > 0))
        if not own.size:
            continue
        at = np.concatenate([np.arange(begins[j], begins[j + 1]) for j in own])
        at, row, amount = _touched(limit, int(first), at, requests, columns)
        used.append((at, row, amount))
        alone[at] &= (amount <= 0) | (amount <= left[row])
    for at, row, amount in used:
        keep = alone[at]
        order = np.lexsort((requests[at[keep]], row[keep]))
        at, row, amount = at[keep][order], row[keep][order], np.maximum(amount[keep][order], 0)
        total = np.cumsum(amount)
        starts = np.flatnonzero(np.diff(row, prepend=-1))
        before = np.repeat(total[starts] - amount[starts], np.diff(starts, append=at.size))
        fits[at] &= total - before <= left[row]
    fits &= alone
    if alone.any() and not fits.any():  # rounding of the running totals: the first one still fits alone
        first_alone = np.flatnonzero(alone)
        fits[first_alone[requests[first_alone].argmin()]] = True
    for at, row, amount in used:
        np.subtract.at(left, row[fits[at]], amount[fits[at]])
    return fits, alone


def _touched(
    limit: Limit,
    first: int,
    at: npt.NDArray[np.intp],
    requests: npt.NDArray[np.intp],
    columns: npt.NDArray[np.intp],
) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp], npt.NDArray[np.float64]]:
    """Of the pairs ``at`` in columns the limit covers, those it does cover, their row and their usage."""
    if limit.requests is not None:
        at = at[np.isin(requests[at], limit.requests)]
    row = np.full(at.size, first, dtype=np.intp)
    if limit.group is not None:
        at = at[limit.group[requests[at]] >= 0]
        row = first + limit.group[requests[at]].astype(np.intp)
    if not isinstance(limit.usage, np.ndarray):
        return at, row, np.full(at.size, float(limit.usage))
    index = (requests[at],) if limit.usage.ndim == 1 else (requests[at], columns[at])
    return at, row, limit.usage[index].astype(np.float64)
