"""What a kernel does to arguments of certain shapes, found out by tracing it once with jax."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from psgdsim.node import Kernel
from psgdsim.sim.execution.memory import Memory
from psgdsim.sim.values import Value

Leaves = Sequence[Any]


@dataclass(frozen=True, eq=False)
class Signature:
    """A kernel with the structure, shapes and dtypes of its arguments.

    Args:
        kernel: which one.
        out_tree: the structure of the result.
        out_avals: shape and dtype of each leaf of the result.
        dynamic: which leaves of the arguments are data that the result depends on.
        plain: which are plain numbers that the kernel must know when it is traced.
        forwards: for each leaf of the result which of the data it is, or None if it is computed.
        program: `(consts, dynamic leaves) -> leaves of the result`, traceable; None for a total of many addends.
        consts: arrays that the kernel closes over.
        data_avals: shape and dtype of the data.
        work_nbytes: about what is in memory while it is computed [byte].
        num_addends: of how many trees a weighted total is taken in one go; 0 for all other kernels.
        objective: for a gradient, how the values whose gradient it is are computed from the same data; None if it is
            none, or if not all of the data that its results are gradients of come first.
        num_carried: how many leading leaves of the arguments have the shapes of the result, so that calls may form a
            chain; 0 if that cannot be.
        out_codes: a number for each leaf of the result that stands for its shape and dtype.
        memory: results of such calls.
    """

    kernel: Kernel
    out_tree: Any
    out_avals: tuple[Any, ...]
    dynamic: tuple[int, ...]
    plain: tuple[int, ...]
    forwards: tuple[int | None, ...]
    program: Callable[[Leaves, Leaves], list[Any]] | None
    consts: tuple[Any, ...] = ()
    data_avals: tuple[Any, ...] = ()
    work_nbytes: int = 0
    num_addends: int = 0
    num_carried: int = 0
    objective: Signature | None = None
    out_codes: tuple[int, ...] = ()
    memory: Memory = field(default_factory=Memory)

    def run(self, consts: Leaves, data: Leaves) -> list[Any]:
        """Compute the leaves of the result, inside a function that is being compiled."""
        assert self.program is not None
        return self.program(consts, data)

    @cached_property
    def is_view(self) -> bool:
        """Whether nothing is computed: the result consists of arguments."""
        return None not in self.forwards

    @cached_property
    def dtypes(self) -> tuple[Any, ...]:
        """The dtypes of the data."""
        return tuple(aval.dtype for aval in self.data_avals)

    @cached_property
    def row_nbytes(self) -> int:
        """The size of one result [byte]."""
        return sum(aval.size * aval.dtype.itemsize for aval in self.out_avals)


def is_data(leaf: Any) -> bool:
    """Whether a leaf is an array or a value, not a plain number or text."""
    return hasattr(leaf, "dtype")


def trace(kernel: Kernel, tree: Any, leaves: Leaves) -> Signature | None:
    """Trace a kernel.

    Args:
        kernel: what to trace.
        tree: the structure of its arguments.
        leaves: their leaves; of arrays and values only shape and dtype matter.

    Returns:
        The signature; None if the function does more than jax can trace, such as reading numbers.
    """
    numbers = [i for i, leaf in enumerate(leaves) if is_data(leaf) or isinstance(leaf, int | float)]
    objective = None if kernel.objective is None else trace(Kernel(kernel.name, kernel.objective), tree, leaves)
    for dynamic in (numbers, [i for i in numbers if is_data(leaves[i])]):
        try:
            signature = _trace(kernel, tree, leaves, tuple(dynamic))
            return signature if objective is None else _with_objective(signature, objective)
        except Exception:  # noqa: S112 - it needs its plain numbers, or more; a call of it will say what is wrong
            continue
    return None


def _with_objective(signature: Signature, objective: Signature) -> Signature:
    """Return the signature of a gradient that knows what it is a gradient of, if that is as simple as it should be."""
    gradients = signature.out_avals[len(objective.out_avals) :]
    data = signature.data_avals[: len(gradients)]
    fits = (
        len(objective.out_avals) == 1
        and objective.dynamic == signature.dynamic
        and [(each.shape, each.dtype) for each in data] == [(each.shape, each.dtype) for each in gradients]
        and objective.forwards == (None,) * len(objective.out_avals)
        and signature.forwards == (None,) * len(signature.out_avals)
    )
    return dataclasses.replace(signature, objective=objective) if fits else signature


class _MustKnow(Exception):
    """A kernel computes with a plain number outside of what is jitted: in Python that is other arithmetic."""


def _trace(kernel: Kernel, tree: Any, leaves: Leaves, dynamic: tuple[int, ...]) -> Signature:
    import jax
    from jax.extend.core import ClosedJaxpr, jaxpr_as_fun

    def function(*data: Any) -> Any:
        filled = list(leaves)
        for i, leaf in zip(dynamic, data, strict=True):
            filled[i] = leaf
        return kernel.function(*tree.unflatten(filled))

    closed, shapes = jax.make_jaxpr(function, return_shape=True)(*[_example(leaves[i]) for i in dynamic])
    if not kernel.is_weighted_sum:
        _check_numbers(closed.jaxpr, [place for place, i in enumerate(dynamic) if not is_data(leaves[i])])
    avals, out_tree = jax.tree.flatten(shapes)
    used = [place for place, is_used in enumerate(_used(closed.jaxpr)) if is_used]
    data = [leaves[dynamic[place]] for place in used]

    def program(consts: Leaves, data: Leaves) -> list[Any]:
        filled = [jax.numpy.zeros(aval.shape, aval.dtype) for aval in closed.in_avals]
        for place, leaf in zip(used, data, strict=True):
            filled[place] = leaf
        return jaxpr_as_fun(ClosedJaxpr(closed.jaxpr, consts))(*filled)  # type: ignore[no-any-return]

    forwarded = tuple(
        used.index(place) if place is not None and isinstance(leaves[dynamic[place]], Value) else None
        for place in forwards(closed.jaxpr)
    )
    return Signature(
        kernel=kernel,
        out_tree=out_tree,
        out_avals=tuple(avals),
        dynamic=tuple(dynamic[place] for place in used),
        plain=tuple(i for i, leaf in enumerate(leaves) if isinstance(leaf, int | float) and i not in dynamic),
        forwards=forwarded,
        program=program,
        consts=tuple(closed.consts),
        data_avals=tuple(closed.in_avals[place] for place in used),
        work_nbytes=_work_nbytes(closed.jaxpr),
        num_carried=_num_carried(avals, data) if used[: len(avals)] == list(range(len(avals))) else 0,
    )


def _check_numbers(jaxpr: Any, places: Leaves) -> None:
    """Raise unless plain numbers go straight into functions that are jitted inside."""
    numbers = {jaxpr.invars[place] for place in places}
    for equation in jaxpr.eqns:
        if equation.primitive.name not in ("jit", "pjit"):
            for var in equation.invars:
                if not hasattr(var, "val") and var in numbers:
                    raise _MustKnow


def _num_carried(avals: Leaves, data: Leaves) -> int:
    """Return the number of results if as many leading data have their shapes, else 0."""
    num = len(avals)
    fits = len(data) > num and all(
        isinstance(leaf, Value) and leaf.shape == aval.shape and leaf.dtype == aval.dtype
        for leaf, aval in zip(data[:num], avals, strict=True)
    )
    return num if fits else 0


def _work_nbytes(jaxpr: Any) -> int:
    """Return the size of all that is computed on the way, also by functions jitted inside [byte]."""
    inner = [equation.params["jaxpr"].jaxpr for equation in jaxpr.eqns if equation.primitive.name in ("jit", "pjit")]
    outer = [equation for equation in jaxpr.eqns if equation.primitive.name not in ("jit", "pjit")]
    avals = [var.aval for equation in outer for var in equation.outvars if hasattr(var.aval, "dtype")]
    return int(sum(aval.size * aval.dtype.itemsize for aval in avals) + sum(map(_work_nbytes, inner)))


def _used(jaxpr: Any) -> list[bool]:
    """Return for each argument whether the result depends on it, also through functions jitted inside."""
    from jax.extend.core import Literal

    live = {var for var in jaxpr.outvars if not isinstance(var, Literal)}
    for equation in reversed(jaxpr.eqns):
        if not (live & set(equation.outvars) or equation.effects):
            continue
        is_call = equation.primitive.name in ("jit", "pjit")
        flags = _used(equation.params["jaxpr"].jaxpr) if is_call else [True] * len(equation.invars)
        inputs = [var for var, is_used in zip(equation.invars, flags, strict=True) if is_used]
        live |= {var for var in inputs if not isinstance(var, Literal)}
    return [var in live for var in jaxpr.invars]


def forwards(jaxpr: Any) -> list[int | None]:
    """Return for each result the argument that it is, also through functions jitted inside; None if it is computed."""
    from jax.extend.core import Literal

    known: dict[Any, int | None] = {var: i for i, var in enumerate(jaxpr.invars)}

    def find(var: Any) -> int | None:
        return None if isinstance(var, Literal) else known.get(var)

    for equation in jaxpr.eqns:
        if equation.primitive.name in ("jit", "pjit"):
            inner = forwards(equation.params["jaxpr"].jaxpr)
            for var, place in zip(equation.outvars, inner, strict=True):
                known[var] = None if place is None else find(equation.invars[place])
    return [find(var) for var in jaxpr.outvars]


def _shape(shape: tuple[int, ...], dtype: Any) -> Any:
    import jax

    return jax.ShapeDtypeStruct(shape, dtype)  # type: ignore[no-untyped-call]


def _example(leaf: Any) -> Any:
    return _shape(leaf.shape, leaf.dtype) if is_data(leaf) else leaf


def total(kernel: Kernel, weights: Leaves, trees: Leaves) -> Signature:
    """Return the signature of a weighted sum of many trees.

    Args:
        kernel: the kernel.
        weights: one per tree.
        trees: what is added.
    """
    import jax
    import jax.numpy as jnp

    leaves, tree = jax.tree.flatten(trees[0])
    avals = tuple(_shape(leaf.shape, jnp.result_type(jnp.float32, leaf.dtype)) for leaf in leaves)
    num = len(weights)
    return Signature(
        kernel=kernel,
        out_tree=tree,
        out_avals=avals,
        dynamic=tuple(range(num * (1 + len(leaves)))),
        plain=(),
        forwards=(None,) * len(avals),
        program=None,
        num_addends=num,
    )
