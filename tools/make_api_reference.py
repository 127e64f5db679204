"""Writes docs/api.md from the docstrings of what `import pctool` offers: python tools/make_api_reference.py."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pctool

TARGET = Path(__file__).parent.parent / "docs" / "api.md"


def reference() -> str:
    """The page: every public name with its signature and docstring; of classes the public methods too."""
    lines = ["# In Python", "", "Made by `python tools/make_api_reference.py` from the docstrings.", ""]
    for name in sorted(pctool.__all__, key=str.lower):
        thing = getattr(pctool, name)
        if not callable(thing):
            lines += [f"## pctool.{name}", "", f"{type(thing).__name__}: {', '.join(map(repr, thing))}.", ""]
            continue
        if inspect.isclass(thing) and issubclass(thing, Exception):
            lines += [f"## pctool.{name}", "", inspect.cleandoc(thing.__doc__ or ""), ""]
            continue
        lines += _entry(f"## pctool.{name}", thing)
        if inspect.isclass(thing):
            for method, function in vars(thing).items():
                if not method.startswith("_") and (callable(function) or isinstance(function, classmethod)):
                    lines += _entry(f"### {name}.{method}", getattr(thing, method))
    return "\n".join(lines)


class _Bare:
    """Shown in a signature without quotes."""

    def __init__(self, text: str) -> None:
        self.text = text

    def __repr__(self) -> str:
        return self.text


def _entry(title: str, thing: Callable[..., Any]) -> list[str]:
    signature = inspect.signature(thing)
    parameters = [
        p.replace(annotation=_bare(p.annotation), default=_named(p.default)) for p in signature.parameters.values()
    ]
    shown = signature.replace(parameters=parameters, return_annotation=_bare(signature.return_annotation))
    return [title, "", f"    {title.rsplit('.', maxsplit=1)[-1]}{shown}", "", inspect.cleandoc(thing.__doc__ or ""), ""]


def _bare(annotation: Any) -> Any:
    return _Bare(annotation) if isinstance(annotation, str) else annotation


def _named(default: Any) -> Any:
    """A published polynomial by its name."""
    if isinstance(default, tuple) and default and isinstance(default[0], pctool.OddPolynomial):
        return tuple(map(_named, default))
    names = {g: _Bare(f"PUBLISHED[{degree}]") for degree, g in pctool.PUBLISHED.items()}
    return names.get(default, default) if isinstance(default, pctool.OddPolynomial) else default


if __name__ == "__main__":
    TARGET.write_text(reference(), encoding="utf-8")
