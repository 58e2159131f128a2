"""One entry for both modes: a scenario in, a run folder out."""

from __future__ import annotations

import os
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

from psgdsim import results, scenario
from psgdsim.compilation import compile_clock, use_cache_on_disk
from psgdsim.errors import PeerLost, PsgdsimError, RankFailed, ScenarioError, StrategyError
from psgdsim.results import RunResult
from psgdsim.scenario import Scenario
from psgdsim.scenario.experiment import Experiment, build
from psgdsim.trace import Outcome, Progress

Mode = Literal["sim", "real"]


def run(
    source: Scenario | Mapping[str, Any] | str | os.PathLike[str],
    *,
    mode: Mode = "sim",
    out: str | os.PathLike[str] | None = None,
    overrides: str | Sequence[str] = (),
    seed: int | None = None,
    progress: Progress | None = None,
    announce: Callable[[str], None] | None = None,
    check: bool = True,
) -> RunResult:
    """Run a scenario and write its run folder.

    Args:
        source: a scenario, the path of a scenario file, or a mapping with a file's content.
        mode: `sim`, in virtual time; `real`, as processes over TCP.
        out: the run folder; must not hold a run already. By default `runs/NAME-MODE-TIMESTAMP`.
        overrides: a change such as `"strategy.redundancy=3"`, or several, applied before validation.
        seed: replaces the scenario's seed.
        progress: told after every step of the first rank that leads.
        announce: takes what the user should know at once, such as where workers started by hand are awaited.
        check: whether to raise if the run fails; its folder is written either way.

    Returns:
        The run, read from its folder.

    Raises:
        ScenarioError: the scenario is not valid, or has changes or faults in real mode; nothing was started or written.
        PsgdsimError: the run failed.

    Example:
        >>> import psgdsim, tempfile
        >>> tiny = {"name": "tiny", "world_size": 2, "batch_size": 1, "max_steps": 3,
        ...         "model": {"kind": "quadratic", "dim": 2}, "data": {"kind": "none"},
        ...         "optimizer": {"kind": "sgd", "learning_rate": 0.1}, "strategy": {"kind": "all_reduce"},
        ...         "topology": {"kind": "star", "bandwidth": "1 Gbit/s", "latency": "50 us"}}
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     psgdsim.run(tiny, out=folder + "/run").summary["steps"]
        3
    """
    if mode not in ("sim", "real"):
        raise PsgdsimError(f"mode: expected 'sim' or 'real'; got {mode!r}")
    given = [overrides] if isinstance(overrides, str) else overrides
    changes = [*given, *([] if seed is None else [f"seed={seed}"])]
    resolved = _read(source, changes)
    if mode == "real":
        _refuse_what_is_only_simulated(resolved)
    folder = _choose_folder(resolved.name, mode, out)
    started = time.perf_counter()
    use_cache_on_disk()
    compiled_before = compile_clock().seconds
    experiment = build(resolved, clock=time.perf_counter)
    _make(folder)
    _save(folder, lambda: results.write_text(folder / "scenario.yaml", scenario.dump(experiment.scenario)))
    log: list[str] = []

    def say(line: str) -> None:
        log.append(line)
        if announce is not None:
            announce(line)

    try:
        outcome = _drive(experiment, mode, progress, log.append, say)
    except ScenarioError:  # nothing was started
        (folder / "scenario.yaml").unlink()
        folder.rmdir()
        raise
    if outcome.error is None:
        outcome.error = _disagreement(experiment, mode, outcome) or _early_end(experiment, outcome)
    elif isinstance(outcome.error, PeerLost | RankFailed) and not experiment.strategy.survives_loss:
        kind, why = experiment.scenario.strategy.kind, experiment.strategy.needs_all
        outcome.error.add_note(f"strategy {kind!r} cannot go on without a rank: {why}")
    summary = results.summarize(
        experiment,
        mode,
        outcome,
        time.perf_counter() - started,
        compile_clock().seconds - compiled_before if mode == "sim" else None,
    )
    lines = [*log, *_eval_lines(outcome), *_traceback(outcome.error)]
    _save(folder, lambda: results.write_outcome(folder, summary, outcome, lines))
    if check and outcome.error is not None:
        outcome.error.add_note(f"what the run had is in {folder}")
        raise outcome.error
    return RunResult(folder, summary, outcome.error)


def _read(source: Scenario | Mapping[str, Any] | str | os.PathLike[str], changes: Sequence[str]) -> Scenario:
    if isinstance(source, Scenario):
        return scenario.loads(scenario.dump(source), overrides=changes) if changes else source
    if isinstance(source, Mapping):
        return scenario.from_dict(source, overrides=changes)
    return scenario.load(Path(source), overrides=changes)


def _refuse_what_is_only_simulated(resolved: Scenario) -> None:
    for key in ("changes", "faults"):
        if getattr(resolved, key):
            raise ScenarioError(
                f"{key}: real mode cannot carry these out; got {len(getattr(resolved, key))} in scenario "
                f"{resolved.name!r}: use --mode sim, or --set {key}=[]"
            )


def _choose_folder(name: str, mode: str, out: str | os.PathLike[str] | None) -> Path:
    stamp = datetime.now().astimezone().strftime("%Y%m%d-%H%M%S-%f")[:-3]
    folder = Path("runs") / f"{name}-{mode}-{stamp}" if out is None else Path(out)
    try:
        is_taken = folder.exists() and any(folder.iterdir())
    except OSError as error:
        raise PsgdsimError(f"{folder}: cannot be the run folder: {error.strerror}") from None
    if is_taken:
        raise PsgdsimError(f"{folder}: not empty; a run never overwrites: choose another --out or remove it")
    return folder


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise PsgdsimError(f"{folder}: cannot be the run folder: {error.strerror}") from None


def _save(folder: Path, write: Callable[[], None]) -> None:
    try:
        write()
    except OSError as error:
        raise PsgdsimError(f"{folder}: what the run had cannot be written: {error.strerror}") from None


def _drive(
    experiment: Experiment,
    mode: Mode,
    progress: Progress | None,
    log: Callable[[str], None],
    announce: Callable[[str], None],
) -> Outcome:
    if mode == "sim":
        from psgdsim.sim.driver import hint, run_sim

        if (advice := hint(experiment)) is not None:
            announce(advice)
        return run_sim(experiment, progress)

    from psgdsim.real.coordinator import run_real

    return run_real(experiment, scenario.dump(experiment.scenario), progress=progress, log=log, announce=announce)


def _disagreement(experiment: Experiment, mode: Mode, outcome: Outcome) -> StrategyError | None:
    """Return an error if ranks that should hold the same parameters do not."""
    if mode == "sim" and experiment.scenario.execution == "batched":
        return None  # replicas that were computed in different batches may differ by rounding
    replicas = experiment.strategy.replicas(experiment.world_size)
    digests = {report.rank: report.digest for report in outcome.reports if report.rank in replicas}
    odd = [rank for rank, digest in digests.items() if digest != digests[replicas[0]]]
    if not odd:
        return None
    first = replicas[0]
    return StrategyError(
        f"rank {odd[0]} ends with other parameters than rank {first} (sha256 {digests[odd[0]][:12]}... against "
        f"{digests[first][:12]}...), which this strategy rules out; the machines' arithmetic differs"
    )


def _early_end(experiment: Experiment, outcome: Outcome) -> StrategyError | None:
    """Return an error if the programs ended although no stop rule says so."""
    schedule = experiment.task.schedule
    steps = experiment.num_steps([row for report in outcome.reports for row in report.rows])
    if steps and (schedule.max_time is not None or schedule.is_target_met(outcome.evals)):
        return None
    if steps >= schedule.last_step:
        return None
    return StrategyError(
        f"the strategy's programs ended after step {steps} of {schedule.last_step:g}; a program ends every step with "
        "node.checkpoint and goes on until that says no"
    )


def _traceback(error: Exception | None) -> list[str]:
    """Return the lines that say where an unforeseen error came from."""
    if error is None or error.__cause__ is None:
        return []
    return "".join(traceback.format_exception(error.__cause__)).splitlines()


def _eval_lines(outcome: Outcome) -> list[str]:
    return [
        f"{row['time']:.6f} s  step {row['step']}  model {row['model']}  "
        + "  ".join(f"{name} {row[name]:.6g}" for name in results.FINAL if row[name] is not None)
        for row in outcome.evals
    ]
