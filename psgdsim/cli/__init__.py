"""The `psgdsim` command: arguments in, text and exit codes out; all work is done below."""

from psgdsim.cli.app import main as main
