"""The command ``negotiator``: each subcommand is a module of this package, imported when it is called."""

from __future__ import annotations

import importlib
import os
import sys
from difflib import get_close_matches
from typing import Final

import click

from negotiator.errors import NegotiatorError

__all__ = ["COMMANDS", "group", "main"]

COMMANDS: Final = {
    "accounts": "budgets: list, show, create, deposit, audit",
    "advise": "does routing pay for the traffic in a log?",
    "agent": "sell one seller to other markets, over the quote protocol",
    "completion": "tab completion for bash, zsh or fish",
    "demo": "a market of simulated sellers, in half a minute",
    "doctor": "find what is wrong here, and say the fix",
    "export": "what orders came to, in the columns that train reads",
    "keys": "access keys: create, list, remove",
    "plan": "the cheapest feasible plan of a batch, with its proof",
    "prices": "what every model costs today, and since when",
    "quote": "ask all sellers for a price; nothing is spent",
    "replay": "yesterday's traffic under another configuration",
    "report": "what orders cost, and the regret against hindsight",
    "run": "execute a batch within the limits; resumable",
    "serve": "the market over HTTP: OpenAI's and Anthropic's APIs, quotes, orders",
    "train": "learn quality estimates from recorded outcomes",
}
"""Subcommand → what it answers."""


class _Lazy(click.Group):
    """Knows its commands by name and imports none to say so."""

    def list_commands(self, context: click.Context) -> list[str]:
        return sorted(COMMANDS)

    def get_command(self, context: click.Context, name: str) -> click.Command | None:
        if name not in COMMANDS:
            return None
        command = importlib.import_module(f"negotiator.cli.{name}").command
        assert isinstance(command, click.Command)
        return command

    def resolve_command(
        self, context: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        close = get_close_matches(args[0], COMMANDS, n=1)
        if args[0] not in COMMANDS and close:
            context.fail(f"No such command {args[0]!r}. Did you mean {close[0]!r}?")
        return super().resolve_command(context, args)

    def format_commands(self, context: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, COMMANDS[name]) for name in self.list_commands(context)])


@click.command(cls=_Lazy, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="negotiator")
def group() -> None:
    """Buy language-model calls at a market: live quotes, the cheapest assignment within all limits, a ledger that
    cannot overspend.

    Without a configuration every command trades with simulated sellers, and says so.

    Example: negotiator quote "What is 2+2?" --budget-usd 0.001
    """


def main() -> None:
    """Entry point: errors of the user's are one line on stderr and exit code 1; wrong usage is 2."""
    try:
        sys.exit(group.main(prog_name="negotiator", standalone_mode=False) or 0)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except click.Abort:
        click.echo("interrupted", err=True)
        sys.exit(130)
    except NegotiatorError as error:
        click.echo(f"negotiator: {error}", err=True)
        sys.exit(1)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
