"""Scenarios: the schema, loading with the place of every problem, overrides, the JSON schema."""

from psgdsim.scenario.json_schema import json_schema as json_schema
from psgdsim.scenario.load import dump as dump
from psgdsim.scenario.load import from_dict as from_dict
from psgdsim.scenario.load import load as load
from psgdsim.scenario.load import loads as loads
from psgdsim.scenario.overrides import apply_overrides as apply_overrides
from psgdsim.scenario.schema import Evaluation as Evaluation
from psgdsim.scenario.schema import Interval as Interval
from psgdsim.scenario.schema import RealMode as RealMode
from psgdsim.scenario.schema import Scenario as Scenario
from psgdsim.scenario.spec import DataSpec as DataSpec
from psgdsim.scenario.spec import PartSpec as PartSpec
