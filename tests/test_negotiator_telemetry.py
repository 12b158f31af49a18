"""Metrics: what is counted of whom, that workers' add up, that Prometheus can read them, and what the docs say of them."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from negotiator.errors import RejectCode
from negotiator.events import Event
from negotiator.telemetry import MAX_LABELS, Sight, Telemetry
from negotiator.telemetry_refusals import FalseRefusals

SIGHT = Sight(
    holds=3,
    oldest_hold_s=7.5,
    settlements_waiting=1,
    prices_made_s=1_000.0,
    up={("shop", "m"): True, ("shop", "n"): False},
    cached={("shop", "m"): (100, 60)},
)


def settled(order_id: str = "o", **more: Any) -> Event:
    facts = {
        "order_id": order_id, "account": "a", "task": None, "state": "SETTLED", "provider": "shop", "model": "m",
        "tier": "standard", "expected_nusd": 10, "posted_nusd": 20, "released_nusd": 80, "house_nusd": 0,
        "saved_nusd": 5, "latency_ms": 1_200, "ttft_ms": 300, "attempts": 1, "reject": None,
    }  # fmt: skip
    return Event("order.settled", 0, facts | more)


def reserved(order_id: str = "o") -> Event:
    facts = {"order_id": order_id, "account": "a", "quoting_s": 0.001, "deciding_s": 0.0002}
    return Event("order.reserved", 0, facts)


def refused(short_nusd: int) -> Event:
    facts = {"order_id": "r", "account": "a", "reject": "FUNDS_HELD", "short_nusd": short_nusd}
    return Event("order.rejected", 0, facts)


def told(telemetry: Telemetry) -> dict[str, float]:
    """Every sample by name and labels, as Prometheus reads them."""
    return {
        sample.name + json.dumps(sample.labels, sort_keys=True).replace("{}", ""): sample.value
        for family in text_string_to_metric_families(telemetry.exposition().decode())
        for sample in family.samples
    }


def test_every_metric_of_a_market_is_there_with_help_and_type() -> None:
    """Prometheus' own parser reads all of it; names have units and counters end in _total."""
    telemetry = Telemetry(look=lambda: SIGHT)
    for event in (
        reserved(),
        settled(),
        refused(50),
        Event("ledger.lapsed", 0),
        Event("market_maker.died", 0),
        Event("quality.changed", 0, {"model": "m", "before": 0.8, "since": 0.4, "answers": 60}),
    ):
        telemetry.note(event)
    telemetry.note(Event("plan.solved", 0, {"gap": 2e-4, "served": 5, "solve_s": 0.5}))
    telemetry.note(Event("seller.failed", 0, {"provider": "shop", "error": "Overloaded", "detail": ""}))
    text = telemetry.exposition().decode()
    for family in text_string_to_metric_families(text):
        assert family.documentation.endswith("."), family.name
        assert family.type in ("counter", "gauge", "histogram"), family.name
        assert family.samples, family.name
        assert re.fullmatch(r"negotiator_[a-z_]+", family.name)
    samples = told(telemetry)
    assert samples['negotiator_orders_total{"model": "m", "provider": "shop", "state": "SETTLED"}'] == 1
    assert samples["negotiator_spend_usd_total"] == pytest.approx(2e-8)
    assert samples["negotiator_overspend_usd_total"] == 0
    assert samples["negotiator_hold_age_seconds"] == 7.5
    assert samples["negotiator_settlements_waiting"] == 1
    assert samples["negotiator_prices_made_timestamp_seconds"] == 1_000
    assert samples['negotiator_seller_up{"model": "n", "provider": "shop"}'] == 0
    assert samples['negotiator_cache_tokens_expected_total{"model": "m", "provider": "shop"}'] == 100
    assert samples['negotiator_cache_tokens_read_total{"model": "m", "provider": "shop"}'] == 60
    assert samples["negotiator_plan_gap_count"] == 1
    assert samples["negotiator_market_maker_deaths_total"] == 1
    assert samples['negotiator_quality_changes_total{"direction": "worse", "model": "m"}'] == 1
    for code in RejectCode:
        assert f'negotiator_rejects_total{{"reject": "{code.name}"}}' in samples


def test_what_caches_gave_is_counted_once() -> None:
    """The sellers' sums are since their start: two looks count the difference, a seller made anew counts from nothing."""
    sums = [(100, 60), (150, 90), (0, 0)]
    telemetry = Telemetry(look=lambda: Sight(cached={("shop", "m"): sums[0]}))
    for _ in range(3):
        samples = told(telemetry)
        sums.append(sums.pop(0))
    assert samples['negotiator_cache_tokens_expected_total{"model": "m", "provider": "shop"}'] == 150


def test_labels_are_bounded() -> None:
    """Models beyond the first few hundred count as other: a seller that names a new one every call does no harm."""
    telemetry = Telemetry()
    for number in range(MAX_LABELS + 50):
        telemetry.note(settled(model=f"m{number}"))
    orders = {
        name: value for name, value in told(telemetry).items() if name.startswith("negotiator_orders_total")
    }
    assert len(orders) == MAX_LABELS + 1
    assert orders['negotiator_orders_total{"model": "other", "provider": "other", "state": "other"}'] == 50


def test_overspend_would_show() -> None:
    """A settlement above its hold, which must never be, is counted in dollars."""
    telemetry = Telemetry()
    telemetry.note(settled(released_nusd=-3_000_000_000))
    assert told(telemetry)["negotiator_overspend_usd_total"] == 3


def test_a_refusal_is_false_when_what_was_held_comes_back() -> None:
    """Short by 100 beside two holds: 60 and 50 come back, so it would have been served; by 200 it was right."""
    refusals = FalseRefusals()
    refusals.held("a", "x")
    refusals.held("a", "y")
    refusals.held("b", "z")
    refusals.refused("a", 100)
    refusals.refused("a", 200)
    refusals.held("a", "late")
    assert refusals.ended("b", "z", 10_000) == 0
    assert refusals.ended("a", "late", 10_000) == 0, "it did not hold anything then"
    assert refusals.ended("a", "x", 60) == 0
    assert refusals.ended("a", "y", 50) == 1
    assert refusals.ended("a", "y", 500) == 0


def test_refusals_followed_up_are_bounded() -> None:
    """A flood of refusals beside one long order is remembered only as far as it is worth."""
    refusals = FalseRefusals()
    refusals.held("a", "x")
    for _ in range(10_000):
        refusals.refused("a", 1)
    assert refusals.ended("a", "x", 5) == 100
    assert not refusals._accounts


def test_false_refusals_are_counted_from_the_bus() -> None:
    """A hold of 100, a refusal short by 80, and 80 come back."""
    telemetry = Telemetry()
    for event in (reserved("x"), refused(80), settled("x", released_nusd=80)):
        telemetry.note(event)
    assert told(telemetry)["negotiator_false_refusals_total"] == 1


WORKER = """
import sys
sys.path.insert(0, sys.argv[1])
from test_negotiator_telemetry import SIGHT, settled
from negotiator.telemetry import Telemetry
telemetry = Telemetry(sys.argv[2], look=lambda: SIGHT)
telemetry.note(settled())
telemetry.look()
"""


def test_any_worker_tells_of_all(tmp_path: Path) -> None:
    """Three processes share a directory: counters and holds add up, ages take the oldest, health the worst."""
    here = str(Path(__file__).parent)
    environment = {
        "PROMETHEUS_MULTIPROC_DIR": str(tmp_path),
        "PATH": "",
        "PYTHONPATH": str(Path(here).parent),
    }
    command = [sys.executable, "-c", WORKER, here, str(tmp_path)]
    for _ in range(2):
        subprocess.run(command, env=environment, check=True, timeout=60)
    last = "\n".join([WORKER, "print(telemetry.exposition().decode())"])
    done = subprocess.run(
        [sys.executable, "-c", last, here, str(tmp_path)],
        env=environment,
        check=True,
        timeout=60,
        capture_output=True,
        text=True,
    )
    samples = {
        sample.name: sample.value
        for family in text_string_to_metric_families(done.stdout)
        for sample in family.samples
    }
    assert samples["negotiator_orders_total"] == 3
    assert samples["negotiator_order_seconds_count"] == 3
    assert samples["negotiator_cache_tokens_read_total"] == 180
    assert samples["negotiator_holds_pending"] >= 3
    assert samples["negotiator_hold_age_seconds"] == 7.5
    assert samples["negotiator_seller_up"] == 0


# What operators are given ---------------------------------------------------------------------------------------


def families() -> dict[str, tuple[str, tuple[str, ...], str]]:
    """Every metric of a house: its type, labels and words."""
    found = {}
    for collector in list(Telemetry().registry._collector_to_names):
        for family in collector.describe():  # type: ignore[attr-defined]
            name = family.name + ("_total" if family.type == "counter" else "")
            found[name] = (family.type, tuple(collector._labelnames), family.documentation)  # type: ignore[attr-defined]
    return found


def samples_of(text: str) -> set[str]:
    """The metrics that an expression names."""
    named = set(re.findall(r"\bnegotiator_[a-z_]+", text))
    return {re.sub(r"_(bucket|sum|count)$", "", name) if name not in families() else name for name in named}


def test_the_metrics_reference_is_whole(root: Path) -> None:
    """docs/operations.md lists each metric with the type, labels and words it is exposed with, and no other."""
    text = (root / "docs/operations.md").read_text()
    rows = re.findall(
        r"^\| `([a-z_]+)` \| (counter|gauge|histogram) \| (.*?) ?\| (.+) \|$", text, re.MULTILINE
    )
    listed = {
        f"negotiator_{name}": (kind, tuple(labels.split(", ")) if labels else (), says)
        for name, kind, labels, says in rows
    }
    assert listed == families()


def test_every_alert_names_metrics_that_exist_and_a_section_of_the_runbook(root: Path) -> None:
    """Each has a severity, a summary, and a link to a heading of docs/operations.md; every section has its alert."""
    text = (root / "docs/operations.md").read_text()
    sections = {"-".join(title.lower().split()) for title in re.findall(r"^### (.+)$", text, re.MULTILINE)}
    groups = yaml.safe_load((root / "deploy/prometheus/alerts.yml").read_text())["groups"]
    linked = set()
    for rule in [rule for group in groups for rule in group["rules"]]:
        named = samples_of(rule["expr"])
        assert named, rule["alert"]
        assert named <= families().keys(), rule["alert"]
        assert rule["labels"]["severity"] in ("page", "ticket")
        assert rule["annotations"]["summary"]
        page, _, anchor = rule["annotations"]["runbook"].partition("#")
        assert page == "docs/operations.md"
        assert anchor in sections, rule["alert"]
        linked.add(anchor)
        for code in re.findall(r'reject=~?"([^"]+)"', rule["expr"]):
            assert set(code.split("|")) <= {one.name for one in RejectCode}
    assert linked == sections


def test_every_panel_names_metrics_that_exist(root: Path) -> None:
    """The Grafana dashboard asks for what there is, shows every metric, and its panels do not overlap."""
    board = json.loads((root / "deploy/grafana/negotiator.json").read_text())
    shown, taken = set(), set()
    for panel in board["panels"]:
        at = panel["gridPos"]
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert not cells & taken, panel["title"]
        taken |= cells
        for target in panel.get("targets", ()):
            named = samples_of(target["expr"])
            assert named, panel["title"]
            assert named <= families().keys(), panel["title"]
            assert target["datasource"]["uid"] == "${source}"
            shown |= named
    assert len({panel["id"] for panel in board["panels"]}) == len(board["panels"])
    assert shown == families().keys()
