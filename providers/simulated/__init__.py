"""Seeded sellers with real price cards: latency, limits, outages, cache warmth, tiers, idle pricing, faults.

:func:`default_sellers` is the market of the demo; :class:`SimulatedSeller` takes its parts one by one.
"""

from .answers import ModelTraits, acceptable, prompt_of, true_quality
from .catalogue import SIMULATED, default_sellers, simulated_seller
from .faults import Fault, FaultKind, Faults
from .seller import SimulatedSeller

__all__ = [
    "SIMULATED",
    "Fault",
    "FaultKind",
    "Faults",
    "ModelTraits",
    "SimulatedSeller",
    "acceptable",
    "default_sellers",
    "prompt_of",
    "simulated_seller",
    "true_quality",
]
