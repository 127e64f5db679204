"""What a user can mend: one class, with its exit code, for each way a command can end (docs/cli.md)."""

import difflib
import errno
from collections.abc import Iterable

INTERRUPTED = 130  # the exit code of Ctrl-C where there is nothing to save


class PctoolError(Exception):
    """A problem a user can fix; InputError, WriteError and all the others are such.

    The message says, in one line: what, what was allowed, what to do. `code` is the exit code of the command line.
    """

    code = 1
    said: bool | None = None  # where several processes are one run: True if another one prints it, False if this must


class InputError(PctoolError):
    """Bad usage or bad input: an unknown name, a file in another format, a value out of range."""

    code = 2


class NonFiniteError(PctoolError):
    """Training produced a NaN or an infinity; the message names the step and the tensor."""

    code = 3


class MissingError(PctoolError):
    """Data or weights that are not here and cannot be fetched."""

    code = 4


class WriteError(PctoolError):
    """A file could not be written; the message names path, bytes and reason."""

    code = 5


class PartialError(PctoolError):
    """The work was done in part: something was skipped, or a collapse stopped the run, saved. The message says what."""

    code = 6


class SavedInterrupt(PctoolError):
    """Interrupted with the state saved: the same command continues."""

    code = 75


def is_out_of_memory(error: BaseException) -> bool:
    """Whether there was not enough memory; torch has no class of its own for the machine's."""
    if isinstance(error, RuntimeError):
        return any(words in str(error) for words in ("t allocate memory", "out of memory", "bad_alloc"))
    return isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno == errno.ENOMEM)


def did_you_mean(wrong: str, known: Iterable[str]) -> str:
    """The end of a message: `; did you mean NAME?` with the closest of what is known, "" where none is close."""
    near = difflib.get_close_matches(wrong, known, 1)
    return f"; did you mean {near[0]}?" if near else ""
