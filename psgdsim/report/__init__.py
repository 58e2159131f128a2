"""Pictures and exports of runs."""

from psgdsim.report.codecs import plot_codecs as plot_codecs
from psgdsim.report.plots import plot_accuracy as plot_accuracy
from psgdsim.report.plots import plot_speedup as plot_speedup
from psgdsim.report.plots import plot_timeline as plot_timeline
from psgdsim.report.plots import rows_per_second as rows_per_second
from psgdsim.report.plots import speedups as speedups
from psgdsim.report.timeline import chrome_trace as chrome_trace
from psgdsim.report.topology import plot_topology as plot_topology
from psgdsim.report.utilisation import plot_utilisation as plot_utilisation
