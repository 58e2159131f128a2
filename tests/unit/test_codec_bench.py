"""`psgdsim codecs bench`: what is measured, printed, written and drawn, and what is refused."""

from __future__ import annotations

import json
import math

import matplotlib.pyplot as plt
import numpy as np
import pytest

from psgdsim import codecs
from psgdsim.cli import main
from psgdsim.errors import ScenarioError
from psgdsim.report import plot_codecs
from psgdsim.testing.codec_bench import Measurement, built_in, measure_all, read_codec


def test_bits_error_and_bias():
    size = 4096
    rows = {
        row.codec: row
        for row in measure_all({"sign": codecs.scaled_sign(), "qsgd": codecs.qsgd(), "all": codecs.identity()}, size)
    }
    assert rows["sign"].error == pytest.approx(math.sqrt(1 - 2 / math.pi), rel=0.05)
    assert rows["sign"].bias == pytest.approx(rows["sign"].error, rel=1e-6)
    assert rows["qsgd"].bias < 0.3 * rows["qsgd"].error
    assert rows["all"].error == rows["all"].bias == 0
    assert 32 < rows["all"].bits < 32.5
    assert rows["all"].break_even == 0
    assert 4 + 32 / 512 < rows["qsgd"].bits < 4.5
    assert all(row.encode_rate > 0 and row.decode_rate > 0 for row in rows.values())


def test_codecs_that_look_at_shapes_get_a_matrix():
    [row] = measure_all({"power_sgd": codecs.power_sgd(rank=1)}, 4096)
    assert 32 * 2 * 64 / 4096 < row.bits < 32 * 2 * 64 / 4096 + 0.5


def test_when_a_codec_pays():
    row = Measurement("one", 1000, bits=8.0, error=0.1, bias=0.0, encode_time=3e-6, decode_time=1e-6, copy_time=1e-6)
    assert row.break_even == pytest.approx(24 * 1000 / 4e-6)
    assert row.speedup(row.break_even) == pytest.approx(1)
    assert row.speedup(1.0) == pytest.approx(4)
    assert row.document(1e9)["encode_of_copy"] == pytest.approx(1 / 3)
    assert row.document(1e9)["encode_bytes_per_second"] == pytest.approx(4000 / 3e-6)


def test_all_with_defaults_are_measured():
    assert {"qsgd", "sign", "top_k"} <= set(built_in())
    assert "error_feedback" not in built_in()


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("qsdg", r"^codec.kind: no codec is called 'qsdg'; did you mean 'qsgd'\?"),
        ("{kind: qsgd, level: 3}", r"^codec.level: unknown key; did you mean 'levels'\?"),
        ("{kind: qsgd", "^not valid YAML: .* got .{kind: qsgd.$"),
    ],
)
def test_what_is_no_codec_is_refused(spec, message):
    with pytest.raises(ScenarioError, match=message):
        read_codec(spec)


def test_the_command(tmp_path, capsys):
    table, picture = tmp_path / "codecs.json", tmp_path / "codecs.png"
    specs = "{kind: qsgd, levels: 50, bucket_size: null, coding: elias}", "sign"
    chosen = [part for spec in specs for part in ("--codec", spec)]
    with pytest.raises(SystemExit) as ended:
        main(["codecs", "bench", "--dim", "2000", *chosen, "--json", str(table), "--picture", str(picture)])
    assert not ended.value.code
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("  ")[0] for line in lines] == ["codec", *specs]
    rows = json.loads(table.read_text(encoding="utf-8"))
    assert [row["codec"] for row in rows] == list(specs)
    assert rows[0]["bits_per_value"] < 4
    assert rows[1]["link_bit_per_second"] == 1e9
    assert picture.read_bytes().startswith(b"\x89PNG")
    plt.close("all")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--link", "1 Gbps"), "--link: expected a bandwidth such as"),
        (("--codec", "sgin"), "codec.kind: no codec is called 'sgin'; did you mean 'sign'?"),
        (("--dim", "9", "--codec", "sign", "--json", "."), ".: cannot be written: Is a directory"),
        (("--dim", "9", "--codec", "sign", "--picture", "p.xyz"), "p.xyz: cannot be the picture: "),
    ],
)
def test_what_the_command_refuses(arguments, message, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as ended:
        main(["codecs", "bench", *arguments])
    assert ended.value.code in {1, 2}
    assert capsys.readouterr().err.startswith(message)
    plt.close("all")


def test_what_loses_nothing_stands_on_the_lower_edge():
    axes = plot_codecs({"sign": (1, 0.6), "identity": (32, 0.0)})
    assert [(line.get_xdata()[0], line.get_ydata()[0]) for line in axes.lines] == [(1, 0.6), (32, pytest.approx(0.2))]
    assert [line.get_label() for line in axes.lines] == ["sign", "identity"]
    assert np.all([axes.get_xscale() == "log", axes.get_yscale() == "log"])
    plt.close("all")
