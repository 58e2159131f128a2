"""Run folders: everything about a run as plain files, written whole or not at all, and read back as tables.

scenario.yaml   the scenario with every default filled in
summary.json    the run in one page
steps.csv       one row per rank and step
evals.csv       one row per evaluation and model
links.csv       one row per link of the simulated network
link_series.csv one row per span of time and link
trace.json      the timeline, for Perfetto or chrome://tracing
params.npz      the final parameters, by name
log.txt         what was said on the way
"""

from __future__ import annotations

import json
import math
import os
import platform
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from psgdsim import trees
from psgdsim._version import __version__
from psgdsim.errors import PsgdsimError
from psgdsim.report.timeline import chrome_trace
from psgdsim.scenario.experiment import Experiment
from psgdsim.tables import plain_text, read_table, table_text
from psgdsim.trace import ACTIVITIES, LinkBin, LinkReport, Outcome
from psgdsim.whole_files import write_whole

if TYPE_CHECKING:
    import numpy as np

STEP_COLUMNS = ("rank", "step", "time", "loss", "bytes", "staleness", *(f"{name}_s" for name in ACTIVITIES))
EVAL_COLUMNS = ("time", "step", "model", "train_loss", "test_loss", "test_accuracy")
FINAL = ("train_loss", "test_loss", "test_accuracy")

MAX_LINKS = 20
"""So many links, the busiest, are in the summary."""


@dataclass(frozen=True)
class RunResult:
    """A run that has ended.

    Attributes:
        folder: where its files are.
        summary: the content of `summary.json`.
        error: what ended the run, if it failed just now.
    """

    folder: Path
    summary: dict[str, Any]
    error: Exception | None = None

    @cached_property
    def steps(self) -> dict[str, np.ndarray]:
        """The columns of `steps.csv`, one row per rank and step."""
        return read_table(self.folder / "steps.csv")

    @cached_property
    def evals(self) -> dict[str, np.ndarray]:
        """The columns of `evals.csv`, one row per evaluation and model."""
        return read_table(self.folder / "evals.csv")

    @cached_property
    def links(self) -> dict[str, np.ndarray]:
        """The columns of `links.csv`, one row per link of the simulated network."""
        return read_table(self.folder / "links.csv")

    @cached_property
    def link_series(self) -> dict[str, np.ndarray]:
        """The columns of `link_series.csv`: what each link did over time, one row per span of time and link."""
        return read_table(self.folder / "link_series.csv")

    @cached_property
    def params(self) -> dict[str, np.ndarray]:
        """The final parameters by name; those of several models are called `model0/...`, `model1/...`."""
        import numpy as np

        with np.load(self.folder / "params.npz", allow_pickle=False) as archive:
            return dict(archive)


def load_run(folder: str | os.PathLike[str]) -> RunResult:
    """Open a run folder.

    Args:
        folder: as given to `run(out=...)`.

    Raises:
        PsgdsimError: there is no finished run in it.
    """
    path = Path(folder)
    try:
        summary = json.loads((path / "summary.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise PsgdsimError(f"{path}: no run here: expected a folder with summary.json") from None
    except ValueError as error:
        raise PsgdsimError(f"{path / 'summary.json'}: not valid JSON: {error}") from None
    return RunResult(path, summary)


def write_text(path: Path, text: str) -> None:
    """Write a text file whole."""
    write_whole(path, lambda file: file.write(text.encode("utf-8")))


def summarize(
    experiment: Experiment, mode: str, outcome: Outcome, wall: float, compiling: float | None = None
) -> dict[str, Any]:
    """Return what `summary.json` holds.

    Args:
        experiment: what was run.
        mode: `sim` or `real`.
        outcome: what the driver returned.
        wall: seconds on the clock from the valid scenario to the results.
        compiling: how many of them went into compiling, or None if that is not known.
    """
    scenario = experiment.scenario
    rows = [row for report in outcome.reports for row in report.rows]
    steps = experiment.num_steps(rows)
    finals = [row for row in outcome.evals if row["step"] == outcome.evals[-1]["step"]]
    best = max(finals, key=_merit, default=dict.fromkeys(FINAL))
    staleness: Counter[int | float] = Counter()
    for report in outcome.reports:
        staleness.update(report.staleness if report.rank < scenario.world_size else {})
    summary: dict[str, Any] = {
        "status": "completed" if outcome.error is None else "failed",
        "mode": mode,
        **({"way": outcome.way} if outcome.way else {}),
        "scenario": scenario.name,
        "seed": scenario.seed,
        "world_size": scenario.world_size,
        **({"num_servers": experiment.strategy.num_servers} if experiment.strategy.num_servers else {}),
        "steps": steps,
        **({"ended_by": _ended_by(experiment, outcome, steps)} if outcome.error is None else {}),
        "time_s": outcome.time,
        "wall_s": wall,
        "compile_s": compiling,
        "bytes": _bytes(outcome),
        "links": _links(outcome),
        "final": {name: best[name] for name in FINAL},
        "params_sha256": trees.digest(outcome.models) if outcome.models else None,
        "seconds": _seconds(outcome),
        "staleness": experiment.strategy.staleness(staleness),
        "versions": versions(),
    }
    if num_replaced := sum(report.num_replaced for report in outcome.reports):
        summary["skipped_updates"] = num_replaced
    if len(finals) > 1:
        summary["models"] = [{name: row[name] for name in ("model", *FINAL)} for row in finals]
    if outcome.error is not None:
        summary["error"] = {"type": type(outcome.error).__name__, "message": str(outcome.error)}
    summary |= experiment.strategy.summarize(scenario.world_size, rows)
    plain: dict[str, Any] = _finite(summary)
    return plain


def _ended_by(experiment: Experiment, outcome: Outcome, steps: int) -> str:
    """Return the key of the scenario that says why a run that has completed went no further."""
    schedule = experiment.task.schedule
    if schedule.is_target_met(outcome.evals):
        return "target_accuracy"
    if steps < schedule.last_step:
        return "max_time"
    return "max_steps" if schedule.last_step == experiment.scenario.max_steps else "epochs"


def _merit(row: dict[str, Any]) -> tuple[float, float]:
    """Rank a model by its test accuracy, then by its training loss; one that diverged comes last."""
    accuracy, loss = row["test_accuracy"], row["train_loss"]
    return -1.0 if accuracy is None else accuracy, -loss if math.isfinite(loss) else -math.inf


def _finite(value: Any) -> Any:
    """Return plain data with null in place of NaN and infinities, which JSON does not know."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _bytes(outcome: Outcome) -> dict[str, Any]:
    sent = [report.sent_nbytes for report in sorted(outcome.reports, key=lambda report: report.rank)]
    return {
        "sent": sent,
        "total": sum(sent),
        "payload_total": sum(report.payload_nbytes for report in outcome.reports),
        "control_total": sum(report.control_nbytes for report in outcome.reports),
        "relay_total": sum(report.relay_nbytes for report in outcome.reports),
    }


def _links(outcome: Outcome) -> dict[str, Any]:
    """Return the busiest links, those of equal utilisation by what they carried."""
    busiest = sorted(outcome.links, key=lambda link: (-link.utilisation, -link.nbytes))[:MAX_LINKS]
    return {link.name: {"nbytes": link.nbytes, "utilisation": link.utilisation} for link in busiest if link.nbytes}


def _seconds(outcome: Outcome) -> dict[str, float]:
    """Return the mean over ranks of the seconds spent on each activity; they add up to a rank's time."""
    num = max(1, len(outcome.reports))
    return {name: math.fsum(report.seconds[name] for report in outcome.reports) / num for name in ACTIVITIES}


def versions() -> dict[str, str]:
    """Return the versions that a result may depend on."""
    names = ("jax", "jaxlib", "numpy", "optax", "simpy")
    installed = {name: metadata.version(name) for name in names}
    return {
        "psgdsim": __version__,
        "python": platform.python_version(),
        **installed,
        "platform": platform.platform(),
    }


def write_outcome(folder: Path, summary: dict[str, Any], outcome: Outcome, log: Sequence[str]) -> None:
    """Write everything but `scenario.yaml`.

    `summary.json` is there first, as that of a failed run, and says how the run ended only when all the rest is
    written: a disk that fills up leaves a folder that says so.
    """
    import numpy as np

    incomplete = {"type": "OSError", "message": "the files of this run could not all be written"}
    _write_summary(folder, {**summary, "status": "failed", "error": incomplete})
    rows = sorted(
        (row for report in outcome.reports for row in report.rows), key=lambda row: (row["step"], row["rank"])
    )
    write_text(folder / "steps.csv", table_text(STEP_COLUMNS, rows))
    write_text(folder / "evals.csv", table_text(EVAL_COLUMNS, outcome.evals))
    write_text(folder / "links.csv", plain_text(LinkReport._fields, outcome.links))
    write_text(folder / "link_series.csv", plain_text(LinkBin._fields, outcome.link_bins))
    timeline = chrome_trace(outcome.reports, outcome.network_events, summary["world_size"])
    write_text(folder / "trace.json", json.dumps(timeline))
    if outcome.models:
        named = dict(_named_params(outcome.models))
        write_whole(folder / "params.npz", lambda file: np.savez(file, **named))
    write_text(folder / "log.txt", "".join(f"{line}\n" for line in log))
    _write_summary(folder, summary)


def _write_summary(folder: Path, summary: dict[str, Any]) -> None:
    write_text(folder / "summary.json", json.dumps(summary, indent=2, allow_nan=False, default=str) + "\n")


def _named_params(models: Sequence[Any]) -> list[tuple[str, Any]]:
    if len(models) == 1:
        return trees.named_leaves(models[0])
    return [(f"model{i}/{name}", leaf) for i, model in enumerate(models) for name, leaf in trees.named_leaves(model)]
