"""The house rules about who may know whom: floors, rooms, libraries, clocks and chance. See ARCHITECTURE.md.

Each rule reads the sources with ``ast`` and lists ``file:line`` of every breach.
"""

from __future__ import annotations

import ast
import re
from typing import Final

import pytest
from house import HOUSE, MODULES, PACKAGES, Module, belongs, floor, hold, imports_outside, room

SOLVER_HOSTS: Final = ("clearing", "market_maker", "report", "plan", "planner", "planning", "engine_plan")
"""The modules of ``negotiator`` that may call the solver."""

WALL_CLOCKS: Final = {
    "date.today",
    "datetime.datetime.now",
    "datetime.now",
    "datetime.utcnow",
    "time.time",
    "time.time_ns",
}
ALL_CLOCKS: Final = WALL_CLOCKS | {
    "time.monotonic",
    "time.monotonic_ns",
    "time.perf_counter",
    "time.perf_counter_ns",
    "time.sleep",
}
GENERATORS: Final = {"Random", "np.random.default_rng", "numpy.random.default_rng", "random.Random"}


def test_there_is_a_house_to_judge() -> None:
    """The rules look at real files: each package has modules, and imports are seen in them."""
    assert {module.package for module in MODULES} == set(PACKAGES)
    assert sum(len(module.imports) for module in MODULES) > len(MODULES)


@pytest.mark.parametrize(("leaf", "stranger"), [("providers", "solver"), ("solver", "providers")])
def test_leaves_are_strangers(leaf: str, stranger: str) -> None:
    """providers and solver import neither each other nor the house above them."""
    hold(imports_outside(lambda module: module.package != leaf, stranger, "negotiator"))


def test_the_solver_needs_no_network_and_no_schema() -> None:
    """solver imports neither aiohttp nor pydantic, no database and no command line."""
    outside = ("aiohttp", "pydantic", "redis", "sqlite3", "click", "rich")
    hold(imports_outside(lambda module: module.package != "solver", *outside))


def test_rooms_never_import_one_another() -> None:
    """A room's modules import their own room and the words below, no other room."""
    hold(
        module.at(found.line, f"room {room(module.part)} imports room {room(found.part)} ({found.target})")
        for module in HOUSE
        if room(module.part)
        for found in module.imports
        if room(found.part) not in (None, room(module.part))
    )


def test_imports_point_down() -> None:
    """No module of the house imports one from a floor above its own."""
    parts = {module.part for module in HOUSE}
    hold(
        module.at(
            found.line, f"floor {floor(module.part)} imports floor {floor(found.part)} ({found.target})"
        )
        for module in HOUSE
        for found in module.imports
        if found.part in parts and floor(found.part) > floor(module.part)
    )


def test_only_the_engine_composes() -> None:
    """Nobody outside floor 3 imports two rooms or more: the corridor between rooms is the engine."""
    hold(
        module.at(
            1, f"imports the rooms {', '.join(sorted(map(str, rooms)))}; only engine*.py composes rooms"
        )
        for module in HOUSE
        if floor(module.part) != 3
        for rooms in ({room(found.part) for found in module.imports} - {None},)
        if len(rooms) > 1
    )


def test_the_client_speaks_http_only() -> None:
    """The client imports words, never a room, the engine or the solver."""
    hold(
        module.at(found.line, f"the client may not import {found.target}")
        for module in HOUSE
        if belongs(module.part, "client")
        for found in module.imports
        if found.reaches("solver") or (found.part and 2 <= floor(found.part) <= 4)
    )


def test_only_its_hosts_call_the_solver() -> None:
    """clearing, market maker, report and planning import solver.solve inside functions; no request loads it."""
    stages = ("solver.solve", "solver.core", "solver.exact")
    faults = list(imports_outside(lambda module: belongs(module.part, *SOLVER_HOSTS), *stages, modules=HOUSE))
    faults += [
        module.at(found.line, f"imports {found.target} at module level; do so in the function that solves")
        for module in HOUSE
        for found in module.imports
        if found.reaches(*stages) and not found.late
    ]
    hold(faults)


def test_ortools_is_imported_late_and_by_the_solver_alone() -> None:
    """OR-Tools costs half a second and 86 MiB: only solver imports it, inside functions."""
    hold(
        module.at(found.line, "imports ortools; only solver may, inside functions")
        for module in MODULES
        for found in module.imports
        if found.reaches("ortools") and not (module.package == "solver" and found.late)
    )


def test_of_all_rooms_only_clearing_knows_the_solver() -> None:
    """Clearing alone translates between market and solver."""
    hold(imports_outside(lambda module: room(module.part) in (None, "clearing"), "solver", modules=HOUSE))


def test_pydantic_stays_at_the_edges() -> None:
    """pydantic checks what strangers say: wire, config, api, rate data, the quote protocol; inside are dataclasses."""

    def edge(module: Module) -> bool:
        if module.package == "negotiator":
            return belongs(module.part, "wire", "config", "api")
        return module.package == "providers" and belongs(
            module.part, "agent", "pricecard", "protocol", "ratecard", "vendor_terms"
        )

    hold(imports_outside(edge, "pydantic"))


@pytest.mark.parametrize(
    ("library", "door"), [("redis", "store_redis"), ("valkey", "store_redis"), ("sqlite3", "store_embedded")]
)
def test_each_database_has_one_door(library: str, door: str) -> None:
    """redis is known to store_redis*.py alone, sqlite3 to store_embedded*.py alone."""
    hold(imports_outside(lambda m: m.package == "negotiator" and belongs(m.part, door), library))


def test_only_the_api_and_the_agent_serve_http() -> None:
    """aiohttp's server side is used in negotiator/api/ and providers/agent*.py alone."""

    def serves(module: Module) -> bool:
        doors = {"negotiator": "api", "providers": "agent"}
        return belongs(module.part, doors.get(module.package, "none"))

    faults = list(imports_outside(serves, "aiohttp.web", "aiohttp.test_utils"))
    faults += [
        module.at(node, "uses aiohttp.web")
        for module in MODULES
        if not serves(module)
        for node in ast.walk(module.tree)
        if isinstance(node, ast.Attribute) and ast.unparse(node) == "aiohttp.web"
    ]
    hold(faults)


def test_time_comes_through_the_clock() -> None:
    """providers/clock.py alone reads the wall clock, and a room reads no clock but the one it was given."""
    hold(
        module.at(node, f"{name}(): take the clock as an argument")
        for module in MODULES
        if module.where != "providers/clock.py"
        for node, name in module.calls
        if name in (ALL_CLOCKS if module.package == "negotiator" and room(module.part) else WALL_CLOCKS)
    )


def test_chance_comes_seeded() -> None:
    """Nothing calls the random module's hidden generator or makes a generator without a seed."""
    hidden = re.compile(r"(?:random|np\.random|numpy\.random)\.(?!default_rng$)[a-z]\w*")
    hold(
        module.at(node, f"{name}(): take a seeded generator as an argument")
        for module in MODULES
        for node, name in module.calls
        if hidden.fullmatch(name) or (name in GENERATORS and not node.args and not node.keywords)
    )
