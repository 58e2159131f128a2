"""What must hold between the plain fields of a scenario."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from psgdsim.scenario.document import Path


def broken_rules(values: Mapping[str, Any]) -> list[tuple[Path, str]]:
    """Return what is wrong between a scenario's plain fields, whether or not its other fields are valid.

    Args:
        values: the fields by name; absent ones count as null.

    Returns:
        For each problem the path to blame and the message.
    """
    return [*_broken_row_rules(values), *_broken_stop_rules(values)]


def _broken_row_rules(values: Mapping[str, Any]) -> Iterator[tuple[Path, str]]:
    rows, global_rows, ranks = (values.get(key) for key in ("batch_size", "global_batch_size", "world_size"))
    if rows is not None and global_rows is not None:
        yield ("global_batch_size",), "expected either batch_size or global_batch_size; got both"
    if rows is None and global_rows is None:
        yield (
            ("batch_size",),
            "required: rows per rank and step (or global_batch_size: rows per step over all ranks)",
        )
    if isinstance(global_rows, int) and isinstance(ranks, int) and 0 < global_rows < ranks:
        yield ("global_batch_size",), f"expected at least one row per rank, {ranks}; got {global_rows}"


def _broken_stop_rules(values: Mapping[str, Any]) -> Iterator[tuple[Path, str]]:
    has_stop = any(values.get(key) is not None for key in ("epochs", "max_steps", "max_time"))
    has_target = values.get("target_accuracy") is not None
    evaluate = values.get("evaluate")
    every = evaluate.get("every", "") if isinstance(evaluate, Mapping) else getattr(evaluate, "every", "")
    if not has_stop and not has_target:
        yield ("epochs",), "required: when to stop; give epochs, max_steps or max_time"
    if not has_stop and has_target:
        yield (
            ("target_accuracy",),
            "needs a bound for a run that never gets there: epochs, max_steps or max_time",
        )
    if has_target and every is None:
        yield (
            ("evaluate",),
            "target_accuracy needs evaluations that look for it, such as {every: 1 epoch}; got null",
        )
