"""What the commands print, and how an error leaves the program."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from psgdsim.scenario.catalogue import ParameterRow, PartRow
    from psgdsim.testing.checks import Check


def print_json(value: Any) -> None:
    """Print a value as indented JSON, and nothing else, to standard output."""
    typer.echo(json.dumps(value, indent=2, ensure_ascii=False))


def print_parts(rows: Iterable[PartRow]) -> None:
    """Print parts with their parameters: a table on a terminal, plain lines in a pipe."""
    if sys.stdout.isatty():
        _print_table(rows)
        return
    family = None
    for row in rows:
        if row.family != family:
            typer.echo(f"{row.family}:")
            family = row.family
        typer.echo(f"  {row.kind}  {row.summary}")
        for parameter in row.parameters:
            typer.echo(f"    {_signature(parameter)}  {parameter.help}".rstrip())


def _signature(parameter: ParameterRow) -> str:
    default = "" if parameter.is_required else f" = {_yaml(parameter.default)}"
    return f"{parameter.name}: {parameter.type}{default}"


def _yaml(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _print_table(rows: Iterable[PartRow]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table("family", "kind", "parameters", "what it is", show_lines=True)
    for row in rows:
        parameters = "\n".join(_signature(parameter) for parameter in row.parameters)
        table.add_row(row.family, Text(row.kind, style="bold"), Text(parameters), Text(row.summary))
    Console().print(table)


def print_summary(summary: Mapping[str, Any], folder: object) -> None:
    """Print the few numbers of a run that one looks at first."""
    final = summary.get("final") or {}
    sent = summary.get("bytes") or {}
    rows = {
        "status": summary.get("status"),
        "mode": summary.get("mode"),
        "simulated": summary.get("way"),
        "time": _seconds(summary.get("time_s")),
        "wall time": _seconds(summary.get("wall_s")),
        "steps": summary.get("steps"),
        "ended by": summary.get("ended_by"),
        "test accuracy": _number(final.get("test_accuracy"), ".4f"),
        "test loss": _number(final.get("test_loss"), ".6g"),
        "train loss": _number(final.get("train_loss"), ".6g"),
        "bytes sent": _number(sent.get("total"), ",d"),
        "folder": folder,
    }
    for name, value in rows.items():
        if value is not None:
            typer.echo(f"{name:<14} {value}")


def _seconds(value: Any) -> str | None:
    return None if value is None else f"{value:.6g} s"


def print_check(check: Check) -> None:
    """Print one line of a verification."""
    verdict = "ok  " if check.is_right else "FAIL"
    error = "exact" if check.error is None else f"{check.error:.1e} of {check.tolerance:.1e}"
    numbers = f"expected {check.expected:<14} got {check.got:<14} error {error:<18}"
    typer.echo(f"{verdict}  {check.name:<48} {numbers} {check.source}")


def _number(value: Any, form: str) -> str | None:
    return None if value is None else format(value, form)


def give_up_stdout(error: OSError) -> None:
    """Say that standard output cannot be written, and forget what is left to write."""
    if not isinstance(error, BrokenPipeError):
        typer.echo(f"cannot write: {error.strerror}", err=True)
    with contextlib.suppress(OSError):
        sys.stdout.close()
    sys.stdout = None


def print_error(error: Exception) -> None:
    """Print an error's message, and the notes that were added to it on its way, to standard error."""
    typer.echo("\n".join([str(error), *getattr(error, "__notes__", [])]), err=True)
