"""The reference of the commands in Markdown, from the application that answers ``shutterless --help``."""

from __future__ import annotations

import re
from typing import Any

import typer

from shutterless.workflows import cli


def command_reference() -> str:
    """Every command in the order of ``--help``: what it does, how it is called, its arguments and options."""
    group = typer.main.get_command(cli.app)
    return "\n\n".join(_describe_command(name, group.commands[name]) for name in group.list_commands(None))


def _describe_command(name: str, command: Any) -> str:
    context = command.context_class(command, info_name=f"shutterless {name}")
    usage = command.get_usage(context).removeprefix("Usage: ")
    options = [_describe_parameter(p, context) for p in command.get_params(context) if p.name != "help"]
    return "\n\n".join([f"## {name}", _escape(command.help), f"```text\n{usage}\n```", *options])


def _describe_parameter(parameter: Any, context: Any) -> str:
    """One entry of a definition list: how it is written, what it means, its default."""
    written, meaning = parameter.get_help_record(context)
    text, default, *_ = [*re.split(r"\s*\[(?:default: (.*)|required)\]$", meaning), None]
    note = f" Default: `{default}`." if default else ""
    note = " Required." if meaning.endswith("[required]") else note
    return f"`{written}`\n: {_escape(text)}{note}"


def _escape(text: str) -> str:
    """Plain text as Markdown that shows it unchanged, but for what stands between backticks."""
    pieces = re.split(r"(`[^`]*`)", " ".join(text.split()))
    return "".join(piece if piece.startswith("`") else re.sub(r"([*_<>\[\]$|])", r"\\\1", piece) for piece in pieces)
