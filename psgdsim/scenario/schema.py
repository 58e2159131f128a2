"""The scenario: the whole experiment in one frozen object."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Annotated, ClassVar, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    PlainValidator,
    Strict,
    WithJsonSchema,
    model_validator,
)
from pydantic_core import InitErrorDetails, ValidationError

from psgdsim.errors import PsgdsimError
from psgdsim.network_model import NetworkModel
from psgdsim.scenario.changes import Change
from psgdsim.scenario.document import Path
from psgdsim.scenario.families import FAMILIES
from psgdsim.scenario.faults import Fault
from psgdsim.scenario.rules import broken_rules
from psgdsim.scenario.spec import DataSpec, PartSpec, SpecOf, blame, custom, read_spec
from psgdsim.topologies.placement import Hosts
from psgdsim.trace import Level
from psgdsim.units import Duration, Throughput

NAME_PATTERN = r"(?!\.)[A-Za-z0-9._-]{1,80}"
MAX_WORLD_SIZE = 100_000
MAX_SEED = 2**63 - 1
MAX_EVENTS = 10_000

_INTERVAL = re.compile(r"\s*([1-9][0-9]{0,11})\s+(epoch|step)s?\s*")


class _Section(BaseModel):
    """What all sections share: nothing is converted silently, nothing is ignored, nothing changes."""

    model_config: ClassVar[ConfigDict] = ConfigDict(
        strict=True,
        frozen=True,
        extra="forbid",
        allow_inf_nan=False,
        validate_default=True,
        protected_namespaces=(),
    )


class Interval(BaseModel):
    """A number of epochs or steps; written `1 epoch` or `10 steps` in YAML.

    Attributes:
        count: how many.
        unit: of what.
    """

    model_config: ClassVar[ConfigDict] = ConfigDict(frozen=True, extra="forbid")

    count: int = Field(ge=1)
    unit: Literal["epoch", "step"]

    def __str__(self) -> str:
        return f"{self.count} {self.unit}{'' if self.count == 1 else 's'}"


def _read_interval(value: object) -> object:
    """Return the interval that a text means."""
    if isinstance(value, Interval):
        return value
    match = _INTERVAL.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        raise custom("expected", "expected a number of epochs or steps, such as '1 epoch' or '10 steps'")
    return Interval(count=int(match.group(1)), unit="epoch" if match.group(2) == "epoch" else "step")


IntervalText = Annotated[
    Interval,
    PlainValidator(_read_interval),
    PlainSerializer(str, return_type=str),
    WithJsonSchema({"type": "string", "pattern": "^[1-9][0-9]* (epoch|step)s?$", "examples": ["1 epoch", "10 steps"]}),
]


def _read_name(value: object) -> object:
    if not isinstance(value, str) or re.fullmatch(NAME_PATTERN, value) is None:
        raise custom("expected", "expected 1 to 80 of the characters A-Z a-z 0-9 . _ - and no dot at the beginning")
    return value


_NAME_SCHEMA = WithJsonSchema({"type": "string", "pattern": f"^{NAME_PATTERN}$"})


def _read_module(value: object) -> object:
    if not isinstance(value, str) or not all(part.isidentifier() for part in value.split(".")):
        raise custom("expected", "expected the name of a Python module, such as 'my_package.codecs'")
    return value


class Evaluation(_Section):
    """When the model is evaluated on all training and test rows; that takes no time of the experiment's.

    Attributes:
        every: how often, besides at the end; null for only at the end.
    """

    every: IntervalText | None = Field(
        default=Interval(count=1, unit="epoch"),
        description="how often, besides at the end: '1 epoch', '10 steps', ...; null for only at the end",
    )


class RealMode(_Section):
    """What only `--mode real` looks at."""

    processes: Literal["local", "manual"] = Field(
        default="local",
        description="local: start the workers here; manual: wait for `psgdsim worker --connect HOST:PORT`",
    )
    host: Annotated[str, Field(min_length=1, max_length=253)] = Field(
        default="127.0.0.1", description="the address that workers connect to"
    )
    port: Annotated[int, Field(ge=0, le=65535)] = Field(
        default=0, description="the coordinator's port; 0 for any free one"
    )
    heartbeat_timeout: Annotated[Duration, Field(gt=0)] = Field(
        default="10 s", description="a worker that is silent for so long is lost"
    )


class Scenario(_Section):
    """One experiment, complete; the same in both modes."""

    name: Annotated[str, BeforeValidator(_read_name), _NAME_SCHEMA] = Field(description="names the run's folder")
    seed: Annotated[int, Field(ge=0, le=MAX_SEED)] = Field(0, description="every random stream is derived from it")
    world_size: Annotated[int, Field(ge=1, le=MAX_WORLD_SIZE)] = Field(description="the number of workers")
    model: Annotated[PartSpec, SpecOf(FAMILIES["models"])] = Field(description="what is trained")
    data: Annotated[DataSpec, SpecOf(FAMILIES["datasets"])] = Field(
        description="what it is trained on, and how the rows are dealt out"
    )
    batch_size: Annotated[int, Field(ge=1)] | None = Field(default=None, description="rows per rank and step")
    global_batch_size: Annotated[int, Field(ge=1)] | None = Field(
        default=None,
        description="rows per step over all ranks, split as evenly as possible; instead of batch_size",
    )
    optimizer: Annotated[PartSpec, SpecOf(FAMILIES["optimizers"])] = Field(description="how gradients become steps")
    strategy: Annotated[PartSpec, SpecOf(FAMILIES["strategies"])] = Field(
        description="who computes and sends what to whom, and who waits"
    )
    codec: Annotated[PartSpec, SpecOf(FAMILIES["codecs"])] = Field(
        default=read_spec(FAMILIES["codecs"], {"kind": "identity"}),
        description="what crosses the wire instead of an update",
    )
    topology: Annotated[PartSpec, SpecOf(FAMILIES["topologies"])] = Field(description="the network")
    hosts: Hosts = Field(default=Hosts(), description="the machines, and the ranks on each of them")
    network: NetworkModel = Field(
        default=NetworkModel(), description="how messages share the network in simulation, and what each costs"
    )
    changes: Annotated[tuple[Annotated[PartSpec, SpecOf(FAMILIES["changes"])], ...], Strict(strict=False)] = Field(
        default=(), max_length=MAX_EVENTS, description="what changes about the network over time, in simulation"
    )
    faults: Annotated[tuple[Annotated[PartSpec, SpecOf(FAMILIES["faults"])], ...], Strict(strict=False)] = Field(
        default=(), max_length=MAX_EVENTS, description="what goes wrong, in simulation"
    )
    compute: Annotated[PartSpec, SpecOf(FAMILIES["compute"])] = Field(
        default=read_spec(FAMILIES["compute"], {"kind": "constant", "time": "0 s"}),
        description="the time of one rank's batch_size rows in simulation; no time at all unless given",
    )
    codec_rate: Annotated[Throughput, Field(gt=0)] | None = Field(
        default=None,
        description="how fast a rank encodes and decodes in simulation, by the larger of what goes in and comes out; "
        "null for no time at all",
    )
    on_nonfinite: Literal["fail", "skip"] = Field(
        default="fail",
        description="what a codec does with an update that has NaN or infinity in it: fail, the run ends with an error "
        "that names it; skip, zeros are coded in its place, and counted. The codec identity does not look",
    )
    epochs: Annotated[int, Field(ge=1)] | None = Field(
        default=None, description="stop after so many passes over the data"
    )
    max_steps: Annotated[int, Field(ge=1)] | None = Field(default=None, description="stop after so many steps")
    target_accuracy: Annotated[float, Field(gt=0, le=1)] | None = Field(
        default=None, description="stop at the first evaluation that reaches this test accuracy"
    )
    max_time: Annotated[Duration, Field(gt=0)] | None = Field(
        default=None, description="stop at the end of the first step that ends after so long"
    )
    evaluate: Evaluation = Field(default=Evaluation(), description="when the model is evaluated")
    execution: Literal["exact", "batched"] = Field(
        default="batched",
        description="how simulation computes values: batched, many ranks' at once, as real mode does but for rounding; "
        "exact, by the very calls of real mode, bit for bit",
    )
    trace: Level | None = Field(
        default=None, description="what is kept of all that happens; null for full up to 64 ranks, steps beyond"
    )
    plugins: Annotated[tuple[Annotated[str, BeforeValidator(_read_module)], ...], Strict(strict=False)] = Field(
        default=(), description="modules that register parts; imported first"
    )
    real: RealMode = Field(default=RealMode(), description="settings of real mode alone")

    @property
    def global_rows(self) -> int:
        """Rows per step over all ranks."""
        return self.global_batch_size or self.world_size * (self.batch_size or 0)

    @property
    def num_servers(self) -> int:
        """How many servers the strategy has besides the workers."""
        return int(self.strategy.build().num_servers)

    @property
    def num_ranks(self) -> int:
        """The number of workers and servers."""
        return self.world_size + self.num_servers

    @model_validator(mode="after")
    def _fits_together(self) -> Scenario:
        problems = broken_rules({name: getattr(self, name) for name in type(self).model_fields})
        if not problems:
            try:
                self.strategy.build().check(self.world_size, self.codec.build())
            except (ValueError, PsgdsimError) as error:
                problems = [blame(str(error), ("strategy",), self.strategy, type(self).model_fields)]
            problems += list(self._broken_machine_rules()) or self._broken_event_rules()
        if problems:
            details = [
                InitErrorDetails(type=custom("rejected", message), loc=path, input=getattr(self, str(path[0])))
                for path, message in problems
            ]
            raise ValidationError.from_exception_data("Scenario", details)
        return self

    def _broken_machine_rules(self) -> Iterator[tuple[Path, str]]:
        """Yield what does not fit between the ranks, the machines and the network."""
        try:
            self.hosts.check(self.topology.build(), self.num_ranks, self.num_servers)
        except ValueError as error:
            key, _, message = str(error).partition(": ")
            yield tuple(key.split(".")), message
        beyond = [rank for rank in self.compute.build().ranks if rank >= self.world_size]
        if beyond:
            yield ("compute",), f"expected ranks of 0 to {self.world_size - 1}; got {beyond[0]}"

    def _broken_event_rules(self) -> Iterator[tuple[Path, str]]:
        """Yield what does not fit between changes and faults and what they happen to."""
        if not (self.changes or self.faults):
            return
        topology = self.hosts.place(self.topology.build(), self.num_servers).build(self.num_ranks)
        for key, specs in (("changes", self.changes), ("faults", self.faults)):
            for i, spec in enumerate(specs):
                event: Change | Fault = spec.build()
                try:
                    event.check(topology, self.num_ranks)
                except ValueError as error:
                    yield blame(str(error), (key, i), spec)
