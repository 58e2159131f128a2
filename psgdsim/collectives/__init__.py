"""Collective operations, written once against the node: the same message pattern in both modes.

Each says what it costs for N ranks, a message of m bytes, latency alpha and bandwidth B on a network that never blocks,
headers apart; lg is the logarithm to base 2. Every rank that takes part calls the same function with the same settings.
Which to use: `recursive_doubling_all_reduce` for short vectors, `ring_all_reduce` or `halving_doubling_all_reduce` for
long ones, `hierarchical_all_reduce` where some ranks are nearer to each other than others.
"""

from psgdsim.collectives.base import ADD as ADD
from psgdsim.collectives.base import CUT as CUT
from psgdsim.collectives.base import JOIN as JOIN
from psgdsim.collectives.base import RAVEL as RAVEL
from psgdsim.collectives.base import SPLIT as SPLIT
from psgdsim.collectives.base import UNRAVEL as UNRAVEL
from psgdsim.collectives.halving import halving_doubling_all_reduce as halving_doubling_all_reduce
from psgdsim.collectives.halving import halving_reduce_scatter as halving_reduce_scatter
from psgdsim.collectives.halving import recursive_doubling_all_reduce as recursive_doubling_all_reduce
from psgdsim.collectives.hierarchical import hierarchical_all_reduce as hierarchical_all_reduce
from psgdsim.collectives.hierarchical import leader_all_reduce as leader_all_reduce
from psgdsim.collectives.multicast import all_gather as all_gather
from psgdsim.collectives.pipelined import pipelined_tree_all_reduce as pipelined_tree_all_reduce
from psgdsim.collectives.ring import ring_all_gather as ring_all_gather
from psgdsim.collectives.ring import ring_all_reduce as ring_all_reduce
from psgdsim.collectives.ring import ring_reduce_scatter as ring_reduce_scatter
from psgdsim.collectives.tree import barrier as barrier
from psgdsim.collectives.tree import broadcast as broadcast
from psgdsim.collectives.tree import reduce as reduce
from psgdsim.collectives.tree import scatter_broadcast as scatter_broadcast
from psgdsim.collectives.tree import tree_all_reduce as tree_all_reduce
