"""`psgdsim show`: pictures of what a scenario describes, without running it."""

from __future__ import annotations

from dataclasses import asdict
from itertools import permutations
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from psgdsim.cli import output
from psgdsim.errors import PsgdsimError, ScenarioError

if TYPE_CHECKING:
    from psgdsim.report.topology import RouteRow
    from psgdsim.topologies.base import Topology

MAX_ROUTES = 64
"""Routes that are printed unless a rank is named."""

app = typer.Typer(help="Draw what a scenario describes, without running it.", no_args_is_help=True)


@app.callback()
def show() -> None:
    """Keep `topology` a command of its own while it is the only one."""


@app.command()
def topology(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A scenario file (YAML).")],
    *,
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="The picture: .png, .svg or .pdf; by default NAME-topology.png.")
    ] = None,
    src: Annotated[int | None, typer.Option("--from", metavar="RANK", help="Print the routes from this rank.")] = None,
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Change the scenario, such as topology.k=8; repeatable."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, and nothing else, to standard output.")] = False,
) -> None:
    """Draw the network of a scenario, and print its routes."""
    from psgdsim.report.topology import routes
    from psgdsim.scenario import load
    from psgdsim.scenario.experiment import network

    scenario = load(file, overrides or [])
    ranks = scenario.num_ranks
    if src is not None and not 0 <= src < ranks:
        raise ScenarioError(f"--from: expected a rank, 0 to {ranks - 1}; got {src}")
    built = network(scenario).build(ranks)
    pairs = permutations(range(ranks), 2) if src is None else ((src, dst) for dst in range(ranks) if dst != src)
    total = ranks * (ranks - 1) if src is None else ranks - 1
    shown = routes(built, (pair for pair, _ in zip(pairs, range(MAX_ROUTES if src is None else total), strict=False)))
    picture = out or Path(f"{scenario.name}-topology.png")
    _draw(built, ranks, f"{scenario.name}: {scenario.topology.kind}, {ranks} ranks", picture)
    if as_json:
        output.print_json(_document(scenario.topology.kind, built, shown, picture))
        return
    sizes = f"{len(built.hosts)} hosts, {len(built.links)} links"
    typer.echo(f"{scenario.topology.kind}: {ranks} ranks; {sizes}, multicast {built.multicast}")
    for row in shown:
        typer.echo(f"  {row}")
    if total > len(shown):
        typer.echo(f"  ... {total - len(shown)} more; see those from one rank with --from RANK")
    typer.echo(f"picture: {picture}")


def _draw(topology: Topology, ranks: int, title: str, file: Path) -> None:
    """Write the picture."""
    from psgdsim.report.topology import plot_topology

    axes = plot_topology(topology, ranks, title=title)
    figure: Any = axes.figure
    try:
        figure.savefig(file, dpi=150)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or " ".join(str(error).split())
        raise PsgdsimError(f"{file}: cannot be the picture: {reason}") from None


def _document(kind: str, topology: Topology, rows: list[RouteRow], picture: Path) -> dict[str, Any]:
    """Return the network and the routes as plain data; no limit is null."""

    def plain(row: Any) -> dict[str, Any]:
        values = asdict(row)
        return {**values, "bandwidth": None if row.bandwidth == float("inf") else row.bandwidth}

    return {
        "kind": kind,
        "multicast": topology.multicast,
        "hosts": topology.hosts,
        "switches": topology.switches,
        "links": [plain(link) for link in topology.links],
        "routes": [plain(row) for row in rows],
        "picture": str(picture),
    }
