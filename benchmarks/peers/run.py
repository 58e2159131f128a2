"""Measure a synchronous round against other simulators of distributed training: FedJAX, pfl-research, Flower.

The same in each: a perceptron 784-128-128-10 with tanh in float32, the same rows, 32 of them per client, one step of
SGD per client and round, the mean of all clients applied at the server. For psgdsim that is `round_time` of
`sync_sgd.py` (parameter server, bsp, execution `batched`), in this process; for a peer its own federated averaging with
one local step, written as its documentation says, in a process of its own in an environment that holds its pinned
versions. They are measured in turn, `--pairs` times; a ratio is the median of the peer's seconds per round over the
median of psgdsim's, so above 1 psgdsim is faster. No compiling, no start: peers count the second half of their rounds,
psgdsim by how much a run of twice as many rounds takes longer, with all that it puts off to its end.

psgdsim makes the gradients of few workers one by one if they are at most 1,000 in the whole run. So it is measured
twice: in a run of some 20,000 gradients (`ratio`), and in one of as many rounds as the peer's (`ratio_in_short_runs`).
A peer's time per round does not depend on the number of rounds.

`one_batch_s` is what the round's arithmetic takes in plain jax, as one gradient over the rows of all clients, without
messages, times, or what any client lost; `ratio_of_one_batch` is the peer's time over that. psgdsim does the same
arithmetic in chunks, which is quicker where the rows do not fit the cache.

What may be unfair: psgdsim also simulates a network and writes records, which no peer does. It knows that all clients
start from the same parameters and may sum up their gradients as one; the peers train models that differ per client, as
federated averaging with several steps needs, and PyTorch does so for two of them. Peers are made for accelerators and
for clients that compute for long; here a client's step takes less than a millisecond. Flower moves every model through
messages between processes, as its real deployments do.

    python benchmarks/peers/run.py [fedjax] [pfl] [flower] [--clients 8,64,512] [--pairs 3]

Environments are made once by pip, in `psgdsim/peers` in the user's cache folder (all three: 3 GB). Prints JSON; wall
times in seconds. Needs Python 3.11, like the pinned versions.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path.append(str(HERE.parent))

from execution_floors import one_batch_time  # noqa: E402
from sync_sgd import STRATEGIES, round_time, scenario_of  # noqa: E402

STRATEGY = STRATEGIES["parameter_server"]


@dataclass(frozen=True)
class Peer:
    """What to install for a peer, and how long to let it run.

    Args:
        requirements: for pip.
        rounds: number of clients -> how many rounds; others are measured only when asked for, over 12.
    """

    requirements: tuple[str, ...]
    rounds: dict[int, int]


PEERS = {
    "fedjax": Peer(("fedjax==0.0.17", "jax==0.10.2", "jaxlib==0.10.2", "numpy==2.4.6"), {8: 256, 64: 64, 512: 12}),
    "pfl": Peer(("pfl==0.6.0", "torch==2.13.0", "numpy==2.4.6"), {8: 256, 64: 64, 512: 12}),
    "flower": Peer(("flwr[simulation]==1.41.0", "torch==2.13.0", "numpy==2.4.6"), {8: 24, 64: 8}),
}


def interpreter_of(name: str) -> Path:
    """Return the Python of a peer's environment, made first unless it is there."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder = cache / "psgdsim" / "peers" / name
    python, stamp = folder / "bin" / "python", folder / "installed.txt"
    wanted = "\n".join(PEERS[name].requirements)
    if not (stamp.exists() and stamp.read_text(encoding="utf-8") == wanted):
        print(f"installing {name} into {folder}", file=sys.stderr)
        subprocess.run([sys.executable, "-m", "venv", "--clear", folder], check=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", *PEERS[name].requirements], check=True)
        stamp.write_text(wanted, encoding="utf-8")
    return python


def write_data(num_clients: int, file: Path) -> None:
    """Write the rows that psgdsim trains on."""
    import numpy as np

    from psgdsim import scenario

    loaded = scenario.from_dict(scenario_of(num_clients, STRATEGY, 1))
    dataset = loaded.data.build().load(loaded.seed)
    np.savez(file, inputs=dataset.train_inputs, targets=dataset.train_targets)


def measure_peer(name: str, num_clients: int, num_rounds: int, data: Path) -> dict[str, Any]:
    """Return the peer's wall time of a round [s] and its losses before and after.

    Raises:
        RuntimeError: the peer failed; with the end of what it printed.
    """
    result = data.with_name("result.json")
    result.unlink(missing_ok=True)
    quiet = {"PEERS_DATA": str(data), "FLWR_TELEMETRY_ENABLED": "0", "RAY_USAGE_STATS_ENABLED": "0"}
    ended = subprocess.run(
        [interpreter_of(name), HERE / "program.py", name, data, str(num_clients), str(num_rounds), result],
        env={**os.environ, **quiet},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        timeout=1200,
        check=False,
    )
    if ended.returncode or not result.exists():
        raise RuntimeError(f"{name}, {num_clients} clients: exit code {ended.returncode}\n{ended.stdout[-4000:]}")
    return json.loads(result.read_text(encoding="utf-8"))


def compare(name: str, num_clients: int, num_pairs: int) -> dict[str, Any]:
    """Measure psgdsim and a peer in turn."""
    short, long = PEERS[name].rounds.get(num_clients, 12), max(24, 20_000 // num_clients)
    interpreter_of(name)
    own, own_short, others, one_batch = [], [], [], []
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "data.npz"
        write_data(num_clients, data)
        for _ in range(num_pairs):
            own.append(round_time(num_clients, STRATEGY, long))
            others.append(measure_peer(name, num_clients, short, data))
            own_short.append(round_time(num_clients, STRATEGY, short))
            one_batch.append(one_batch_time(num_clients))
    peer_s = [each["round_s"] for each in others]
    return {
        "peer": name,
        "clients": num_clients,
        "rounds": {"long": long, "short": short},
        "psgdsim_round_s": own,
        "psgdsim_round_s_in_short_runs": own_short,
        "peer_round_s": peer_s,
        "one_batch_s": one_batch,
        "peer_losses": others[-1]["losses"],
        "ratio": statistics.median(peer_s) / statistics.median(own),
        "ratio_of_one_batch": statistics.median(peer_s) / statistics.median(one_batch),
        "ratio_in_short_runs": statistics.median(peer_s) / statistics.median(own_short),
    }


def main() -> None:
    """Measure and print JSON."""
    from psgdsim.compilation import use_cache_on_disk
    from psgdsim.results import versions

    parser = argparse.ArgumentParser(description="Measure a simulated synchronous round against other simulators.")
    parser.add_argument("peers", nargs="*", metavar="peer", help=f"of {', '.join(PEERS)}; default: all")
    parser.add_argument("--clients", help="numbers of clients, separated by commas; default: those of the peer")
    parser.add_argument("--pairs", type=int, default=3, help="how often each is measured")
    arguments = parser.parse_args()
    if unknown := [name for name in arguments.peers if name not in PEERS]:
        parser.error(f"unknown peer {unknown[0]!r}; known: {', '.join(PEERS)}")
    use_cache_on_disk()
    names = arguments.peers or list(PEERS)
    rows = []
    for name in names:
        numbers = [int(text) for text in arguments.clients.split(",")] if arguments.clients else PEERS[name].rounds
        rows += [compare(name, num, arguments.pairs) for num in numbers]
    requirements = {name: PEERS[name].requirements for name in names}
    about = {"cores": os.cpu_count(), "versions": versions(), "peers": requirements}
    print(json.dumps({**about, "results": rows}, indent=2))


if __name__ == "__main__":
    main()
