"""The settings of a network: what may be written, what it means, and how a mistake is reported."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from psgdsim.network_model import MessageOverhead, NetworkModel, TcpModel, tcp_model


def test_the_default_is_plain_fairness():
    assert NetworkModel().model == "fluid"
    assert NetworkModel().tcp_model is None
    assert NetworkModel().message_overhead == MessageOverhead(nbytes="0 B", cpu="0 s")


def test_presets_are_those_of_simgrid():
    assert tcp_model("lv08") == TcpModel(
        bandwidth_factor=0.97, latency_factor=13.01, weight_s=20537, gamma=4194304, cross_traffic=0.05
    )
    assert tcp_model("cm02") == TcpModel(gamma=4194304, cross_traffic=0.05)
    assert tcp_model("none") is None
    assert tcp_model(None) is None


def test_settings_that_are_left_out_change_nothing():
    assert tcp_model({}) == TcpModel(
        bandwidth_factor=1.0, latency_factor=1.0, weight_s=0.0, gamma=None, cross_traffic=0.0
    )


@pytest.mark.parametrize(("written", "share"), [(True, 0.05), (1, 0.05), (False, 0.0), (0, 0.0), (0.1, 0.1)])
def test_cross_traffic_is_a_switch_or_a_share(written, share):
    assert TcpModel(cross_traffic=written).cross_traffic == share


def test_bytes_may_carry_their_unit():
    assert TcpModel(gamma="4 MiB", weight_s="8775 B") == TcpModel(gamma=4194304, weight_s=8775)


def test_what_is_written_reads_back():
    model = NetworkModel(
        tcp={"gamma": "1 MiB", "cross_traffic": True}, message_overhead={"nbytes": "66 B", "cpu": "5 us"}
    )
    assert NetworkModel.model_validate(model.model_dump(mode="json")) == model
    assert NetworkModel.model_validate(NetworkModel(tcp="lv08").model_dump(mode="json")) == NetworkModel(tcp="lv08")


@pytest.mark.parametrize(
    ("settings", "place", "message"),
    [
        ({"tcp": "cm2"}, ("tcp",), "did you mean 'cm02'"),
        ({"tcp": None}, ("tcp",), "expected none, cm02, lv08 or a mapping"),
        ({"tcp": {"gama": 1}}, ("tcp", "gama"), "Extra inputs"),
        ({"tcp": {"gamma": 0}}, ("tcp", "gamma"), "greater than 0"),
        ({"tcp": {"bandwidth_factor": 1.5}}, ("tcp", "bandwidth_factor"), "less than or equal to 1"),
        ({"model": "fifo", "tcp": "lv08"}, (), "tcp: expected none with model fifo"),
        ({"model": "queue"}, ("model",), "'fluid', 'fifo' or 'ideal'"),
        ({"message_overhead": {"cpu": 3}}, ("message_overhead", "cpu"), "a time with its unit"),
    ],
)
def test_mistakes(settings, place, message):
    with pytest.raises(ValidationError) as error:
        NetworkModel(**settings)
    (problem,) = error.value.errors()
    assert problem["loc"] == place
    assert message in problem["msg"]
