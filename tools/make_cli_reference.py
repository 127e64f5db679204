"""Writes docs/cli.md from the commands themselves: python tools/make_cli_reference.py."""

from __future__ import annotations

import inspect
import typing
from pathlib import Path
from typing import Any

import typer

from pctool.cli.main import app
from pctool.errors import PctoolError

TARGET = Path(__file__).parent.parent / "docs" / "cli.md"


def reference() -> str:
    """The page: every command with its help, arguments and options, and the exit codes."""
    root: Any = typer.main.get_command(app)
    lines = [
        "# Command reference",
        "",
        "Made by `python tools/make_cli_reference.py` from the commands themselves.",
        "",
        "Every command takes `--json`: one JSON object on stdout, notes and progress on stderr; what is refused has",
        "its line on stderr, and nothing on stdout (but the checks of `train --preflight`).",
        "`pctool --version` prints the version.",
        "",
    ]
    for name, command in root.commands.items():
        if hasattr(command, "commands"):
            for child_name, child in command.commands.items():
                lines += _command(f"pctool {name} {child_name}", child)
        else:
            lines += _command(f"pctool {name}", command)
    lines += ["## Exit codes", "", "| code | meaning |", "|---|---|", "| 0 | done |"]
    lines.append("| 1 | a bug (traceback), or one of several processes died |")
    for error in PctoolError.__subclasses__():
        lines.append(f"| {error.code} | {(error.__doc__ or '').splitlines()[0]} |")
    lines += ["| 130 | Interrupted where there is nothing to save. |", ""]
    return "\n".join(lines)


def _command(title: str, command: Any) -> list[str]:
    hints = typing.get_type_hints(inspect.unwrap(command.callback))
    arguments = [p for p in command.params if p.param_type_name == "argument"]
    options = [p for p in command.params if p.param_type_name == "option" and p.name != "help"]
    usage = " ".join([title, *[_metavar(p) for p in arguments], "[OPTIONS]"])
    lines = [f"## {title}", "", f"    {usage}", ""]
    for paragraph in (command.help or "").split("\n\n"):
        text = " ".join(paragraph.split())
        lines += [f"    {text.removeprefix('Example: ')}" if text.startswith("Example: ") else text, ""]
    rows = [f"| `{_metavar(p)}` | | {_cell(p.help)} |" for p in arguments]
    rows += [f"| {_names(p)} | {_cell(_kind(hints[p.name]))} | {_cell(p.help)}{_default(p)} |" for p in options]
    return [*lines, "| | | |", "|---|---|---|", *rows, ""]


def _metavar(argument: Any) -> str:
    name = argument.metavar or argument.name.upper()
    return f"{name}..." if argument.nargs == -1 else name


def _names(option: Any) -> str:
    return ", ".join(f"`{name}`" for name in [*option.opts, *option.secondary_opts])


def _kind(hint: Any) -> str:
    """What a value of that type looks like, as a word or as the choices there are."""
    parts = [part for part in typing.get_args(hint) if part is not type(None)]
    if typing.get_origin(hint) is typing.Literal:
        return "\\|".join(map(str, parts))
    if parts:
        return _kind(parts[0])
    return {int: "integer", float: "number", Path: "path", str: "text", bool: ""}[hint]


def _default(option: Any) -> str:
    if option.default in (None, False, True, "*") or callable(option.default) or "default" in (option.help or ""):
        return ""
    return f" (default {option.default})"


def _cell(text: str | None) -> str:
    return " ".join((text or "").split()).replace("|", "\\|").replace("\\\\|", "\\|").replace("<", "&lt;")


if __name__ == "__main__":
    TARGET.write_text(reference(), encoding="utf-8")
    print(f"wrote {TARGET}")
