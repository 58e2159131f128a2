"""`psgdsim codecs`: what codecs cost and what they lose, measured here."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from psgdsim.errors import PsgdsimError

if TYPE_CHECKING:
    from psgdsim.testing.codec_bench import Measurement

app = typer.Typer(help="Measure codecs on this machine.", no_args_is_help=True)

_HEADER = (
    "codec",
    "bits/value",
    "error",
    "bias",
    "encode GB/s",
    "of copy",
    "decode GB/s",
    "of copy",
    "on link",
    "below",
)


@app.callback()
def codecs() -> None:
    """Keep `bench` a command of its own while it is the only one."""


@app.command()
def bench(
    *,
    dim: Annotated[int, typer.Option(min=1, metavar="D", help="Values of the vector.")] = 2**20,
    specs: Annotated[
        list[str] | None,
        typer.Option(
            "--codec", metavar="SPEC", help="A name, or such as '{kind: top_k, ratio: 0.1}'; repeatable. Default: all."
        ),
    ] = None,
    link: Annotated[str, typer.Option(metavar="BANDWIDTH", help="What to compare with plain values on.")] = "1 Gbit/s",
    json_file: Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Write the numbers there.")] = None,
    picture: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Draw errors against bits: .png, .svg or .pdf.")
    ] = None,
) -> None:
    """Measure bits, errors and speed of codecs on a Gaussian vector; those that look at shapes get it as a matrix.

    GB/s are float32 values that are coded, and `of copy` is that over the speed of a copy in memory. `on link`: how
    many times sooner a message is there than plain float32 values, coding included; `below`: on slower links it is
    sooner.
    """
    from psgdsim.testing.codec_bench import built_in, measure_all, read_codec
    from psgdsim.units import BANDWIDTH

    bandwidth = _bandwidth(link)
    chosen = {spec: read_codec(spec) for spec in (specs or built_in())}
    typer.echo(f"{_HEADER[0]:<40}" + "".join(f"{name:>12}" for name in _HEADER[1:]))
    rows = []
    for row in measure_all(chosen, dim):
        rows.append(row)
        limit = BANDWIDTH.format(float(f"{row.break_even:.3g}")) if row.break_even else "never"
        typer.echo(f"{row.codec:<40}" + "".join(f"{cell:>12}" for cell in (*_cells(row, bandwidth), limit)))
    if json_file is not None:
        _write(json_file, json.dumps([row.document(bandwidth) for row in rows], indent=2) + "\n")
    if picture is not None:
        _draw(rows, picture)


def _bandwidth(text: str) -> float:
    from psgdsim.units import BANDWIDTH

    try:
        return BANDWIDTH.parse(text)
    except ValueError as error:
        raise PsgdsimError(f"--link: {error}") from None


def _cells(row: Measurement, bandwidth: float) -> tuple[str, ...]:
    return (
        f"{row.bits:.4g}",
        f"{row.error:.3g}",
        f"{row.bias:.2g}",
        f"{row.encode_rate / 1e9:.3g}",
        f"{row.copy_time / row.encode_time:.2g}",
        f"{row.decode_rate / 1e9:.3g}",
        f"{row.copy_time / row.decode_time:.2g}",
        f"{row.speedup(bandwidth):.3g} x",
    )


def _write(file: Path, text: str) -> None:
    try:
        file.write_text(text, encoding="utf-8")
    except OSError as error:
        raise PsgdsimError(f"{file}: cannot be written: {error.strerror}") from None


def _draw(rows: list[Measurement], file: Path) -> None:
    from psgdsim.report.codecs import plot_codecs

    figure: Any = plot_codecs({row.codec: (row.bits, row.error) for row in rows}).figure
    try:
        figure.savefig(file, dpi=150)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or " ".join(str(error).split())
        raise PsgdsimError(f"{file}: cannot be the picture: {reason}") from None
