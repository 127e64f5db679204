"""The `pctool` program, and `python -m pctool`."""

import signal


def main() -> None:
    """Loads the commands and runs one; a Ctrl-C while they load ends the process without a trace."""
    before = signal.signal(signal.SIGINT, signal.SIG_DFL)
    from pctool.cli.main import main as run

    signal.signal(signal.SIGINT, before)
    run()


if __name__ == "__main__":
    main()
