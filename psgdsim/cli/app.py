"""The commands. Everything heavy is imported inside them: help and completion must stay light."""

from __future__ import annotations

import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from psgdsim.cli import classic, codecs, output, show
from psgdsim.errors import PsgdsimError, ScenarioError

app = typer.Typer(
    name="psgdsim",
    help="Design parallel SGD: one scenario file, run in a network simulator or for real over TCP.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(show.app, name="show")
app.add_typer(codecs.app, name="codecs")

CANNOT_WRITE = 74
"""The exit code for output that cannot be written (EX_IOERR of sysexits.h)."""

Mode = Literal["sim", "real"]
Files = Annotated[list[Path], typer.Argument(metavar="FILE...", help="Scenario files (YAML).")]
File = Annotated[Path, typer.Argument(metavar="FILE", help="A scenario file (YAML).")]
Overrides = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="KEY=VALUE", help="Change the scenario, such as optimizer.learning_rate=0.1; repeatable."
    ),
]
Plugins = Annotated[
    list[str] | None,
    typer.Option("--plugin", metavar="MODULE", help="Import a module with parts first; repeatable."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, and nothing else, to standard output.")]
Connect = Annotated[str, typer.Option("--connect", metavar="HOST:PORT", help="Where the coordinator listens.")]


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the `psgdsim` command and end the process with its exit code.

    Args:
        arguments: what follows the command's name; by default those of this process.
    """
    # Until a run takes the signal over there is nothing to save: Ctrl-C ends the process at once, and an exception that
    # some library's callback would swallow is never made of it.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    given = list(sys.argv[1:] if arguments is None else arguments)
    is_debugging = "--debug" in given
    try:
        app(args=[argument for argument in given if argument != "--debug"], prog_name="psgdsim")
    except PsgdsimError as error:
        if is_debugging:
            raise
        output.print_error(error)
        sys.exit(error.exit_code)
    except OSError as error:  # what is left is standard output: a full disk, a pipe that nobody reads
        output.give_up_stdout(error)
        sys.exit(CANNOT_WRITE)


def _print_version(is_wanted: bool) -> None:  # noqa: FBT001 - typer calls it so
    if is_wanted:
        from psgdsim._version import __version__

        typer.echo(f"psgdsim {__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
) -> None:
    """Read the options that all commands share."""


@app.command()
def run(
    file: File,
    *,
    mode: Annotated[Mode, typer.Option(help="In virtual time, or as processes over TCP.")] = "sim",
    out: Annotated[Path | None, typer.Option(metavar="DIR", help="The run folder to write.")] = None,
    overrides: Overrides = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Instead of the scenario's seed.")] = None,
    as_json: AsJson = False,
) -> None:
    """Run a scenario and write its run folder."""
    _run(file, mode, out=out, overrides=overrides or [], seed=seed, is_json=as_json)


@app.command()
def check(files: Files, overrides: Overrides = None) -> None:
    """Validate scenario files; load no data and run nothing."""
    from psgdsim.scenario import load

    errors = []
    for file in files:
        try:
            scenario = load(file, overrides or [])
        except ScenarioError as error:
            errors.append(str(error))
        else:
            typer.echo(f"{file}: ok: {scenario.name}, {scenario.num_ranks} ranks, {scenario.strategy.kind}")
    if errors:
        raise ScenarioError("\n".join(errors))


@app.command()
def schema(plugins: Plugins = None) -> None:
    """Print the JSON schema of scenario files, for completion in editors."""
    from psgdsim.scenario import json_schema

    _import(plugins)
    output.print_json(json_schema())


@app.command(name="list")
def list_parts(
    families: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[models|datasets|partitions|strategies|codecs|optimizers|schedules|topologies|compute]...",
            help="What to show; everything by default.",
        ),
    ] = None,
    plugins: Plugins = None,
    as_json: AsJson = False,
) -> None:
    """Show every part that a scenario can name, with its parameters and defaults."""
    from dataclasses import asdict

    from psgdsim.scenario.catalogue import catalogue

    _import(plugins)
    rows = catalogue(families or [])
    if as_json:
        output.print_json([asdict(row) for row in rows])
    else:
        output.print_parts(rows)


@app.command()
def verify(
    subjects: Annotated[
        list[str] | None,
        typer.Argument(metavar="[coded|codecs|execution|network|strategies]...", help="What to verify, if not all."),
    ] = None,
    schedules: Annotated[int, typer.Option(min=1, metavar="N", help="Random schedules for each strategy.")] = 20,
    updates: Annotated[int, typer.Option(min=1000, metavar="N", help="Updates in long runs of strategies.")] = 100_000,
    as_json: AsJson = False,
) -> None:
    """Compute laws and published numbers afresh, and compare."""
    from psgdsim.testing.verify import verify as run_checks

    checks = []
    for check in run_checks(subjects or [], schedules, updates):
        checks.append(check)
        if not as_json:
            output.print_check(check)
    if as_json:
        output.print_json([{**check._asdict(), "is_right": check.is_right} for check in checks])
    wrong = sum(not check.is_right for check in checks)
    if wrong:
        raise PsgdsimError(f"{wrong} of {len(checks)} checks failed")


@app.command()
def worker(connect: Connect) -> None:
    """Join a real run as one rank."""
    from psgdsim.real import worker as real_worker

    _exit(real_worker.main(*split_address(connect)))


@app.command(hidden=True)
def relay(connect: Connect) -> None:
    """Copy multicasts for a real run."""
    from psgdsim.real import relay as real_relay

    _exit(real_relay.main(*split_address(connect)))


@app.command()
def server(
    *,
    node_count: classic.NodeCount,
    batch_size: classic.BatchSize,
    redundancy: classic.Redundancy = 1,
    codec: classic.CodecName = "plain",
    psgd: classic.PsgdName = "ssgd",
    learn_rate: classic.LearnRate = 0.05,
    epochs: classic.Epochs = 1,
    working_ports: classic.Port = 55555,
    block_assignment: classic.BlockAssignment = "iid",
    data: classic.Data = "digits",
    ip: classic.Address = "127.0.0.1",
    out: Annotated[Path | None, typer.Option(metavar="DIR", help="The run folder to write.")] = None,
    as_json: AsJson = False,
) -> None:
    """Wait for clients on other terminals or machines, then train with them: a real run from flags alone."""
    scenario = classic.scenario(
        num_nodes=node_count,
        global_batch_size=batch_size,
        redundancy=redundancy,
        codec=codec,
        psgd=psgd,
        learning_rate=learn_rate,
        epochs=epochs,
        port=working_ports,
        block_assignment=block_assignment,
        data=data,
        host=ip,
    )
    _run(scenario, "real", out=out, overrides=[], seed=None, is_json=as_json)


@app.command()
def client(
    ip: Annotated[str, typer.Option(help="The server's address.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="The server's port.")] = 55555,
) -> None:
    """Join the server's run as one rank."""
    from psgdsim.real import worker as real_worker

    _exit(real_worker.main(ip, port))


def _run(
    scenario: Path | dict[str, Any],
    mode: Mode,
    *,
    out: Path | None,
    overrides: list[str],
    seed: int | None,
    is_json: bool,
) -> None:
    """Run a scenario, show its progress and print its summary; of a failed run too, before its error is raised."""
    from psgdsim.cli.progress import TerminalProgress
    from psgdsim.entry import run as run_scenario

    with TerminalProgress() as progress:
        result = run_scenario(
            scenario,
            mode=mode,
            out=out,
            overrides=overrides,
            seed=seed,
            progress=progress,
            announce=lambda line: typer.echo(line, err=True),
            check=False,
        )
    if is_json:
        output.print_json(result.summary)
    else:
        output.print_summary(result.summary, result.folder)
    if result.error is not None:
        result.error.add_note(f"what the run had is in {result.folder}")
        raise result.error


def _import(modules: Sequence[str] | None) -> None:
    from psgdsim.scenario.families import import_plugin

    for module in modules or []:
        import_plugin(module)


def _exit(code: object) -> None:
    """End with an exit code; None counts as success."""
    if isinstance(code, int) and code:
        raise typer.Exit(code)


def split_address(text: str) -> tuple[str, int]:
    """Return the host and port in `HOST:PORT`; an IPv6 host stands in brackets.

    Raises:
        ScenarioError: it is no such text.

    Example:
        >>> split_address("[::1]:80")
        ('::1', 80)
    """
    host, _, port = text.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    if not host or not port.isdecimal() or not 1 <= int(port) <= 65535:
        raise ScenarioError(f"--connect: expected HOST:PORT, such as 127.0.0.1:55555; got {text!r}")
    return host, int(port)
