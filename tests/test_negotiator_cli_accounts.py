"""``negotiator accounts``: made, shown, raised and audited from the command line."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from negotiator.cli.accounts import command
from negotiator.errors import InputInvalid, StoreLocked
from negotiator.store_embedded import EmbeddedStore
from providers.clock import SystemClock


class Shell:
    """Runs the command on one ledger file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __call__(self, *words: str) -> str:
        """Standard output of a command that must succeed; an error of the user's is raised."""
        done = CliRunner().invoke(command, [*words, "--store", f"embedded://{self.path}"])
        if done.exception is not None and not isinstance(done.exception, SystemExit):
            raise done.exception
        assert done.exit_code == 0, done.output
        return done.output

    def json(self, *words: str) -> Any:
        """The same as a JSON value."""
        return json.loads(self(*words, "--json"))


@pytest.fixture
def accounts(tmp_path: Path) -> Shell:
    """An empty ledger."""
    return Shell(tmp_path / "ledger.db")


def test_an_account_is_made_changed_and_shown(accounts: Shell) -> None:
    """What is not named in a change stays; money is decimal strings, no limit is null."""
    accounts("create", "org", "--budget-usd", "100")
    accounts("create", "team", "--parent", "org", "--budget-usd", "5", "--period", "month")
    changed = accounts.json("set", "team", "--default-budget-usd", "0.01")
    assert changed == accounts.json("show", "team")
    assert changed["period_key"].count("-") == 1
    del changed["period_key"]
    assert changed == {
        "account": "team",
        "parent": "org",
        "budget_usd": "5",
        "period": "month",
        "default_budget_usd": "0.01",
        "deposits_usd": "0",
        "posted_usd": "0",
        "pending_usd": "0",
        "available_usd": "5",
    }
    assert accounts.json("set", "team", "--budget-usd", "none")["available_usd"] is None
    listed = [account["account"] for account in accounts.json("list")["accounts"]]
    assert listed == ["default", "org", "team", "~house", "~suspense"]
    shown = accounts("show", "team")
    assert "team" in shown
    assert "org" in shown


def test_a_deposit_counts_once_and_may_be_corrected(accounts: Shell) -> None:
    """The same reference twice changes nothing; a negative amount takes back."""
    accounts("create", "prepaid", "--budget-usd", "0")
    for _ in range(2):
        assert accounts.json("deposit", "prepaid", "20", "--reference", "invoice 7")["available_usd"] == "20"
    corrected = CliRunner().invoke(
        command,
        ["deposit", "--reference", "typo", "--store", f"embedded://{accounts.path}", "--", "prepaid", "-2.5"],
    )
    assert corrected.exit_code == 0
    assert accounts.json("show", "prepaid")["available_usd"] == "17.5"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("show", "nobody"), "nobody"),
        (("set", "nobody", "--budget-usd", "1"), "nobody"),
        (("create", "org"), "accounts set"),
        (("create", "x", "--parent", "nobody"), "parent"),
        (("create", "x", "--budget-usd", "-1"), "budget-usd: expected US dollars >= 0"),
        (("create", "x", "--budget-usd", "NaN"), "budget-usd"),
        (("deposit", "org", "much", "--reference", "r"), "usd: expected US dollars"),
        (("deposit", "default", "1", "--reference", "r"), "without a limit"),
    ],
)
def test_a_mistake_is_one_clear_message(accounts: Shell, words: tuple[str, ...], message: str) -> None:
    """Unknown and existing accounts, amounts that are none: what was expected, what was found."""
    accounts("create", "org", "--budget-usd", "1")
    with pytest.raises(InputInvalid, match=message):
        accounts(*words)


def test_the_audit_says_that_the_books_fit_or_where_they_do_not(accounts: Shell) -> None:
    """Exit 0 with one line, or exit 1 naming the row."""
    accounts("create", "org", "--budget-usd", "1")
    accounts("deposit", "org", "1", "--reference", "r")
    assert "the books fit" in accounts("audit")
    assert "the books fit" in accounts("audit", "--archived")
    with sqlite3.connect(accounts.path) as database:
        database.execute("UPDATE rows SET nusd = 2 WHERE kind = 'deposit'")
    database.close()
    done = CliRunner().invoke(command, ["audit", "--json", "--store", f"embedded://{accounts.path}"])
    assert done.exit_code == 1
    assert "deposits_nusd=2" in json.loads(done.output)["faults"][0]


def test_a_ledger_in_use_names_its_holder(accounts: Shell) -> None:
    """While a server holds the file the command is refused and says who it is."""
    accounts("create", "org")
    store = EmbeddedStore(accounts.path, clock=SystemClock())
    with pytest.raises(StoreLocked, match="held by process"):
        accounts("list")
    store.abandon()
