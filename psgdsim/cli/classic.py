"""Runs from flags alone: `psgdsim server` and `psgdsim client`, one machine or terminal per rank.

The flags describe an ordinary scenario in real mode whose workers are started by hand; underscores and dashes
are the same in their names.
"""

from __future__ import annotations

from typing import Annotated, Any

import typer

from psgdsim.errors import ScenarioError, nearest

NodeCount = Annotated[int, typer.Option("--node-count", "--node_count", min=1, help="The number of clients.")]
BatchSize = Annotated[
    int, typer.Option("--batch-size", "--batch_size", min=1, help="Rows per step over all clients together.")
]
Redundancy = Annotated[int, typer.Option("--redundancy", min=1, help="How many clients compute each block.")]
CodecName = Annotated[
    str,
    typer.Option("--codec", help="plain, ccdc (coded all-gather of all blocks), or a codec that `psgdsim list` shows."),
]
PsgdName = Annotated[str, typer.Option("--psgd", help="How gradients are brought together: ssgd, synchronously.")]
LearnRate = Annotated[float, typer.Option("--learn-rate", "--learn_rate", help="The learning rate of SGD.")]
Epochs = Annotated[int, typer.Option("--epochs", min=1, help="Passes over the training rows.")]
Port = Annotated[
    int, typer.Option("--working-ports", "--working_ports", min=1, max=65535, help="The port to listen on.")
]
BlockAssignment = Annotated[
    str,
    typer.Option(
        "--block-assignment",
        "--block_assignment",
        help="Which clients hold a block: iid (subsets), duplicate, cyclic.",
    ),
]
Data = Annotated[str, typer.Option("--data", help="The data set: digits, mnist, fashion_mnist, ...")]
Address = Annotated[str, typer.Option("--ip", help="The address to listen on.")]

_ASSIGNMENTS = {"iid": "subsets", "subsets": "subsets", "duplicate": "duplicate", "cyclic": "cyclic"}


def scenario(
    *,
    num_nodes: int,
    global_batch_size: int,
    redundancy: int,
    codec: str,
    psgd: str,
    learning_rate: float,
    epochs: int,
    port: int,
    block_assignment: str,
    data: str,
    host: str,
) -> dict[str, Any]:
    """Return the scenario that the flags describe: an mlp 128-128 with tanh, trained by SGD over unicast.

    Args:
        num_nodes: the number of ranks.
        global_batch_size: rows per step, all ranks together.
        redundancy: how many ranks compute each block.
        codec: `plain`, `ccdc` or a registered codec that needs no parameters.
        psgd: `ssgd`.
        learning_rate: of SGD.
        epochs: passes over the data.
        port: the coordinator's port.
        block_assignment: `iid`, `subsets`, `duplicate` or `cyclic`.
        data: a registered data set that needs no parameters.
        host: the address to listen on.

    Returns:
        Plain data for `psgdsim.run`.

    Raises:
        ScenarioError: a name that does not exist, or flags that do not go together; the message names the
            flag.
    """
    _expect("--psgd", psgd, ["ssgd"])
    _expect("--block-assignment", block_assignment, _ASSIGNMENTS)
    strategy, codec_spec = _coding(codec, redundancy, block_assignment)
    return {
        "name": f"{psgd}-{codec}-{num_nodes}",
        "world_size": num_nodes,
        "model": {"kind": "mlp", "hidden": [128, 128], "activation": "tanh"},
        "data": {"kind": data},
        "global_batch_size": global_batch_size,
        "optimizer": {"kind": "sgd", "learning_rate": learning_rate},
        "strategy": strategy,
        "codec": codec_spec,
        "topology": {"kind": "star", "bandwidth": None, "latency": "0 s", "multicast": "unicast"},
        "epochs": epochs,
        "real": {"processes": "manual", "host": host, "port": port},
    }


def _coding(codec: str, redundancy: int, block_assignment: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the specs of the strategy and the codec."""
    if codec == "ccdc":
        if _ASSIGNMENTS[block_assignment] != "subsets":
            raise ScenarioError(f"--block-assignment: codec ccdc needs 'iid'; got {block_assignment!r}")
        return {"kind": "coded_shuffle", "code": "cdc_all_gather", "redundancy": redundancy}, {"kind": "identity"}
    kind = "identity" if codec == "plain" else codec
    _expect("--codec", codec, ["plain", "ccdc", *_codecs_without_parameters()])
    strategy = {"kind": "all_reduce", "algorithm": "broadcast", "redundancy": redundancy}
    return {**strategy, "assignment": _ASSIGNMENTS[block_assignment]}, {"kind": kind}


def _codecs_without_parameters() -> list[str]:
    """Return the codecs whose parameters all have defaults."""
    from psgdsim.registry import REQUIRED
    from psgdsim.scenario.families import FAMILIES

    codecs = FAMILIES["codecs"]
    return [part.name for part in codecs if all(each.default is not REQUIRED for each in part.parameters)]


def _expect(flag: str, value: str, valid: Any) -> None:
    if value not in valid:
        raise ScenarioError(f"{flag}: nothing is called {value!r}; {nearest(value, valid)}")
