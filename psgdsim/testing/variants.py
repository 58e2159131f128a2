"""The built-in strategies with the settings in which they are proved, and what they promise there."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final, NamedTuple

from psgdsim.strategies.base import strategies

SGD_ALONE: Final[dict[str, Any]] = {}
"""The settings with which one worker is plain SGD: no others than those of several workers."""

UNCODED: Final[dict[str, Any]] = {"stragglers": 0, "copies": 1}
"""The settings of an approximate gradient code with which one worker is plain SGD."""

ASKING: Final[dict[str, Any]] = {"trigger": "server"}
"""The settings with which the server asks for gradients."""

HALF: Final[dict[str, Any]] = {"kind": "top_k", "ratio": 0.5}
"""A codec that drops something of what servers answer."""


class Variant(NamedTuple):
    """A strategy with some settings.

    Attributes:
        kind: its name.
        parameters: the settings.
        world_size: how many workers it is tried with.
        alone: which settings are others for one worker, for which it is plain SGD; None if it does not promise that.
        is_symmetric: whether it does not matter which worker has which rows.
    """

    kind: str
    parameters: Mapping[str, Any] = {}
    world_size: int = 3
    alone: Mapping[str, Any] | None = None
    is_symmetric: bool = False

    @property
    def spec(self) -> dict[str, Any]:
        """The strategy as a scenario names it."""
        return {"kind": self.kind, **self.parameters}

    @property
    def label(self) -> str:
        """The strategy and its settings on one line."""
        settings = (
            f"{name}={each['kind'] if isinstance(each, Mapping) else each}" for name, each in self.parameters.items()
        )
        return " ".join([self.kind, *settings])


def _all_reduce(algorithm: str, **parameters: Any) -> Variant:
    alone = {"group_size": 1} if "group_size" in parameters else SGD_ALONE
    return Variant("all_reduce", {"algorithm": algorithm, **parameters}, 4, alone, is_symmetric=True)


def _server(sync: str, *, alone: Mapping[str, Any] = SGD_ALONE, **settings: Any) -> Variant:
    return Variant("parameter_server", {"sync": sync, **settings}, 3, alone, is_symmetric=sync == "bsp")


def _rounds(kind: str, **parameters: Any) -> Variant:
    return Variant(kind, {"period": 2, **parameters}, is_symmetric=True)


VARIANTS: Final[tuple[Variant, ...]] = (
    *(_all_reduce(name) for name in ("ring", "broadcast", "recursive_doubling", "halving_doubling", "tree")),
    _all_reduce("pipelined_tree", segments=2),
    *(_all_reduce(name, group_size=2) for name in ("hierarchical", "leaders")),
    _all_reduce("ring", accumulation=2),
    _all_reduce("ring", bucket_size="1 B"),
    *(Variant("all_reduce", {"algorithm": name, "double_buffer": True}, 4) for name in ("ring", "halving_doubling")),
    _server("bsp"),
    _server("bsp", on_peer_loss="drop"),
    _server("bsp", on_peer_loss="wait"),
    _server("bsp", servers=2),
    *(
        Variant("parameter_server", {"downlink": HALF, **settings})
        for settings in ({}, {"servers": 2}, {"on_peer_loss": "drop"}, {"sync": "async"})
    ),
    Variant("parameter_server", {"sync": "k_batch_async", "k": 2, "downlink": HALF}),
    _server("async"),
    _server("async", on_peer_loss="drop"),
    _server("async", delay_compensation={"kind": "constant"}),
    _server("async", delay_compensation={"kind": "adaptive"}),
    _server("backup", backup=1, alone={"backup": 0}),
    _server("k_sync", k=2, alone={"k": 1}),
    _server("k_batch_sync", k=2, alone={"k": 1}),
    _server("k_async", k=2, alone={"k": 1}),
    _server("k_batch_async", k=2, alone={"k": 1}),
    _server("staleness_aware", k=2, alone={"k": 1}),
    _server("ssp", staleness_bound=0),
    _server("ssp", staleness_bound=1),
    _server("ssp", staleness_bound=1, on_peer_loss="wait"),
    _server("ssp", staleness_bound=1, cached_reads=True),
    Variant("local_sgd", {"period": 2}, alone=SGD_ALONE, is_symmetric=True),
    Variant("local_sgd", {"period": 2, "post_local": 1, "buffers": "average"}, is_symmetric=True),
    _rounds("slow_mo"),
    _rounds("bmuf"),
    _rounds("diloco"),
    Variant("easgd", {"period": 2}),
    Variant("easgd", {"period": 2, "sync": "bsp"}, is_symmetric=True),
    Variant("d_psgd", {}, world_size=4, alone={"graph": "complete"}),
    Variant("d_psgd", {"mix": "after_step", "graph": "complete"}, 4, SGD_ALONE, is_symmetric=True),
    Variant("sgp", {}, world_size=4, alone={"graph": "complete"}),
    Variant("sgp", {"tau": 2}),
    Variant("gradient_coding", {"stragglers": 1}, 3, {"stragglers": 0}, is_symmetric=True),
    Variant(
        "gradient_coding",
        {"stragglers": 1, "code": "fractional_repetition"},
        4,
        {"stragglers": 0},
        is_symmetric=True,
    ),
    *(
        Variant("gradient_coding", {"stragglers": 1, "code": code, "copies": 2}, 4, UNCODED)
        for code in ("stochastic", "bernoulli")
    ),
    Variant("lag"),
    Variant("lag", {"xi": 0.0}, alone=SGD_ALONE, is_symmetric=True),
    Variant("lag", ASKING),
    Variant("laq"),
    *(Variant(kind, {"on_peer_loss": "drop", **more}) for kind, more in (("lag", ASKING), ("laq", {}))),
    Variant("lag", {"xi": 0.0, "on_peer_loss": "drop"}, alone=SGD_ALONE, is_symmetric=True),
    Variant("ad_psgd", world_size=4),
    Variant("fedavg", {"client_fraction": 0.5, "local_epochs": 1}),
    Variant("fedavg", {"client_fraction": 0.5, "local_epochs": 1, "timeout": "2 ms", "quorum": 0.5}),
    Variant("coded_shuffle", {"redundancy": 2}),
    Variant("coded_shuffle", {"redundancy": 2, "code": "combine"}),
    Variant("coded_shuffle", {"redundancy": 2, "code": "cdc_all_gather"}),
)
"""What is written down; a built-in strategy that is missing here is tried with its defaults."""


def built_in_variants() -> Iterator[Variant]:
    """Yield all built-in strategies, each in the settings in which it is proved."""
    yield from VARIANTS
    known = {variant.kind for variant in VARIANTS}
    for part in strategies:
        if part.module.startswith("psgdsim.strategies.") and part.name not in known:
            yield Variant(part.name, world_size=4)
