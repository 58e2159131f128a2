"""`python -m psgdsim` is the `psgdsim` command."""

from psgdsim.cli import main

if __name__ == "__main__":
    main()
