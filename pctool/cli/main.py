"""The `pctool` program: its commands, and the one place where an error becomes an exit code."""

from __future__ import annotations

import importlib.metadata
import logging
import os
import re
import signal
import sys
from typing import Annotated, Any

import typer

from pctool import errors
from pctool.cli import data, doctor, evaluate, export, fit_poly, report, spectrum, study, train
from pctool.cli.console import note, outlive_readers
from pctool.cli.exit_codes import OS_ERRORS, exit_code


def _show_version(wanted: bool) -> None:
    if wanted:
        try:
            print(f"pctool {importlib.metadata.version('pctool')}")
        except importlib.metadata.PackageNotFoundError:
            print("pctool, not installed, from its source")
        raise typer.Exit


app = typer.Typer(
    name="pctool",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Preconditioning for GAN discriminators: fit a polynomial, train with it, look at the spectra, "
    "score the result.\n\nExample: pctool train --preset demo",
)


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and stop.", callback=_show_version, is_eager=True)
    ] = False,
) -> None:
    pass


app.command("fit-poly")(fit_poly.fit_poly)
app.command("train")(train.train)
app.add_typer(study.app, name="study")
app.command("spectrum")(spectrum.spectrum)
app.command("eval")(evaluate.evaluate)
app.command("report")(report.report)
app.command("export")(export.export)
app.add_typer(data.app, name="data")
app.command("doctor")(doctor.doctor)


logging.getLogger("matplotlib").setLevel(logging.ERROR)  # where HOME cannot be written it says so, and draws


def run(arguments: list[str] | None = None) -> int:
    """Runs one command and returns its exit code; what a user can mend becomes one line on stderr."""
    arguments = [_expanded(each) for each in (sys.argv[1:] if arguments is None else arguments)]
    follows = _follows(arguments)
    for name in [each for each in os.environ if each.startswith("PCTOOL_")]:
        os.environ[name] = _expanded(os.environ[name])
    os.environ["MPLBACKEND"] = "agg"  # a notebook's names one that is not here; figures are files alone
    try:
        _check_folder()
        result: Any = app(arguments, prog_name="pctool", standalone_mode=False)
    except errors.PctoolError as error:
        # Before the processes of a run have met, what refuses the command on one refuses it on all.
        said = follows and isinstance(error, errors.InputError) if error.said is None else error.said
        return exit_code(error) if said else _fail(str(error), exit_code(error))
    except typer.TyperException as error:  # a usage error: an unknown option, a value that does not parse
        message = error.format_message().replace("Value error, ", "")  # pydantic's words for a wrong choice
        if follows or not message:  # a group called without a command has printed its help
            return 2
        context, param = getattr(error, "ctx", None), getattr(error, "param", None)
        source = context.get_parameter_source(param.name) if context and param else None
        if param and source and source.name == "ENVIRONMENT":
            message = message.replace(f"'{param.opts[0]}'", param.envvar)
        return _fail(
            f"{message.rstrip('.')}{_near(message)}; see '{context.command_path if context else 'pctool'} --help'", 2
        )
    except KeyboardInterrupt:  # before a command began
        result = errors.INTERRUPTED
    except (ImportError, OSError, MemoryError, RuntimeError) as error:
        return _fail(*_of_the_system(error))
    if result == errors.INTERRUPTED:  # Typer has turned a KeyboardInterrupt into this code
        return _fail("interrupted", errors.INTERRUPTED)
    return result if isinstance(result, int) else 0


def _expanded(argument: str) -> str:
    """A path from `~` on where the shell left it, as behind `--out=`."""
    option, path = re.fullmatch(r"(--[\w-]+=)?(.*)", argument, re.DOTALL).groups()  # type: ignore[union-attr]
    return (option or "") + (os.path.expanduser(path) if path == "~" or path.startswith("~/") else path)


def _check_folder() -> None:
    try:
        os.getcwd()
    except FileNotFoundError:
        raise errors.InputError("the current folder was deleted; change to another") from None


def _of_the_system(error: Exception) -> tuple[str, int]:
    """What to say of an error that no module had a better word for, and its exit code; raises what is a bug."""
    code = exit_code(error)
    if code == 1:
        raise error
    if isinstance(error, ImportError):
        return f"{error}; 'pctool doctor' says what is missing; too small a limit on memory does this too", code
    if isinstance(error, OSError) and error.errno in OS_ERRORS:
        what = OS_ERRORS[error.errno][1]
        return f"{f'{error.filename}: ' if error.filename else ''}{error.strerror}: {what}", code
    return "not enough memory for this; ask for less, as by a smaller batch or file, or raise the limit (ulimit)", code


def _near(message: str) -> str:
    """What was meant, where a usage error names a value and the choices there are."""
    given, _, choices = message.partition(" is not one of ")
    value = re.search(r"'([^']*)'$", given)
    return errors.did_you_mean(value[1], re.findall(r"'([^']*)'", choices)) if value else ""


def _follows(arguments: list[str]) -> bool:
    """Whether this is a process of a run by torchrun or srun, and not the first, which speaks for all."""
    from pctool.training.placement import placement

    if arguments[:1] != ["train"]:
        return False
    try:
        place = placement(os.environ)
    except errors.InputError:  # a contradicting environment: `train` refuses it, aloud
        return False
    return place is not None and place[0] > 0


def _fail(message: str, code: int) -> int:
    note(f"pctool: {' '.join(message.split())}")
    return code


def main() -> None:
    """The console script."""
    outlive_readers()
    code = run()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # it is decided: an impatient Ctrl-C does not change it any more
    sys.exit(code)
