"""The simulator: programs in virtual time, on a model of machines and links."""

from psgdsim.sim.flows import simulate_flows as simulate_flows
