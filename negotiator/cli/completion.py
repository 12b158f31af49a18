"""``negotiator completion``: tab completion for a shell."""

from __future__ import annotations

from typing import Final

import click
from click.shell_completion import get_completion_class

__all__ = ["command"]

VARIABLE: Final = "_NEGOTIATOR_COMPLETE"


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def command(shell: str) -> None:
    """Print what makes SHELL complete commands and options; the shell reads it at its start.

    Example: negotiator completion bash > ~/.local/share/bash-completion/completions/negotiator
    """
    from negotiator.cli import group

    made = get_completion_class(shell)
    assert made is not None, shell
    click.echo(made(group, {}, "negotiator", VARIABLE).source())
