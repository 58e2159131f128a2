"""When a run in real mode counts as stuck."""

from __future__ import annotations

import msgspec
import pytest

from psgdsim.real.control import Heartbeat
from psgdsim.real.stall import STALL_SECONDS, StallDetector

WAITING = Heartbeat(state="waiting", waits=["recv(tag='push') from any rank"])


def look_for(seconds: float, beating: dict[str, Heartbeat], silent: dict[str, Heartbeat]) -> str | None:
    """Return what the detector says after so long, while some ranks say the same again and others nothing."""
    detector, error = StallDetector(), None
    for i in range(int(seconds / 0.25) + 1):
        again = {name: msgspec.structs.replace(beat) for name, beat in beating.items()}
        error = detector.look({**again, **silent}, 0.25 * i) or error
    return None if error is None else str(error)


def test_ranks_that_all_wait_again_and_again_are_stuck() -> None:
    assert "rank 1 (step 1) waits for recv(tag='push')" in (
        look_for(STALL_SECONDS, {"rank 0": WAITING, "rank 1": WAITING}, {}) or ""
    )
    assert look_for(STALL_SECONDS - 0.25, {"rank 0": WAITING}, {}) is None


@pytest.mark.parametrize("last", [WAITING, Heartbeat(state="ended")], ids=["waiting", "ended"])
def test_a_rank_that_is_silent_may_still_do_something(last: Heartbeat) -> None:
    assert look_for(10 * STALL_SECONDS, {"rank 0": WAITING}, {"rank 1": last}) is None


def test_a_rank_waits_in_vain_for_one_that_has_ended() -> None:
    ended = Heartbeat(state="ended")
    assert "rank 0 (step 1) waits for" in (look_for(STALL_SECONDS, {"rank 0": WAITING, "rank 1": ended}, {}) or "")


@pytest.mark.parametrize("changes", [{"state": "busy"}, {"messages_sent": 1}])
def test_a_rank_that_computes_or_a_message_on_its_way_is_no_stall(changes: dict[str, object]) -> None:
    other = msgspec.structs.replace(WAITING, **changes)
    assert look_for(10 * STALL_SECONDS, {"rank 0": WAITING, "rank 1": other}, {}) is None
