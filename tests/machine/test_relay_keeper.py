"""The relay keeper: one or two relays, near ones first, others where they fail; none for who needs none."""

from __future__ import annotations

from shoal.overlay.relay_failures import PAUSE_FIRST_S, PAUSE_LAST_S, PROVEN_S
from shoal.overlay.relay_keeper import (
    CHECK_AGAIN_S,
    CHECK_FIRST_S,
    CHECK_S,
    KEPT,
    WAIT_S,
    Check,
    Failed,
    Look,
    Passed,
    RelayKeeper,
    Want,
)

OWN = bytes(32)
RELAYS = tuple(bytes([number]) * 32 for number in range(1, 9))  # in the order of their nearness to OWN
NEAR, NEXT, THIRD = RELAYS[:3]


def look(keeper: RelayKeeper, now: float, *direct: bytes, relays: tuple[bytes, ...] = RELAYS) -> list[bytes]:
    """Return which relays are to be dialled."""
    effects = keeper.step(now, Look(True, relays, frozenset(direct)))
    return [effect.relay for effect in effects if isinstance(effect, Want)]


def test_the_nearest_are_dialled_once_and_kept() -> None:
    keeper = RelayKeeper(OWN)
    assert look(keeper, 0.0) == [NEAR, NEXT]
    assert look(keeper, 1.0) == []  # on their way
    assert keeper.kept == ()
    assert look(keeper, 2.0, NEAR, NEXT) == []
    assert keeper.kept == (NEAR, NEXT)


def test_sessions_that_are_there_anyhow_are_enough() -> None:
    keeper = RelayKeeper(OWN)
    assert look(keeper, 0.0, RELAYS[6], RELAYS[5]) == []
    assert keeper.kept == (RELAYS[5], RELAYS[6])
    assert look(keeper, 1.0, RELAYS[6], RELAYS[5], NEAR) == []
    assert keeper.kept == (
        RELAYS[5],
        RELAYS[6],
    )  # a better one does not take their place: records would churn


def test_a_lost_one_is_replaced_and_named_no_more() -> None:
    keeper = RelayKeeper(OWN)
    look(keeper, 0.0, NEAR, NEXT)
    assert look(keeper, PROVEN_S, NEXT) == [NEAR]
    assert keeper.kept == (NEXT,)
    keeper.step(PROVEN_S + 1.0, Failed(NEAR))
    assert look(keeper, PROVEN_S + 1.0, NEXT) == [THIRD]


def test_who_takes_us_and_drops_us_at_once_by_whatever_word_is_not_asked_again_at_once() -> None:
    keeper = RelayKeeper(OWN)
    look(keeper, 0.0, NEAR, NEXT)
    assert look(keeper, 1.0, NEXT) == [THIRD]
    assert look(keeper, 1.0 + PAUSE_FIRST_S, NEXT, relays=(NEAR, NEXT)) == [NEAR]


def test_a_relay_that_does_not_bring_our_own_call_is_kept_no_longer_though_its_session_lasts() -> None:
    keeper = RelayKeeper(OWN)
    both = Look(True, RELAYS, frozenset({NEAR, NEXT}))
    assert keeper.step(0.0, both) == []
    assert keeper.step(CHECK_FIRST_S, both) == [Check(NEAR), Check(NEXT)]
    assert keeper.step(CHECK_FIRST_S + 1.0, both) == []
    keeper.step(3.0, Passed(NEXT))
    keeper.step(4.0, Failed(NEAR))
    assert keeper.kept == (NEXT,)
    assert keeper.step(4.0, both) == [Want(THIRD)]
    three = Look(True, RELAYS, frozenset({NEAR, NEXT, THIRD}))
    keeper.step(5.0, three)
    assert keeper.kept == (NEXT, THIRD)
    assert keeper.step(5.0 + CHECK_FIRST_S, three) == [Check(THIRD)]
    # of the third nothing was heard: its session was replaced meanwhile
    assert keeper.step(5.0 + CHECK_FIRST_S + CHECK_AGAIN_S, three) == [Check(THIRD)]
    keeper.step(50.0, Passed(THIRD))
    assert keeper.step(3.0 + CHECK_S, three) == [Check(NEXT)]


def test_who_fails_again_and_again_is_left_alone_longer_and_longer() -> None:
    keeper = RelayKeeper(OWN)
    now, pauses = 0.0, []
    for _ in range(8):
        began = now
        keeper.step(now, Failed(NEAR))
        while look(keeper, now, relays=(NEAR,)) == []:
            now += 1.0
        pauses.append(now - began)
    assert pauses[0] == PAUSE_FIRST_S
    assert pauses == sorted(pauses)
    assert pauses[-1] == PAUSE_LAST_S


def test_who_takes_us_and_evicts_us_at_once_is_left_alone_longer_too() -> None:
    keeper = RelayKeeper(OWN)
    now, pauses = 0.0, []
    for lasts in (1.0, 1.0, PROVEN_S, 1.0):
        assert look(keeper, now, NEAR, relays=(NEAR,)) == []
        assert keeper.kept == (NEAR,)
        now += lasts
        look(keeper, now, NEAR, relays=(NEAR,))
        keeper.step(now, Failed(NEAR))
        began = now
        while look(keeper, now, relays=(NEAR,)) == []:
            now += 1.0
        pauses.append(now - began)
    # who kept us for a while has a place: the count begins anew
    assert pauses == [PAUSE_FIRST_S, 2 * PAUSE_FIRST_S, PAUSE_FIRST_S, 2 * PAUSE_FIRST_S]


def test_a_wish_that_nobody_answers_counts_as_a_failure() -> None:
    keeper = RelayKeeper(OWN)
    assert look(keeper, 0.0, relays=(NEAR, THIRD)) == [NEAR, THIRD]
    assert look(keeper, WAIT_S, relays=RELAYS) == [NEXT, RELAYS[3]]


def test_who_can_be_dialled_keeps_none() -> None:
    keeper = RelayKeeper(OWN)
    look(keeper, 0.0, NEAR, NEXT)
    assert keeper.step(1.0, Look(False, RELAYS, frozenset(RELAYS))) == []
    assert keeper.kept == ()


def test_it_never_keeps_more_whatever_there_is() -> None:
    keeper = RelayKeeper(OWN)
    for now in range(200):
        effects = keeper.step(float(now), Look(True, RELAYS, frozenset(RELAYS[now % 8 :])))
        assert len(effects) <= 2 * KEPT
        assert len(keeper.kept) <= KEPT


def test_a_relay_that_is_no_member_any_more_is_not_kept() -> None:
    keeper = RelayKeeper(OWN)
    look(keeper, 0.0, NEAR, NEXT)
    assert look(keeper, 1.0, NEAR, NEXT, relays=RELAYS[1:]) == [THIRD]
    assert keeper.kept == (NEXT,)


def test_the_only_relay_is_kept_again_at_once_when_its_session_is_replaced() -> None:
    """Between two sessions it is not there for a moment, which looks like a relay that dropped us."""
    keeper = RelayKeeper(OWN)
    look(keeper, 0.0, NEAR, relays=(NEAR,))
    look(keeper, 1.0, relays=(NEAR,))
    assert keeper.kept == ()
    look(keeper, 1.2, NEAR, relays=(NEAR,))
    assert keeper.kept == (NEAR,)
    assert look(keeper, 2.0, NEAR) == [NEXT]  # another one is looked for beside it
    look(keeper, 3.0, NEAR, NEXT)
    assert keeper.kept == (NEXT,)  # and is better while the first is left alone
