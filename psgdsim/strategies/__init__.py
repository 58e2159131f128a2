"""Strategies of parallel SGD, one family per file. `base` says what a strategy is."""

from psgdsim.strategies.all_reduce import all_reduce as all_reduce
from psgdsim.strategies.base import Strategy as Strategy
from psgdsim.strategies.base import register_strategy as register_strategy
from psgdsim.strategies.base import strategies as strategies
from psgdsim.strategies.coded_shuffle import coded_shuffle as coded_shuffle
from psgdsim.strategies.parameter_server import parameter_server as parameter_server
