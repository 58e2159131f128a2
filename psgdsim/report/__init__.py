"""Pictures and exports of runs."""

from psgdsim.report.timeline import chrome_trace as chrome_trace
