"""Networks: hosts, switches, links and routes. `base` says what a topology is."""

from psgdsim.topologies.base import Link as Link
from psgdsim.topologies.base import Topology as Topology
from psgdsim.topologies.base import TopologyPart as TopologyPart
from psgdsim.topologies.base import register_topology as register_topology
from psgdsim.topologies.base import topologies as topologies
from psgdsim.topologies.clos import fat_tree as fat_tree
from psgdsim.topologies.clos import leaf_spine as leaf_spine
from psgdsim.topologies.custom import custom as custom
from psgdsim.topologies.direct import full_mesh as full_mesh
from psgdsim.topologies.direct import ring as ring
from psgdsim.topologies.direct import torus as torus
from psgdsim.topologies.dumbbell import dumbbell as dumbbell
from psgdsim.topologies.placement import Hosts as Hosts
from psgdsim.topologies.shared_medium import shared_medium as shared_medium
from psgdsim.topologies.star import star as star
from psgdsim.topologies.tree import tree as tree
from psgdsim.topologies.wan import wan as wan
