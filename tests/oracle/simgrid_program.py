"""Run flows in SimGrid and print when each has arrived; a program of its own, for a process may have one engine.

Reads JSON from standard input: `module` (the file of SimGrid's Python module, or null if it can be imported), `options`
(for the engine), `hosts`, `links` (`[name, bandwidth in byte/s, latency in s, is_shared]`), `routes` (`[src, dst,
[[link, is_forward], ...]]`, each for both directions) and `flows` (`[src, dst, nbytes, start]`).
"""

from __future__ import annotations

import importlib.util
import json
import sys


def load(path):
    """Import SimGrid, by path if need be."""
    if path is None:
        import simgrid

        return simgrid
    spec = importlib.util.spec_from_file_location("simgrid", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def build(sg, job):
    """Build the platform; return its hosts by name."""
    zone = sg.NetZone.create_full_zone("zone")
    hosts = {name: zone.create_host(name, 1e9) for name in job["hosts"]}
    links, is_shared = {}, {}
    for name, bandwidth, latency, shared in job["links"]:
        create = zone.create_link if shared else zone.create_split_duplex_link
        links[name], is_shared[name] = create(name, float(bandwidth)), shared
        links[name].set_latency(float(latency))
        links[name].seal()
    up, down = sg.LinkInRoute.UP, sg.LinkInRoute.DOWN
    for src, dst, way in job["routes"]:
        steps = [
            sg.LinkInRoute(links[link]) if is_shared[link] else sg.LinkInRoute(links[link], up if forward else down)
            for link, forward in way
        ]
        zone.add_route(hosts[src].netpoint, hosts[dst].netpoint, None, None, steps, True)
    zone.seal()
    return hosts


def main():
    """Run one simulation."""
    job = json.load(sys.stdin)
    sg = load(job["module"])
    engine = sg.Engine(["simgrid", "--log=root.thres:error", *[f"--cfg={option}" for option in job["options"]]])
    hosts = build(sg, job)
    ends = [None] * len(job["flows"])

    def send(i, src, dst, nbytes, start):
        sg.this_actor.sleep_until(start)
        sg.Comm.sendto(hosts[src], hosts[dst], nbytes)
        ends[i] = sg.Engine.clock

    for i, (src, dst, nbytes, start) in enumerate(job["flows"]):
        sg.Actor.create(f"flow{i}", hosts[src], send, i, src, dst, nbytes, start)
    engine.run()
    print("ends:", json.dumps(ends))


if __name__ == "__main__":
    main()
