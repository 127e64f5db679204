"""Which exit code each kind of error becomes (docs/cli.md)."""

from __future__ import annotations

from pctool import errors

EXIT_CODES: dict[type[errors.PctoolError], int] = {
    errors.InputError: 2,
    errors.NonFiniteError: 3,
    errors.MissingError: 4,
    errors.WriteError: 5,
    errors.PartialError: 6,
    errors.SavedInterrupt: 75,
}
INTERRUPTED = 130  # where there is nothing to save


def exit_code(error: BaseException | None) -> int:
    """The exit code of a process that ends with `error`."""
    if error is None:
        return 0
    if isinstance(error, KeyboardInterrupt):
        return INTERRUPTED
    return EXIT_CODES.get(type(error), 1) if isinstance(error, errors.PctoolError) else 1
