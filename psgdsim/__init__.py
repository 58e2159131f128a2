"""Design parallel SGD: one scenario file, run in a network simulator or for real over TCP.

result = psgdsim.run("scenarios/ccdc_8nodes.yaml", mode="sim")
result.summary["time_s"], result.evals["test_accuracy"]
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from psgdsim import errors as errors
from psgdsim._version import __version__ as __version__

__all__ = [
    "RunResult",
    "errors",
    "load_run",
    "register_codec",
    "register_dataset",
    "register_model",
    "register_strategy",
    "register_topology",
    "run",
]

if TYPE_CHECKING:
    from psgdsim.codecs.base import register_codec as register_codec
    from psgdsim.data.base import register_dataset as register_dataset
    from psgdsim.entry import run as run
    from psgdsim.models.base import register_model as register_model
    from psgdsim.results import RunResult as RunResult
    from psgdsim.results import load_run as load_run
    from psgdsim.strategies.base import register_strategy as register_strategy
    from psgdsim.topologies.base import register_topology as register_topology
else:
    # Imported when first asked for (PEP 562): the command's help must not wait for what it does not need.
    _HOMES = {
        "RunResult": "results",
        "load_run": "results",
        "register_codec": "codecs.base",
        "register_dataset": "data.base",
        "register_model": "models.base",
        "register_strategy": "strategies.base",
        "register_topology": "topologies.base",
        "run": "entry",
    }

    def __getattr__(name: str) -> Any:
        if name not in _HOMES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value = globals()[name] = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
        return value

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__})
