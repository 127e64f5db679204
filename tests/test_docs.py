"""Every command in README, docs and help parses today: its options exist, its values are of their kind, and each
`train` line resolves to a configuration."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import typer
import typer.main

from pctool.cli import main
from pctool.core.layers.strength import Ladder
from pctool.core.polynomial import PUBLISHED
from pctool.core.polynomial_file import dump, ladder_file

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
COMMAND = re.compile(r"(?:^|[ (])pctool (?P<arguments>[a-z].*)")
PLACEHOLDERS = {"N": "1", "MINUTES": "60", "...": "", "[OPTIONS]": ""}


def lines(page: Path) -> list[tuple[str, bool]]:
    """What may be a command: the lines of indented blocks (True), and what stands between backticks (False)."""
    text = re.sub(r"\\\n +", " ", page.read_text(encoding="utf-8"))
    blocks = [(line, True) for line in re.findall(r"^ {4}(.*)$", text, flags=re.MULTILINE)]
    return blocks + [(span, False) for span in re.findall(r"`([^`\n]+)`", text)]


def commands(page: Path) -> list[tuple[list[str], bool]]:
    """The arguments of every pctool command of a page, and whether it should be complete; `a|b` makes two."""
    found = []
    for line, in_block in lines(page):
        if re.match(r"\S+\.py\s", line.strip()):  # the README's list of modules
            continue
        match = COMMAND.search(re.split(r"\s+#|\s{2,}", line.strip())[0])
        if match is None:
            continue
        arguments = match["arguments"].replace("\\|", "|").split("&&")[0]
        words = [PLACEHOLDERS.get(word, word) for word in shlex.split(arguments)]
        words = [word.removesuffix("...").strip("[]") for word in words if word]
        choices = next((word.split("|") for word in words if "|" in word), [""])
        complete = in_block and "[OPTIONS]" not in arguments  # a usage line leaves open which ones are needed
        found += [([choice if "|" in word else word for word in words], complete) for choice in choices]
    return found


PCTOOL = typer.main.get_command(main.app)
ALL = [(page.name, *command) for page in PAGES for command in commands(page)]
TRAIN = {" ".join(words): words for _, words, _ in ALL if words[0] == "train" and "--study" not in words}


def parse(words: list[str]) -> None:
    """Reads the words as the program would, down to the command, and calls nothing. Raises typer.TyperException."""
    command, context, name = PCTOOL, None, "pctool"
    while hasattr(command, "commands"):
        context = command.make_context(name, words, parent=context)
        name, command, words = command.resolve_command(context, [*context._protected_args, *context.args])
    command.make_context(name, words, parent=context)


def is_incomplete(error: typer.TyperException) -> bool:
    """Whether something is only missing, as where prose names a command or an option: `pctool train --poly`."""
    return any(words in str(error) for words in ("Missing parameter", "requires an argument")) or not str(error)


def test_pages_are_read():
    """Each way of writing a command is found: block, backticks, after a launcher, alternatives, with a comment."""
    text = [" ".join(words) for _, words, _ in ALL]
    for line in (
        "train --preset demo",
        "train --dataset cifar10 --out runs/x",
        "data fetch cifar10",
        "data verify NAME",
        "data prepare",
        "study status DIR",
        "spectrum runs/demo --watch",
        "eval runs/x --resizer both --metrics fid,kid,is,pr",
    ):
        assert line in text
    assert len(text) > 90


@pytest.mark.parametrize("page", sorted({page for page, _, _ in ALL}))
def test_every_command_parses(page):
    """No unknown command or option, no value of another kind; in a block nothing is missing."""
    wrong = []
    for _, words, complete in (entry for entry in ALL if entry[0] == page):
        try:
            parse(words)
        except typer.TyperException as error:
            if complete or not is_incomplete(error):
                wrong.append((" ".join(words), str(error)))
    assert wrong == []


@pytest.mark.parametrize(
    "words", [["tarin"], ["train", "--stepz", "1"], ["data", "fetsch", "x"], ["eval", "--n-fake", "x"]]
)
def test_a_mistake_is_noticed(words):
    """A command, an option, a command of a group, a value: none of these mistakes would pass."""
    with pytest.raises(typer.TyperException) as caught:
        parse(words)
    assert not is_incomplete(caught.value)


def test_every_train_command_resolves(tmp_path, monkeypatch, capsys):
    """With --dry-run each ends with 0: presets and recipes are there and contradict nothing, without any data."""
    monkeypatch.chdir(tmp_path)
    PUBLISHED[7].save(Path("pl0.4-deg7.json"))
    Path("ladder.json").write_text(dump(ladder_file(Ladder().taus, Ladder().polynomials)))
    complete = [words for words in TRAIN.values() if words[-1] not in {"--poly", "--ladder", "--eval-every"}]
    assert len(complete) > 6
    for words in complete:
        assert main.run([*words, "--dry-run"]) == 0, (words, capsys.readouterr().err)
