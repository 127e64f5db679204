"""Writes docs/cli.md from the commands themselves: python tools/make_cli_reference.py."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import typer

from pctool.cli.exit_codes import EXIT_CODES
from pctool.cli.main import app

TARGET = Path(__file__).parent.parent / "docs" / "cli.md"


def reference() -> str:
    """The page: every command with its help, arguments and options, and the exit codes."""
    root: Any = typer.main.get_command(app)
    lines = [
        "# Command reference",
        "",
        "Made by `python tools/make_cli_reference.py` from the commands themselves.",
        "",
        "Every command takes `--json`: one JSON object on stdout, notes and progress on stderr.",
        "",
    ]
    for name, command in root.commands.items():
        if hasattr(command, "commands"):
            for child_name, child in command.commands.items():
                lines += _command(f"pctool {name} {child_name}", child)
        else:
            lines += _command(f"pctool {name}", command)
    lines += ["## Exit codes", "", "| code | meaning |", "|---|---|", "| 0 | done |", "| 1 | a bug (traceback) |"]
    for error, code in EXIT_CODES.items():
        lines.append(f"| {code} | {(error.__doc__ or '').splitlines()[0]} |")
    lines += ["| 130 | Interrupted where there is nothing to save. |", ""]
    return "\n".join(lines)


def _command(title: str, command: Any) -> list[str]:
    arguments = [p for p in command.params if p.param_type_name == "argument"]
    options = [p for p in command.params if p.param_type_name == "option" and p.name != "help"]
    usage = " ".join([title, *[f"[{p.make_metavar(None).strip('[]')}]" for p in arguments], "[OPTIONS]"])
    lines = [f"## {title}", "", f"    {usage}", ""]
    for paragraph in (command.help or "").split("\n\n"):
        text = " ".join(paragraph.split())
        lines += [f"    {text.removeprefix('Example: ')}" if text.startswith("Example: ") else text, ""]
    rows = [(f"`{p.name.upper()}`", p.help) for p in arguments] + [(_option(p), p.help) for p in options]
    lines += ["| | |", "|---|---|", *[f"| {left} | {_cell(right)} |" for left, right in rows], ""]
    return lines


def _option(parameter: Any) -> str:
    names = ", ".join([*parameter.opts, *parameter.secondary_opts])
    if parameter.is_flag:
        return f"`{names}`"
    choices = getattr(parameter.type, "choices", None)
    kind = "|".join(str(choice) for choice in choices) if choices else parameter.type.name.upper()
    return f"`{names} {kind}`".replace("|", "\\|")


def _cell(text: str | None) -> str:
    return " ".join((text or "").split()).replace("|", "\\|")


if __name__ == "__main__":
    TARGET.write_text(reference(), encoding="utf-8")
    print(f"wrote {TARGET}")
