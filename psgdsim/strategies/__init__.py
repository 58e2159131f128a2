"""Strategies of parallel SGD, one family per file. `base` says what a strategy is."""

from psgdsim.strategies.ad_psgd import ad_psgd as ad_psgd
from psgdsim.strategies.all_reduce import all_reduce as all_reduce
from psgdsim.strategies.base import Strategy as Strategy
from psgdsim.strategies.base import register_strategy as register_strategy
from psgdsim.strategies.base import strategies as strategies
from psgdsim.strategies.coded_shuffle import coded_shuffle as coded_shuffle
from psgdsim.strategies.elastic import easgd as easgd
from psgdsim.strategies.fedavg import fedavg as fedavg
from psgdsim.strategies.gossip import d_psgd as d_psgd
from psgdsim.strategies.gossip import sgp as sgp
from psgdsim.strategies.gradient_coding import gradient_coding as gradient_coding
from psgdsim.strategies.lazy import lag as lag
from psgdsim.strategies.lazy_quantized import laq as laq
from psgdsim.strategies.local_sgd import local_sgd as local_sgd
from psgdsim.strategies.outer import bmuf as bmuf
from psgdsim.strategies.outer import diloco as diloco
from psgdsim.strategies.outer import slow_mo as slow_mo
from psgdsim.strategies.parameter_server import parameter_server as parameter_server
from psgdsim.strategies.presets import asgd as asgd
from psgdsim.strategies.presets import fast as fast
from psgdsim.strategies.presets import pa as pa
from psgdsim.strategies.presets import ssgd as ssgd
