"""Assign requests to offers under limits, with a proof: problem, solve, verify, and prices for one at a time.

Importing the package loads NumPy only; OR-Tools and SciPy are loaded by the first ``solve``.
"""

from __future__ import annotations

from .online import Prices
from .problem import InvalidProblem, Limit, Plan, Problem, Reason, StopReason, Termination
from .solve import solve
from .verify import verify

__all__ = [
    "InvalidProblem",
    "Limit",
    "Plan",
    "Prices",
    "Problem",
    "Reason",
    "StopReason",
    "Termination",
    "solve",
    "verify",
]
