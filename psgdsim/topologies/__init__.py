"""Networks: hosts, switches, links and routes. `base` says what a topology is."""

from psgdsim.topologies.base import Link as Link
from psgdsim.topologies.base import Topology as Topology
from psgdsim.topologies.base import TopologyPart as TopologyPart
from psgdsim.topologies.base import register_topology as register_topology
from psgdsim.topologies.base import topologies as topologies
from psgdsim.topologies.star import star as star
