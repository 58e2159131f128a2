"""How messages share a network: the model of time, TCP's corrections to it, and what each message costs besides.

Nothing here knows a simulator; the same settings are the `network` section of a scenario.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Final, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from psgdsim.errors import nearest, shown
from psgdsim.units import SIZE, Duration, Size


class _Settings(BaseModel):
    """Nothing is converted silently, nothing is ignored, nothing changes."""

    model_config: ClassVar[ConfigDict] = ConfigDict(
        strict=True,
        frozen=True,
        extra="forbid",
        allow_inf_nan=False,
        validate_default=True,
        protected_namespaces=(),
    )


def _read_bytes(value: object) -> object:
    """Return the bytes that a text means; a number is bytes already, as in SimGrid."""
    return SIZE.parse(value) if isinstance(value, str) else value


def _read_share(value: object) -> object:
    """Return the coefficient that a switch means; true and 1 are SimGrid's 5 %."""
    if isinstance(value, bool) or value in (0, 1):
        return ACKNOWLEDGEMENTS if value else 0.0
    return value


ACKNOWLEDGEMENTS: Final = 0.05
"""The part of a flow's rate that its acknowledgements take on the way back, as SimGrid has it."""

_Bytes = Annotated[float, BeforeValidator(_read_bytes)]


class TcpModel(_Settings):
    """What TCP changes about max-min sharing, with the meaning that SimGrid gives these settings.

    Whenever this applies, flows share a link in inverse proportion to a penalty that stands for their round-trip
    time: the sum of the physical latencies of the route plus `weight_s / bandwidth` of each of its links. (A route
    without any latency has the penalty 1, as in SimGrid.)

    Sources: Velho, Legrand, "Accuracy study and improvement of network simulation in the SimGrid framework",
    SIMUTools 2009; Velho et al., "On the validity of flow-level TCP network models", ACM TOMACS 23(4), 2013.

    Attributes:
        bandwidth_factor: payload per byte on the wire; scales the rate that sharing grants, limited or not.
        latency_factor: scales the latency of a route; stands for TCP's slow start.
        weight_s: unfairness between short and long routes [byte].
        gamma: the largest window [byte]: a rate is at most `gamma / (2 * physical latency)`; null for no limit.
        cross_traffic: acknowledgements load the reverse route with this part of the rate; true for 0.05.
    """

    bandwidth_factor: Annotated[float, Field(gt=0, le=1)] = Field(
        default=1.0, description="payload per byte on the wire"
    )
    latency_factor: Annotated[float, Field(ge=0)] = Field(default=1.0, description="scales latency, for slow start")
    weight_s: Annotated[_Bytes, Field(ge=0)] = Field(
        default=0.0, description="unfairness between short and long routes [byte]"
    )
    gamma: Annotated[_Bytes, Field(gt=0)] | None = Field(
        default=None, description="the largest window [byte]; null for none"
    )
    cross_traffic: Annotated[float, BeforeValidator(_read_share), Field(ge=0, lt=1)] = Field(
        default=0.0,
        description="acknowledgements load the reverse route with this part of the rate; true for 0.05",
    )


TCP_PRESETS: Final[Mapping[str, TcpModel | None]] = {
    "none": None,
    "cm02": TcpModel(gamma=4194304, cross_traffic=ACKNOWLEDGEMENTS),
    "lv08": TcpModel(
        bandwidth_factor=0.97,
        latency_factor=13.01,
        weight_s=20537,
        gamma=4194304,
        cross_traffic=ACKNOWLEDGEMENTS,
    ),
}
"""SimGrid's models by name: CM02 (Casanova, Marchal, RR-LIP 2002-40) and LV08, its default."""


def _read_tcp(value: object) -> object:
    """Validate the value as what it looks like, so that a message is about that alone."""
    if isinstance(value, Mapping):
        return TcpModel.model_validate(value)
    if isinstance(value, TcpModel) or (isinstance(value, str) and value in TCP_PRESETS):
        return value
    raise ValueError(
        f"expected none, cm02, lv08 or a mapping such as {{gamma: 4194304}}; got {shown(value)}; "
        f"{nearest(value, TCP_PRESETS)}"
    )


class MessageOverhead(_Settings):
    """What each message costs besides its own bytes.

    Attributes:
        nbytes: headers that the network adds to each message; they are carried, not counted as sent by a rank.
        cpu: how long a message keeps the sender's processor busy before it leaves, and the receiver's after it has
            arrived: `o` of LogGP (Alexandrov et al., SPAA 1995).
    """

    nbytes: Size = Field(default="0 B", description="headers added to each message")
    cpu: Duration = Field(default="0 s", description="time of the sender's and of the receiver's processor per message")


class NetworkModel(_Settings):
    """How messages share the network.

    - `fluid`: messages are flows that share every link max-min fairly.
    - `fifo`: a link carries one message after the other, whole (store and forward).
    - `ideal`: a message takes latency + size / bandwidth whatever else is under way.

    Attributes:
        model: one of these.
        tcp: corrections for TCP: `none`, `cm02`, `lv08`, or the settings of a `TcpModel`; needs `fluid`.
        message_overhead: what each message costs besides its bytes.
    """

    model: Literal["fluid", "fifo", "ideal"] = Field(
        default="fluid",
        description="fluid: max-min fair flows; fifo: whole messages, one after the other; ideal: no contention",
    )
    tcp: Annotated[Literal["none", "cm02", "lv08"] | TcpModel, BeforeValidator(_read_tcp)] = Field(
        default="none",
        description="TCP's corrections to fair sharing, as in SimGrid: a preset or its settings",
    )
    message_overhead: MessageOverhead = Field(
        default=MessageOverhead(), description="what each message costs besides its own bytes"
    )

    @property
    def tcp_model(self) -> TcpModel | None:
        """The corrections that a preset stands for; None for plain fairness."""
        return self.tcp if isinstance(self.tcp, TcpModel) else TCP_PRESETS[self.tcp]

    @model_validator(mode="after")
    def _fits_together(self) -> NetworkModel:
        if self.model != "fluid" and self.tcp != "none":
            raise ValueError(f"tcp: expected none with model {self.model}, for it corrects fair sharing alone")
        return self


def tcp_model(tcp: str | Mapping[str, Any] | TcpModel | None) -> TcpModel | None:
    """Return TCP's corrections as a scenario may write them.

    Args:
        tcp: a preset's name, settings of a `TcpModel`, or None for plain fairness.

    Raises:
        ValidationError: neither of these (pydantic's, a `ValueError`).

    Example:
        >>> tcp_model("lv08").bandwidth_factor, tcp_model("none")
        (0.97, None)
    """
    return NetworkModel(tcp="none" if tcp is None else tcp).tcp_model  # type: ignore[arg-type]
