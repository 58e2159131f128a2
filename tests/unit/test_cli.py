"""The command: what goes to which stream, exit codes, and the scenario that the flags of `server` describe."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from psgdsim.cli import main
from psgdsim.cli.app import split_address
from psgdsim.cli.progress import TerminalProgress, progress_line
from psgdsim.errors import PeerLost, ScenarioError
from psgdsim.results import RunResult
from psgdsim.scenario import from_dict

GOOD = """\
name: good
world_size: 2
model: {kind: quadratic, dim: 2}
data: {kind: none}
batch_size: 1
optimizer: {kind: sgd, learning_rate: 0.1}
strategy: {kind: all_reduce}
topology: {kind: star, bandwidth: 1 Gbit/s, latency: 50 us}
max_steps: 2
"""

Outputs = tuple[int, str, str]


@pytest.fixture
def good(tmp_path: Path) -> Path:
    file = tmp_path / "good.yaml"
    file.write_text(GOOD)
    return file


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str]) -> Any:
    """Run the command in this process; returns its exit code and both streams."""

    def run_command(*arguments: object) -> Outputs:
        with pytest.raises(SystemExit) as ended:
            main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return int(ended.value.code or 0), captured.out, captured.err

    return run_command


# --- light ----------------------------------------------------------------------------------------------------------

BLOCKED = """
import importlib.abc, sys
class Blocked(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {"numpy", "jax", "jaxlib", "matplotlib", "optax", "sklearn", "scipy", "simpy"}:
            raise AssertionError(f"imported {name}")
sys.meta_path.insert(0, Blocked())
from psgdsim.cli import main
main(sys.argv[1:])
"""


@pytest.mark.parametrize("arguments", [["--help"], ["run", "--help"], ["list"], ["schema"], ["check", "FILE"]])
def test_light_commands_import_nothing_heavy(arguments: list[str], good: Path) -> None:
    given = [str(good) if argument == "FILE" else argument for argument in arguments]
    ended = subprocess.run(
        [sys.executable, "-c", BLOCKED, *given],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (ended.returncode, ended.stderr) == (0, "")
    assert ended.stdout


# --- check, schema, list --------------------------------------------------------------------------------------------


def test_version(call: Any) -> None:
    from psgdsim import __version__

    assert call("--version") == (0, f"psgdsim {__version__}\n", "")


def test_check(call: Any, good: Path) -> None:
    assert call("check", good, good) == (0, f"{good}: ok: good, 2 ranks, all_reduce\n" * 2, "")


def test_check_reports_every_file(call: Any, good: Path, tmp_path: Path) -> None:
    bad = tmp_path / "bad.yaml"
    bad.write_text(GOOD.replace("max_steps: 2", "max_steps: two"))
    code, out, err = call("check", bad, good, tmp_path / "none.yaml")
    assert code == 2
    assert out == f"{good}: ok: good, 2 ranks, all_reduce\n"
    lines = err.split("\n")
    assert lines[0] == f"{bad}:9:12: max_steps: expected an integer; got 'two'"
    assert lines[1:3] == ["    max_steps: two", "               ^"]
    assert lines[3].startswith(f"{tmp_path / 'none.yaml'}: no such file")


def test_check_applies_overrides(call: Any, good: Path) -> None:
    code, _, err = call("check", good, "--set", "max_steps=0")
    assert (code, err) == (2, "--set max_steps: expected at least 1; got 0\n")


def test_debug_shows_where_an_error_came_from(good: Path) -> None:
    with pytest.raises(ScenarioError):
        main(["check", str(good), "--set", "max_steps=0", "--debug"])


def test_schema_is_json(call: Any) -> None:
    code, out, err = call("schema")
    assert (code, err) == (0, "")
    assert json.loads(out)["title"] == "psgdsim scenario"


def test_list_in_a_pipe_is_plain(call: Any) -> None:
    code, out, err = call("list", "topologies")
    assert (code, err) == (0, "")
    lines = out.split("\n")
    assert lines[0] == "topologies:"
    assert "    bandwidth: bandwidth or null  of each host's link, each way; null for no limit." in lines


def test_list_as_json(call: Any) -> None:
    rows = json.loads(call("list", "codecs", "--json")[1])
    top_k = next(row for row in rows if row["kind"] == "top_k")
    assert top_k["family"] == "codecs"
    assert [parameter["name"] for parameter in top_k["parameters"]] == ["ratio", "index_coding"]
    assert top_k["parameters"][0] == {
        "name": "ratio",
        "type": "float > 0 <= 1",
        "is_required": False,
        "default": 0.01,
        "help": "the share of the values that is sent, k/D.",
    }


def test_list_of_an_unknown_family(call: Any) -> None:
    code, out, err = call("list", "codec")
    assert (code, out) == (2, "")
    assert err.startswith("nothing is called 'codec'; did you mean 'codecs'?")


def test_verify_of_an_unknown_subject(call: Any) -> None:
    code, out, err = call("verify", "codec")
    assert (code, out) == (2, "")
    assert err.startswith("nothing to verify is called 'codec'; did you mean 'codecs'?")


def test_unknown_plugin(call: Any) -> None:
    code, _, err = call("list", "--plugin", "no_such_module_for_test")
    assert code == 1
    assert err.startswith("cannot import 'no_such_module_for_test': ModuleNotFoundError")


@pytest.mark.parametrize("arguments", [["rnu"], ["run"], ["run", "x.yaml", "--mode", "dream"], ["check", "--nope"]])
def test_usage_errors(call: Any, arguments: list[str]) -> None:
    code, out, err = call(*arguments)
    assert (code, out) == (2, "")
    assert err.startswith("Usage: psgdsim")
    assert "Error: " in err


# --- run ------------------------------------------------------------------------------------------------------------


def test_run_prints_a_short_summary(call: Any, good: Path, tmp_path: Path) -> None:
    code, out, err = call("run", good, "--out", tmp_path / "a", "--seed", 5)
    assert (code, err) == (0, "")
    assert "status         completed\n" in out
    assert "steps          2\n" in out
    assert f"folder         {tmp_path / 'a'}\n" in out
    assert json.loads((tmp_path / "a" / "summary.json").read_text())["seed"] == 5


def test_run_as_json_prints_the_summary_and_nothing_else(call: Any, good: Path, tmp_path: Path) -> None:
    code, out, err = call("run", good, "--out", tmp_path / "a", "--json", "--set", "max_steps=3")
    assert (code, err) == (0, "")
    assert json.loads(out) == json.loads((tmp_path / "a" / "summary.json").read_text())
    assert json.loads(out)["steps"] == 3


def test_run_starts_nothing_for_a_wrong_scenario(call: Any, good: Path, tmp_path: Path) -> None:
    code, out, err = call("run", good, "--out", tmp_path / "a", "--set", "strategy.kind=al_reduce")
    assert (code, out) == (2, "")
    assert err.startswith("--set strategy.kind: no strategy is called 'al_reduce'; did you mean 'all_reduce'?")
    assert not (tmp_path / "a").exists()


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[tuple[Any, dict[str, Any]]]:
    """Replace `psgdsim.entry.run` by one that only notes what it is called with and fails."""
    calls: list[tuple[Any, dict[str, Any]]] = []

    def run(source: Any, **options: Any) -> RunResult:
        calls.append((source, options))
        return RunResult(tmp_path, {"status": "failed"}, PeerLost(1, 3, "killed by signal 9"))

    monkeypatch.setattr(sys.modules["psgdsim.entry"], "run", run)
    return calls


def test_a_failed_run_says_why_and_where(call: Any, good: Path, tmp_path: Path, runs: list[Any]) -> None:
    code, out, err = call("run", good, "--json")
    assert code == 1
    assert json.loads(out) == {"status": "failed"}
    assert err == f"rank 1: lost rank 3: killed by signal 9\nwhat the run had is in {tmp_path}\n"
    source, options = runs[0]
    assert source == good
    assert {name: options[name] for name in ("mode", "out", "overrides", "seed")} == {
        "mode": "sim",
        "out": None,
        "overrides": [],
        "seed": None,
    }


# --- server, client, worker -----------------------------------------------------------------------------------------


def served(call: Any, runs: list[Any], *arguments: object) -> Any:
    call("server", *arguments)
    source, options = runs[-1]
    assert options["mode"] == "real"
    return from_dict(source)


def test_server_takes_the_classic_flags(call: Any, runs: list[Any], tmp_path: Path) -> None:
    flags = (
        "--node_count 4 --batch_size 128 --redundancy 1 --codec plain --psgd ssgd --learn_rate 0.05 --epochs 10 "
        "--working_ports 55555 --block_assignment iid --out"
    )
    scenario = served(call, runs, *flags.split(), tmp_path / "a")
    assert runs[0][1]["out"] == tmp_path / "a"
    assert (scenario.name, scenario.world_size) == ("ssgd-plain-4", 4)
    assert (scenario.global_rows, scenario.epochs) == (128, 10)
    assert scenario.model.parameters == {"hidden": (128, 128), "activation": "tanh"}
    assert scenario.optimizer.parameters["learning_rate"] == 0.05
    expected = {
        "algorithm": "broadcast",
        "redundancy": 1,
        "assignment": "subsets",
        "group_size": None,
        "segments": None,
        "accumulation": 1,
        "bucket_size": None,
        "double_buffer": False,
    }
    assert (scenario.strategy.kind, scenario.strategy.parameters) == ("all_reduce", expected)
    assert (scenario.real.processes, scenario.real.port) == ("manual", 55555)
    assert scenario.data.kind == "digits"


def test_server_flags_with_dashes_and_ccdc(call: Any, runs: list[Any]) -> None:
    flags = "--node-count 4 --batch-size 64 --redundancy 3 --codec ccdc --learn-rate 0.1 --working-ports 5000 --ip ::1"
    scenario = served(call, runs, *flags.split())
    assert scenario.strategy.kind == "coded_shuffle"
    assert (scenario.strategy.parameters["code"], scenario.strategy.parameters["redundancy"]) == ("cdc_all_gather", 3)
    assert (scenario.real.host, scenario.real.port) == ("::1", 5000)


def test_server_with_another_codec(call: Any, runs: list[Any]) -> None:
    scenario = served(
        call, runs, *["--node_count", "2", "--batch_size", "8", "--codec", "top_k", "--block-assignment", "cyclic"]
    )
    assert scenario.codec.kind == "top_k"
    assert scenario.strategy.parameters["assignment"] == "cyclic"


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--codec plian", "--codec: nothing is called 'plian'; did you mean 'plain'?"),
        ("--codec error_feedback", "--codec: nothing is called 'error_feedback'; "),
        ("--psgd asgd", "--psgd: nothing is called 'asgd'; did you mean 'ssgd'? (valid: ssgd)"),
        ("--block_assignment idd", "--block-assignment: nothing is called 'idd'; did you mean 'iid'?"),
        ("--codec ccdc --block_assignment cyclic", "--block-assignment: codec ccdc needs 'iid'; got 'cyclic'"),
    ],
)
def test_server_with_wrong_names(call: Any, runs: list[Any], flags: str, message: str) -> None:
    code, out, err = call("server", "--node_count", 4, "--batch_size", 8, *flags.split())
    assert (code, out, runs) == (2, "", [])
    assert err.startswith(message)


@pytest.mark.parametrize(
    ("command", "arguments", "address"),
    [
        ("worker", ["--connect", "127.0.0.1:4000"], ("127.0.0.1", 4000)),
        ("worker", ["--connect", "[::1]:4000"], ("::1", 4000)),
        ("client", ["--ip", "127.0.0.1", "--port", "4000"], ("127.0.0.1", 4000)),
        ("relay", ["--connect", "localhost:4000"], ("localhost", 4000)),
    ],
)
def test_joining(
    call: Any, monkeypatch: pytest.MonkeyPatch, command: str, arguments: list[str], address: tuple[str, int]
) -> None:
    from psgdsim.real import relay, worker

    joined = []
    for name, module in (("worker", worker), ("relay", relay)):
        monkeypatch.setattr(module, "main", lambda *where, name=name: joined.append((name, where)) or 3)
    assert call(command, *arguments) == (3, "", "")
    assert joined == [("relay" if command == "relay" else "worker", address)]


@pytest.mark.parametrize("text", ["", "4000", "host", "host:", ":4000", "host:http", "host:0", "host:65536"])
def test_wrong_address(text: str) -> None:
    with pytest.raises(ScenarioError, match="--connect: expected HOST:PORT, such as"):
        split_address(text)


# --- progress -------------------------------------------------------------------------------------------------------


def test_progress_line() -> None:
    line = progress_line(1.23456, 10, 0.5, 2_500_000, last_step=40, left=12.4)
    assert line == "time 1.235 s  step 10/40  loss 0.5000  2.5 MB sent  12 s left"
    assert progress_line(0.0, 0, None, 0) == "time 0.000 s  step 0  0.0 MB sent"


def test_no_progress_in_a_pipe(capsys: pytest.CaptureFixture[str]) -> None:
    with TerminalProgress() as progress:
        progress(1.0, 1, 10, 0.5, 100)
    assert capsys.readouterr() == ("", "")


def test_progress_on_a_terminal(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setenv("TERM", "xterm")
    with TerminalProgress() as progress:
        progress(1.0, 1, 10, 0.5, 100)
        progress(2.0, 2, 10, 0.5, 100)
    out, err = capsys.readouterr()
    assert out == ""
    assert "time 1.000 s  step 1/10  loss 0.5000  0.0 MB sent" in err
    assert "step 2/10" not in err  # too soon after the first
