"""Examples of the help, next steps, and defaults of all options."""

from __future__ import annotations

import shlex

import pytest
import typer
from typer.testing import CliRunner

from shutterless.workflows.cli import load_app
from shutterless.workflows.commands.guide import EXAMPLES, suggest

COMMANDS = typer.main.get_command(load_app()).commands


@pytest.mark.parametrize("name", COMMANDS)
def test_examples_of_a_command_are_understood_and_stand_in_its_help(name):
    help_text = CliRunner().invoke(load_app(), [*name.split(), "--help"]).output
    for line in EXAMPLES[name]:
        assert f"\n    {line}\n" in help_text
        assert line.startswith(f"shutterless {name}")
        COMMANDS[name].make_context(name, shlex.split(line)[1 + len(name.split()) :])


@pytest.mark.parametrize("name", COMMANDS)
def test_help_names_the_default_of_every_option_that_takes_a_value(name):
    command = COMMANDS[name]
    command.get_params(command.make_context(name, ["--help"], resilient_parsing=True))
    silent = [
        option.opts[-1]
        for option in command.params
        if option.param_type_name == "option" and not option.required and not option.is_flag
        and not option.multiple and option.default is None
        and not any(word in option.help.lower() for word in ("default", "if left out", "kept in", "need hold only"))
    ]  # fmt: skip
    assert silent == []


def test_next_steps_are_commands_or_words(capsys):
    suggest(("search", "FILES", "--out", "a b"), "open the page")
    assert capsys.readouterr().err == "next: shutterless search FILES --out 'a b'; or open the page\n"
    suggest("open the page", quiet=True)
    assert capsys.readouterr().err == ""
