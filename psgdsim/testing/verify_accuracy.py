"""Accuracies on MNIST's 10,000 test images, of which 8,000 are trained on; not run where the files are not at hand."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from psgdsim.errors import DatasetError
from psgdsim.scenario import from_dict
from psgdsim.scenario.experiment import build
from psgdsim.testing.checks import Check, at_least, at_most
from psgdsim.testing.training import run_scenario

SEEDS: Final = range(1, 5)

DC_ASGD: Final = "arXiv 1609.08326"
KARIMIREDDY: Final = "arXiv 1901.09847"

_SCENARIO: Final[dict[str, Any]] = {
    "name": "accuracy",
    "model": {"kind": "mlp", "hidden": [128], "activation": "relu"},
    "data": {"kind": "mnist", "split": "t10k"},
    "batch_size": 32,
    "optimizer": {"kind": "sgd", "learning_rate": 0.1},
    "topology": {"kind": "star", "bandwidth": None, "latency": "0 s"},
    "compute": {"kind": "constant", "time": "1 s"},
    "evaluate": {"every": None},
    "trace": "off",
}


def mean_accuracy(changes: Mapping[str, Any], seeds: Sequence[int] = SEEDS) -> float:
    """Return the test accuracy at the end of training, the mean over a few seeds [percent].

    Args:
        changes: keys of the scenario: at least `world_size`, `strategy` and when to stop.
        seeds: of the runs.

    Raises:
        DatasetError: MNIST is not on this machine.
    """
    runs = (run_scenario({**_SCENARIO, **changes, "seed": seed}) for seed in seeds)
    return 100 * sum(float(run.evals[-1]["test_accuracy"]) for run in runs) / len(seeds)


def has_mnist() -> bool:
    """Whether MNIST is on this machine."""
    try:
        build(from_dict({**_SCENARIO, "seed": 1, "world_size": 1, "strategy": {"kind": "all_reduce"}, "max_steps": 1}))
    except DatasetError:
        return False
    return True


def verify_codec_accuracy() -> Iterator[Check]:
    """With error feedback, a few bits train as well as 32; without it, sparse or signed gradients do not."""
    if not has_mnist():
        yield Check("accuracy with codecs", "not run", "not run", "there is no MNIST here")
        return
    dense = _coded_accuracy({"kind": "identity"})
    for codec in ({"kind": "scaled_sign"}, {"kind": "one_bit"}, {"kind": "top_k", "ratio": 0.01}):
        loss = dense - _coded_accuracy({"kind": "error_feedback", "codec": codec})
        yield at_most(f"dense - {_label(codec)} with error feedback [points]", 0.6, loss, KARIMIREDDY)
    codec = {"kind": "qsgd", "levels": 4, "bucket_size": 512}
    yield at_most(f"dense - {_label(codec)} [points]", 0.6, dense - _coded_accuracy(codec), "arXiv 1610.02132")
    sparse = {"kind": "top_k", "ratio": 0.001}
    loss = dense - _coded_accuracy({"kind": "error_feedback", "codec": sparse})
    yield at_most(f"dense - {_label(sparse)} with error feedback [points]", 1.0, loss, KARIMIREDDY)
    for codec, least in ((sparse, 5.0), ({"kind": "scaled_sign"}, 2.0)):
        yield at_least(f"dense - {_label(codec)} alone [points]", least, dense - _coded_accuracy(codec), KARIMIREDDY)


def _coded_accuracy(codec: Mapping[str, Any]) -> float:
    """Return the accuracy of 620 steps of synchronous SGD with a codec, of one seed [percent]."""
    changes = {"world_size": 8, "max_steps": 620, "strategy": {"kind": "parameter_server"}, "codec": dict(codec)}
    return mean_accuracy(changes, seeds=[1])


def _label(codec: Mapping[str, Any]) -> str:
    return " ".join([codec["kind"], *(f"{name}={value}" for name, value in codec.items() if name != "kind")])


def verify_stale_accuracy() -> Iterator[Check]:
    """With 16 workers in turn, gradients are 15 updates old: at the edge where plain ASGD fails, DC-ASGD does not."""
    name = "N=16 in turn, 992 updates: DC-ASGD-a - ASGD [points]"
    if not has_mnist():
        yield Check(name, "not run", "not run", "there is no MNIST here")
        return
    plain, compensated = (
        mean_accuracy({"world_size": 16, "max_steps": 62, "strategy": {"kind": "parameter_server", **settings}})
        for settings in ({"sync": "async"}, {"sync": "async", "delay_compensation": {"kind": "adaptive"}})
    )
    yield at_least(name, 30.0, compensated - plain, DC_ASGD)
