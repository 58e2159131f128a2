"""Design parallel SGD: one scenario file, run in a network simulator or for real over TCP.

result = psgdsim.run("scenarios/ccdc_8nodes.yaml", mode="sim")
result.summary["time_s"], result.evals["test_accuracy"]
"""

from psgdsim._version import __version__ as __version__
from psgdsim.codecs.base import register_codec as register_codec
from psgdsim.data.base import register_dataset as register_dataset
from psgdsim.models.base import register_model as register_model
from psgdsim.results import RunResult as RunResult
from psgdsim.results import load_run as load_run
from psgdsim.run import run as run
from psgdsim.strategies.base import register_strategy as register_strategy
from psgdsim.topologies.base import register_topology as register_topology
