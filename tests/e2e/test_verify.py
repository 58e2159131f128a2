"""What `psgdsim verify` computes agrees with theory."""

from __future__ import annotations

import pytest

from psgdsim.errors import PsgdsimError
from psgdsim.testing.verify import SUBJECTS, verify


@pytest.mark.parametrize("subject", SUBJECTS)
def test_every_check_is_right(subject):
    checks = list(verify([subject]))
    assert checks
    assert [check for check in checks if not check.is_right] == []


def test_an_unknown_subject_is_an_error():
    with pytest.raises(PsgdsimError, match="did you mean 'coded'"):
        list(verify(["codded"]))
