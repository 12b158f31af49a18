"""What if: the same traffic twice, nothing called; what changes is the configuration and nothing else."""

from __future__ import annotations

import asyncio
import json
import random
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from negotiator.cli import group
from negotiator.config import AccountConfig, Config, StoreConfig, load_config
from negotiator.engine import Engine
from negotiator.engine_replay import play
from negotiator.errors import ConfigInvalid, InputInvalid, Rejected
from negotiator.money import parse_usd
from negotiator.order_log import read_log
from negotiator.replay import Recorded, read_recorded, replay
from negotiator.wire import terms_from
from providers.clock import LoopClock, run_virtual
from providers.simulated import default_sellers

ORDERS = 90


async def trade(path: Path) -> None:
    """Three accounts, tight limits, a second apart: some with tools, some with a floor, some without a hope."""
    clock = LoopClock(1_795_500_000_000)
    accounts = (AccountConfig(id="team", budget_usd="1"), AccountConfig(id="ads"))  # type: ignore[arg-type]
    config = Config(store=StoreConfig(order_log=path), accounts=accounts)
    sellers = default_sellers(clock, seed=7, limits_scale=0.1)
    async with Engine.open(config, clock=clock, sellers=sellers) as market:
        draw = random.Random(1)

        async def one(number: int) -> None:
            await asyncio.sleep(number + draw.random())
            terms: dict[str, Any] = {
                "account": ("default", "team", "ads")[number % 3],
                "budget_usd": "0.000000001" if number % 30 == 0 else "0.01",
                "min_quality": (0.0, 0.8, 0.93)[number % 3],
                "task": "t",
            }
            more: dict[str, Any] = {}
            if number % 10 == 1:
                more["tools"] = [{"type": "function", "function": {"name": "look", "parameters": {}}}]
            order = await market.order_for(
                {"messages": [{"role": "user", "content": f"Secret question {number}?"}], **more},
                terms_from(terms),
            )
            try:
                await market.buy(order)
            except Rejected:
                return

        await asyncio.gather(*map(one, range(ORDERS)))


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The log of that market."""
    path = tmp_path_factory.mktemp("replay") / "orders.jsonl"
    run_virtual(trade(path))
    return path


@pytest.fixture(scope="module")
def recorded(log: Path) -> Recorded:
    """What a replay makes of it."""
    return read_recorded(read_log(log))


def config(tmp_path: Path, text: str) -> Config:
    path = tmp_path / "other.toml"
    path.write_text(text)
    return load_config(path, {})


def test_the_same_market_changes_nothing(log: Path, recorded: Recorded) -> None:
    """Not one order differs, the same seed gives the same result to the digit, and no word of a prompt is in the log."""
    told = replay(recorded, Config(), seed=3)
    assert (told["orders"], told["left_out"]) == (ORDERS, 0)
    assert told["change"] == {"served": 0, "cost_usd": "0", "quality": 0.0}
    assert told["as_it_was"] == told["other"]
    assert told["rejects"]["BUDGET_TOO_LOW"] == {"as_it_was": 3, "other": 3}
    assert replay(recorded, Config(), seed=3) == told
    assert "Secret" not in log.read_text()


def test_played_orders_are_close_to_what_they_were(recorded: Recorded) -> None:
    """Nearly all go to the same model as then, and those cost what they cost; the rest is luck at tight limits."""
    assert recorded.config is not None
    played = run_virtual(play(recorded.orders, recorded.config, limits=recorded.limits))
    same = [n for n, one in enumerate(recorded.orders) if played.model.get(n, "") == one.model]
    assert len(same) >= 0.8 * ORDERS
    then = sum(recorded.orders[n].cost_nusd for n in same)
    assert sum(played.cost_nusd.get(n, 0) for n in same) == pytest.approx(then, rel=0.02)


def test_a_smaller_budget_binds_its_account_alone(recorded: Recorded, tmp_path: Path) -> None:
    """The account spends no more than it has; what others do changes by nothing but the room that comes free."""
    other = config(tmp_path, '[[accounts]]\nid = "team"\nbudget_usd = "0.002"\n')
    told = replay(recorded, other)
    team = told["by_account"]["team"]
    assert team["other"]["served"] < team["as_it_was"]["served"]
    assert parse_usd(team["other"]["cost_usd"]) <= 2_000_000
    assert told["rejects"]["FUNDS_INSUFFICIENT"]["other"] > 0
    assert told["by_account"]["ads"]["change"]["served"] >= 0
    assert told["served_by_both"]["orders"] <= told["other"]["served"]


def test_another_policy_is_tried_without_a_configuration(recorded: Recorded) -> None:
    """Everybody best_quality: better and dearer; the market as it was is not touched."""
    told = replay(recorded, Config(), terms={"policy": "best_quality"})
    assert told["change"]["quality"] > 0
    assert parse_usd(told["other"]["cost_usd"]) > parse_usd(told["as_it_was"]["cost_usd"])


def test_other_sellers_are_played_at_their_prices_and_never_called(
    recorded: Recorded, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Vendors' accounts without keys and a seller with prices of its own: only they serve; no client is opened."""

    def refuse(*_: Any) -> None:
        raise AssertionError("a replay opened a connection")

    monkeypatch.setattr("socket.socket.connect", refuse)
    other = config(
        tmp_path,
        """
[[providers]]
kind = "openai"
name = "prod"
api_key_env = "NO_SUCH_KEY"
limits = { rpm = 100 }
models = [{ name = "gpt-6-luna" }]

[[providers]]
kind = "vllm"
name = "cellar"
base_url = "http://127.0.0.1:9/v1"
limits = { concurrency = 4 }
tags = ["tools"]
models = [{ name = "own", input_usd_per_million = "0.01", output_usd_per_million = "0.02", context_tokens = 100000 }]
""",
    )
    told = replay(recorded, other)
    served = {name for name, one in told["by_model"].items() if one["other"]["served"]}
    assert served <= {"prod/gpt-6-luna", "cellar/own"}
    assert "cellar/own" in served


def test_tighter_limits_cost_more_or_serve_fewer(recorded: Recorded, tmp_path: Path) -> None:
    """A seller cut to one call a minute serves at most one in each minute of the log."""
    other = config(tmp_path, '[[providers]]\nkind = "simulated"\nname = "openai"\nlimits = { rpm = 1 }\n')
    told = replay(recorded, other)
    assert told["other"]["served"] <= 2 + ORDERS // 60
    refused = [
        told["rejects"].get(name, {"other": 0})["other"] for name in ("CAPACITY_EXHAUSTED", "PRICED_OUT")
    ]
    assert sum(refused) > 60


def test_what_cannot_be_played_is_one_message(recorded: Recorded, tmp_path: Path) -> None:
    """A remote seller prices each request elsewhere; a log without sizes has nothing to play."""
    remote = config(tmp_path, '[[providers]]\nkind = "remote"\nname = "r"\nbase_url = "http://127.0.0.1:9"\n')
    with pytest.raises(ConfigInvalid, match=r"providers \(r\)"):
        replay(recorded, remote)
    bare = {"type": "order", "received_ms": 0, "account": "a"}
    with pytest.raises(InputInvalid, match="1 without"):
        read_recorded([{"type": "market", "limits": []}, bare])
    with pytest.raises(ConfigInvalid, match="--base"):
        replay(Recorded(recorded.orders, (), None, 0), Config())


def test_the_command_shows_the_change(log: Path, tmp_path: Path) -> None:
    """A table for people that says what is not known, JSON for machines; without anything to change it is wrong usage."""
    path = tmp_path / "other.toml"
    path.write_text('[[accounts]]\nid = "team"\nbudget_usd = "0.002"\n')
    run = CliRunner().invoke
    shown = run(
        group, ["replay", str(log), "--config", str(path), "--account", "team"], catch_exceptions=False
    )
    assert shown.exit_code == 0
    assert "change" in shown.stdout
    assert "not known" in shown.stderr
    told = run(group, ["replay", str(log), "--term", "policy=best_quality", "--json"], catch_exceptions=False)
    values = json.loads(told.stdout)
    assert values["other"]["quality"] > values["as_it_was"]["quality"]
    assert run(group, ["replay", str(log)]).exit_code == 2
    wrong = run(group, ["replay", str(log), "--term", "policy=wish"])
    assert wrong.exit_code == 2
    assert "policy" in wrong.stderr
