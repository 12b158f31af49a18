"""The command as users call it: real processes, exit codes, one message per mistake, kill and resume."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest


def negotiator(*arguments: str | Path, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "negotiator.cli", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, timeout=240, check=False)


@pytest.fixture(scope="module")
def workload(root: Path) -> Path:
    return root / "examples" / "workload.jsonl"


def test_plan_prints_the_contracts_summary(workload: Path, tmp_path: Path) -> None:
    """--json is one object on stdout; --out has one row per request; the proven gap is at most one percent."""
    out = tmp_path / "plan.jsonl"
    done = negotiator("plan", workload, "--json", "--out", out)
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout)
    lines = workload.read_text().splitlines()
    assert summary["requests"] == len(lines)
    assert summary["gap"] <= 0.01
    assert summary["served"] + sum(summary["rejects"].values()) == len(lines)
    assert set(summary["baselines"]) == {"cheapest_feasible", "always_best", "two_tier", "as_requested"}
    assert len(out.read_text().splitlines()) == len(lines)


def test_a_refused_quote_exits_1_and_says_what_would_be_served() -> None:
    """Budget and floor that nobody meets: exit 1, a reject, counter-offers with their prices."""
    done = negotiator(
        "quote", "Prove that 17 is prime.", "--budget-usd", "0.0001", "--min-quality", "0.99", "--json"
    )
    assert done.returncode == 1
    book = json.loads(done.stdout)
    assert book["best"] is None
    assert book["reject"]["counter_offers"]
    shown = negotiator("quote", "Prove that 17 is prime.", "--budget-usd", "0.0001", "--min-quality", "0.99")
    assert "would be served with" in shown.stdout


def test_a_long_prompt_that_came_before_is_quoted_with_its_cache_discount(tmp_path: Path) -> None:
    """Quoted, bought, quoted again: the seller it was bought of itemises what its warm cache saves; real sellers are not bought of."""
    text = " ".join(f"Rule {n}: never promise delivery before day {n}." for n in range(400))
    ask = ("quote", text, "--budget-usd", "0.5", "--json")
    first, second = (json.loads(negotiator(*ask, *more).stdout) for more in ((), ("--twice",)))
    kinds = [
        {saved["kind"] for quote in book["quotes"] for saved in quote["discounts"]}
        for book in (first, second)
    ]
    assert "cache_hit" not in kinds[0]
    (warm,) = (
        quote for quote in second["quotes"] if any(d["kind"] == "cache_hit" for d in quote["discounts"])
    )
    (saved,) = (d for d in warm["discounts"] if d["kind"] == "cache_hit")
    cold = next(q for q in first["quotes"] if (q["model"], q["tier"]) == (warm["model"], warm["tier"]))
    assert 0 < float(warm["expected_usd"]) < float(cold["expected_usd"])
    assert float(saved["saves_usd"]) > 0
    assert "was sent" in saved["basis"]
    lines = {line["kind"]: line["tokens"] for line in warm["lines"]}
    assert lines["cache_read"] > 1_000
    config = tmp_path / "real.toml"
    config.write_text(
        '[[providers]]\nkind = "openai"\napi_key_env = "KEY"\nmodels = [{ name = "gpt-6-luna" }]\n'
    )
    real = negotiator("quote", "Hi", "--twice", "--config", str(config))
    assert (real.returncode, "found real ones" in real.stderr) == (2, True)


MISTAKES: list[tuple[list[str], int, str]] = [
    (["plan", "missing.jsonl"], 1, "missing.jsonl: expected a readable file"),
    (["plan", "empty.jsonl"], 1, "empty.jsonl: expected at least one request"),
    (["plan", "broken.jsonl", "--json"], 1, "broken.jsonl:1: "),
    (["plan", "good.jsonl", "--gap", "2"], 2, "gap"),
    (["plan", "good.jsonl", "--objective", "magic"], 2, "magic"),
    (["plan", "good.jsonl", "--config", "bad.toml"], 1, "bad.toml:2: server.port"),
    (["plan", "good.jsonl", "--config", "nowhere.toml"], 1, "nowhere.toml: expected a readable file"),
    (["plan", "good.jsonl", "--config", "kind.toml"], 1, "expected one of"),
    (["quote", "Hi", "--budget-usd", "-1"], 2, "budget_usd: expected US dollars >= 0"),
    (["quote", "Hi", "--budget-usd", "NaN"], 2, "budget_usd"),
    (["quote", "Hi", "--min-quality", "1.5"], 2, "min_quality"),
    (["quote", "Hi", "--tier", "flx"], 2, "found 'flx'; did you mean 'flex'?\n"),
    (["quote", "Hi", "--tier", "flx", "--min-quality", "2"], 2, "found 2.0 (also wrong: tiers.0)"),
    (["quote", "Hi", "--policy", "chepest"], 2, "did you mean 'cheapest'?"),
    (["quote", "Hi", "--model", "gpt-6-lun"], 1, "did you mean 'gpt-6-luna'?"),
    (
        ["plan", "misspelt.jsonl"],
        1,
        "1: terms.polcy: expected no such field, found 'x'; did you mean 'policy'?",
    ),
    (["plan", "misspelt.jsonl"], 1, "nothing to plan: no line is a request"),
    (["quote", "Hi", "--model", "gpt-nothing"], 1, "gpt-nothing"),
    (["run", "good.jsonl"], 2, "--out"),
    (["run", "good.jsonl", "--out", "good.jsonl"], 1, "expected a result of an earlier run"),
    (["nonsense"], 2, "nonsense"),
]


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("desk")
    good = {"custom_id": "a", "body": {"messages": [{"role": "user", "content": "Hi"}]}}
    (folder / "good.jsonl").write_text(json.dumps(good) + "\n")
    (folder / "broken.jsonl").write_text("{oops\n" + json.dumps(good) + "\n")
    (folder / "misspelt.jsonl").write_text(json.dumps({**good, "terms": {"polcy": "x"}}) + "\n")
    (folder / "empty.jsonl").touch()
    (folder / "bad.toml").write_text("[server]\nport = 99999999\n")
    (folder / "kind.toml").write_text('[[providers]]\nkind = "telepathy"\n')
    return folder


@pytest.mark.parametrize(
    ("arguments", "code", "message"), MISTAKES, ids=[" ".join(a) for a, _, _ in MISTAKES]
)
def test_a_users_mistake_is_one_message(desk: Path, arguments: list[str], code: int, message: str) -> None:
    """The exit code, what was expected and found and where; never a traceback."""
    done = negotiator(*arguments, cwd=desk)
    assert done.returncode == code, done.stderr
    assert message in done.stderr + done.stdout
    assert "Traceback" not in done.stderr
    assert "Warning" not in done.stderr
    assert "Where they go" not in done.stdout, "a table without rows"


def test_help_has_an_example_for_every_command() -> None:
    """Each command's --help shows how it is called."""
    from negotiator.cli import COMMANDS

    for name in COMMANDS:
        done = negotiator(name, "--help")
        assert done.returncode == 0, done.stderr
        assert f"negotiator {name}" in done.stdout.replace("\n", " ")


@pytest.mark.parametrize(("how", "code"), [(signal.SIGKILL, -signal.SIGKILL), (signal.SIGINT, 130)])
def test_a_run_that_is_cut_short_goes_on_where_it_stopped(
    root: Path, tmp_path: Path, how: signal.Signals, code: int
) -> None:
    """kill -9 or Ctrl-C half-way, run again: every custom_id exactly once, and the ledger says all that is paid."""
    source, out, store = tmp_path / "in.jsonl", tmp_path / "out.jsonl", f"embedded://{tmp_path}/ledger.db"
    make = [sys.executable, root / "examples" / "make_workload.py", "900", "--seed", "5", "--out", source]
    subprocess.run(make, check=True, capture_output=True)
    ids = [json.loads(text)["custom_id"] for text in source.read_text().splitlines()]
    command = ["run", str(source), "--out", str(out), "--store", store, "--time-limit-s", "2", "--json"]
    victim = subprocess.Popen(
        [sys.executable, "-m", "negotiator.cli", *command],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    patience = time.monotonic() + 120
    while _lines(out) < 150 and victim.poll() is None and time.monotonic() < patience:
        time.sleep(0.02)
    os.kill(victim.pid, how)
    assert victim.wait() == code
    written = _lines(out)
    assert 150 <= written < len(ids)
    done = negotiator(*command)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    results = [json.loads(text) for text in out.read_text().splitlines()]
    assert Counter(result["custom_id"] for result in results) == Counter(ids)
    assert report["skipped"] <= written
    assert report["skipped"] + report["served"] + report["refused"] == len(ids)
    _check_ledger(store, results, report)


def _lines(path: Path) -> int:
    return path.read_bytes().count(b"\n") if path.exists() else 0


def _check_ledger(store: str, results: list[dict[str, Any]], report: dict[str, Any]) -> None:
    """What the ledger posted or holds is what the results say and what was in flight at the kill; the audit fits."""
    done = negotiator("accounts", "show", "default", "--store", store, "--json")
    assert done.returncode == 0, done.stderr
    account = json.loads(done.stdout)
    said = sum(_nusd(result["cost_usd"]) for result in results) + _nusd(report["in_doubt_usd"])
    assert _nusd(account["posted_usd"]) + _nusd(account["pending_usd"]) == said
    audit = negotiator("accounts", "audit", "--store", store)
    assert audit.returncode == 0, audit.stderr


def _nusd(usd: str) -> int:
    return int(Decimal(usd) * 10**9)


@pytest.mark.parametrize(
    ("words", "offered"), [("negotiator pl", "plain,plan"), ("negotiator plan --obj", "plain,--objective")]
)
def test_a_shell_completes_commands_and_options(words: str, offered: str) -> None:
    """What `negotiator completion` prints makes the shell ask the program itself, which answers."""
    environment = {**os.environ, "COMP_WORDS": words, "COMP_CWORD": str(len(words.split()) - 1)}
    environment["_NEGOTIATOR_COMPLETE"] = "bash_complete"
    asked = subprocess.run(
        [sys.executable, "-m", "negotiator.cli"], capture_output=True, text=True, env=environment, check=True
    )
    assert offered in asked.stdout.split()
    script = subprocess.run(
        [sys.executable, "-m", "negotiator.cli", "completion", "bash"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert "_NEGOTIATOR_COMPLETE=bash_complete" in script.stdout


def test_what_looks_like_markup_is_shown_as_it_is(tmp_path: Path) -> None:
    """A custom_id in brackets is text, not a style, and breaks nothing."""
    line = {
        "custom_id": "[/]",
        "method": "POST",
        "url": "/v1/chat/completions",
        "body": {"model": "auto", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 5},
        "terms": {"budget_usd": "0.000000001"},
    }
    path = tmp_path / "in.jsonl"
    path.write_text(json.dumps(line) + "\n", encoding="utf-8")
    done = negotiator("plan", path)
    assert done.returncode == 0, done.stderr
    assert "[/]" in done.stdout
