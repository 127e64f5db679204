"""The `pctool` program, and `python -m pctool`."""

import os
import signal
import sys


def main() -> None:
    """Loads the commands and runs one; a Ctrl-C while they load ends the process without a trace."""
    while (opened := os.open(os.devnull, os.O_RDWR)) <= 2:  # where a scheduler has closed stdin, stdout or stderr
        os.set_inheritable(opened, True)
    os.close(opened)
    for number, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        if getattr(sys, name) is None:
            stream = open(number, mode)  # noqa: SIM115  # for the life of the process
            setattr(sys, name, stream)
            setattr(sys, f"__{name}__", stream)
    before = signal.signal(signal.SIGINT, signal.SIG_DFL)
    from pctool.cli.main import main as run

    signal.signal(signal.SIGINT, before)
    run()


if __name__ == "__main__":
    main()
