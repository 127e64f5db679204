"""`python -m pctool` is `pctool`."""

from pctool.cli.main import main

if __name__ == "__main__":
    main()
