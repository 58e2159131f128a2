"""`psgdsim server`: says whom it waits for only when it does."""

from __future__ import annotations

import pytest

from psgdsim.cli import main


def test_nobody_is_called_before_the_scenario_is_known_to_be_valid(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as ended:
        main(["server", "--node_count", "4", "--batch_size", "8", "--data", "digist"])
    out, err = capsys.readouterr()
    assert (ended.value.code, out) == (2, "")
    assert "did you mean 'digits'" in err
    assert "client" not in err
