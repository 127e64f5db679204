"""Which exit code an error becomes (docs/cli.md)."""

from __future__ import annotations

import errno

from pctool.errors import INTERRUPTED, InputError, MissingError, PctoolError, is_out_of_memory

OS_ERRORS = {  # met where no module had a better word for them
    errno.ENAMETOOLONG: (2, "give a shorter name"),
    errno.EACCES: (2, "allow it, or name another place"),
    errno.EPERM: (2, "allow it, or name another place"),
    errno.ELOOP: (2, "name what the links should lead to"),
    errno.EISDIR: (2, "a file should be there; move the folder away"),
    errno.EMFILE: (5, "raise ulimit -n"),
    errno.ENOTDIR: (2, "name a folder, or a file within one"),
    errno.EROFS: (5, "the output could not be written; choose another place"),
    errno.ENOSPC: (5, "the output could not be written; free space"),
    errno.EDQUOT: (5, "the output could not be written; free space"),
    errno.EIO: (5, "the output could not be written; check the device"),
    errno.ESTALE: (5, "the file system went away for a moment; run the same command again"),
}


def exit_code(error: BaseException | None) -> int:
    """The exit code of a process that ends with `error`."""
    if error is None:
        return 0
    if isinstance(error, KeyboardInterrupt):
        return INTERRUPTED
    if isinstance(error, ImportError) and _is_missing(error):
        return MissingError.code
    if is_out_of_memory(error):
        return InputError.code
    if isinstance(error, OSError) and error.errno in OS_ERRORS:
        return OS_ERRORS[error.errno][0]
    return error.code if isinstance(error, PctoolError) else 1


def _is_missing(error: ImportError) -> bool:
    """Whether a package is not here, or a library of one does not load, as for want of memory; else it is a bug."""
    another = isinstance(error, ModuleNotFoundError) and (error.name or "").split(".")[0] != "pctool"
    return another or ".so" in str(error) or str(error.path).endswith(".so")
