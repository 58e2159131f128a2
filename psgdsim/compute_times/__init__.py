"""How long a machine computes: straggler models, in virtual seconds.

A model says the time that one rank needs for its `batch_size` rows; unless a model says otherwise, more rows take
proportionally longer. Means and order statistics of each are in the tests of `tests/oracle`.
"""

from psgdsim.compute_times.base import ComputeTime as ComputeTime
from psgdsim.compute_times.base import Draw as Draw
from psgdsim.compute_times.base import Machine as Machine
from psgdsim.compute_times.base import compute_times as compute_times
from psgdsim.compute_times.base import proportional as proportional
from psgdsim.compute_times.base import register_compute_time as register_compute_time
from psgdsim.compute_times.distributions import constant as constant
from psgdsim.compute_times.distributions import exponential as exponential
from psgdsim.compute_times.distributions import load_scaled_shifted_exponential as load_scaled_shifted_exponential
from psgdsim.compute_times.distributions import lognormal as lognormal
from psgdsim.compute_times.distributions import pareto as pareto
from psgdsim.compute_times.distributions import shifted_exponential as shifted_exponential
from psgdsim.compute_times.machine import flops as flops
from psgdsim.compute_times.machine import measured as measured
from psgdsim.compute_times.replay import trace_file as trace_file
from psgdsim.compute_times.stragglers import bernoulli_slowdown as bernoulli_slowdown
from psgdsim.compute_times.stragglers import fixed_slow_set as fixed_slow_set
from psgdsim.compute_times.stragglers import markov as markov
