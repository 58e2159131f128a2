"""A small scenario that real runs of several test files share."""

from patience import PATIENT

SMALL = {
    "name": "small",
    "seed": 3,
    "world_size": 3,
    "model": {"kind": "softmax_regression"},
    "data": {"kind": "digits"},
    "batch_size": 16,
    "optimizer": {"kind": "sgd", "learning_rate": 0.1},
    "topology": {"kind": "star", "bandwidth": None, "latency": "0 s"},
    "max_steps": 20,
    "evaluate": {"every": "5 steps"},
    **PATIENT,
}
