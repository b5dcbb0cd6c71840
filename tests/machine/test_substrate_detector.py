"""Playbooks of the detector: probes, helpers, suspicion, refutation, and Lifeguard's patience."""

from __future__ import annotations

from tests.support.substrate_world import ME, Playbook, peer

from shoal.core.chance import Chance
from shoal.overlay.substrate.config import DetectorConfig, SubstrateConfig
from shoal.overlay.substrate.detector import HELPED_A_PEER, HELPED_LIMIT, Detector, Roster, Standing
from shoal.overlay.substrate.messages import (
    Neighbour,
    Part,
    Probe,
    ProbeAnswer,
    ProbeFor,
    ProbeSilence,
    Update,
    check,
)
from shoal.overlay.substrate.steps import Cancel, Disconnect, Effect, Found, Send, SetTimer, Timer

ANN, BEN, EVE = peer(1), peer(2), peer(3)


def make(members: int = 10, config: DetectorConfig | None = None) -> Detector:
    return Detector(ME, config or DetectorConfig(), Chance(1), Roster(peer(n) for n in range(1, members + 1)))


def sent(out: list[Effect], kind: type) -> list[Send]:
    return [effect for effect in out if isinstance(effect, Send) and isinstance(effect.message, kind)]


def suspect_s(out: list[Effect], target: bytes) -> float:
    return next(e.at for e in out if isinstance(e, SetTimer) and e.token == ("suspect", target))


def probe(detector: Detector, now: float) -> tuple[bytes, int]:
    """Begin a period; return who is probed, and the number."""
    out: list[Effect] = []
    detector.on_period(now, out)
    (one,) = sent(out, Probe)
    return one.peer, one.message.number  # type: ignore[attr-defined]


def test_each_member_is_probed_once_a_round() -> None:
    detector = make(10)
    probed = []
    for now in range(10):
        target, number = probe(detector, float(now))
        detector.on_probe_answer(now + 0.1, target, ProbeAnswer(number, []), [])
        probed.append(target)
    assert sorted(probed) == [peer(n) for n in range(1, 11)]


def test_a_silent_one_is_probed_by_helpers_then_suspected_then_gone() -> None:
    detector = make()
    target, number = probe(detector, 0.0)
    out: list[Effect] = []
    detector.on_late(0.5, out)
    asked = sent(out, ProbeFor)
    assert len(asked) == 3
    assert all(one.message == ProbeFor(number, target, []) for one in asked)
    assert target not in {one.peer for one in asked}
    detector.on_period(1.0, out := [])
    assert Found(target, Standing.SUSPECT) in out
    assert suspect_s(out, target) >= 5.0
    detector.on_suspect_timer(target, out := [])
    assert Found(target, Standing.GONE) in out


def test_an_answer_over_a_helper_counts() -> None:
    detector = make()
    target, number = probe(detector, 0.0)
    detector.on_late(0.5, out := [])
    helper = sent(out, ProbeFor)[0].peer
    detector.on_probe_answer(0.9, helper, ProbeAnswer(number, []), [])
    detector.on_period(1.0, out := [])
    assert Found(target, Standing.SUSPECT) not in out


def test_nobody_else_answers_for_a_target() -> None:
    detector = make()
    target, number = probe(detector, 0.0)
    detector.on_late(0.5, out := [])
    asked = {target, *(one.peer for one in sent(out, ProbeFor))}
    liar = next(peer(n) for n in range(1, 11) if peer(n) not in asked)
    detector.on_probe_answer(0.9, liar, ProbeAnswer(number, []), [])
    for _ in range(3):
        detector.on_probe_silence(liar, ProbeSilence(number))
    detector.on_period(1.0, out := [])
    assert Found(target, Standing.SUSPECT) in out
    assert detector.health == 3  # three helpers said nothing


def test_a_helper_says_once_that_there_is_silence() -> None:
    detector = make()
    _, number = probe(detector, 0.0)
    detector.on_late(0.5, out := [])
    for _ in range(3):
        detector.on_probe_silence(sent(out, ProbeFor)[0].peer, ProbeSilence(number))
    detector.on_period(1.0, [])
    assert detector.health == 2


def test_who_is_asked_to_help_probes_and_passes_the_answer_on() -> None:
    detector = make()
    detector.on_probe_for(0.0, ANN, ProbeFor(77, BEN, []), out := [])
    (own,) = sent(out, Probe)
    assert own.peer == BEN
    number = own.message.number  # type: ignore[attr-defined]
    detector.on_silence_timer(number, out := [])
    assert out == [Send(ANN, ProbeSilence(77))]
    detector.on_probe_answer(0.5, EVE, ProbeAnswer(number, []), out := [])
    assert out == []  # not its answer to give
    detector.on_probe_answer(0.5, BEN, ProbeAnswer(number, []), out := [])
    assert out == [
        Cancel(("probe silence", number)),
        Cancel(("probe helped", number)),  # as many timers as probes that are helped with
        Send(ANN, ProbeAnswer(77, [])),
    ]


def test_help_has_its_limits() -> None:
    detector = make(100)
    for number in range(1000):
        detector.on_probe_for(0.0, EVE, ProbeFor(number, BEN, []), [])
    assert len(detector._helped) == HELPED_A_PEER
    for asker in range(4, 101):
        for number in range(HELPED_A_PEER):
            detector.on_probe_for(0.0, peer(asker), ProbeFor(number, BEN, []), [])
    assert len(detector._helped) == HELPED_LIMIT


def test_who_is_not_watched_gets_no_help() -> None:
    detector = make(5)
    detector.on_probe_for(0.0, peer(6), ProbeFor(1, BEN, []), out := [])
    assert out == []


def test_a_suspect_that_speaks_up_is_there_again() -> None:
    detector = make()
    update = Update(BEN, Standing.SUSPECT, 0, ANN)
    detector.on_probe(0.0, ANN, Probe(1, [update]), [])
    assert detector.find_standing(BEN) == Standing.SUSPECT
    same = Update(BEN, Standing.THERE, 0, BEN)
    detector.on_probe(0.1, BEN, Probe(1, [same]), [])
    assert detector.find_standing(BEN) == Standing.SUSPECT  # not newer than what it is suspected of
    detector.on_probe(0.2, BEN, Probe(1, [Update(BEN, Standing.THERE, 1, BEN)]), out := [])
    assert Found(BEN, Standing.THERE) in out


def test_we_refute_what_is_said_of_us() -> None:
    detector = make()
    detector.on_probe(0.0, ANN, Probe(1, [Update(ME, Standing.SUSPECT, 4, EVE)]), out := [])
    (answer,) = sent(out, ProbeAnswer)
    assert Update(ME, Standing.THERE, 5, ME) in answer.message.updates  # type: ignore[attr-defined]
    assert detector.health == 1


def test_who_learned_of_us_later_is_told_again_what_we_said() -> None:
    detector = make()
    detector.on_probe(0.0, ANN, Probe(1, [Update(ME, Standing.SUSPECT, 4, ANN)]), [])
    for number in range(20):  # until nobody is told of it any more
        detector.on_probe(1.0, BEN, Probe(number, []), out := [])
    assert sent(out, ProbeAnswer)[0].message == ProbeAnswer(19, [])
    fresh = make()
    fresh.on_probe(2.0, ANN, Probe(1, [Update(BEN, Standing.SUSPECT, 0, EVE)]), [])
    detector.on_probe(2.0, EVE, Probe(1, [Update(ME, Standing.SUSPECT, 0, EVE)]), out := [])
    (answer,) = sent(out, ProbeAnswer)
    assert Update(ME, Standing.THERE, 5, ME) in answer.message.updates  # type: ignore[attr-defined]
    assert detector.health == 1  # it is old news: we are no slower for it
    told = Update(BEN, Standing.THERE, 5, BEN)
    fresh.on_probe(3.0, BEN, Probe(2, [told]), [])
    assert fresh.find_standing(BEN) == Standing.THERE


def test_whatever_is_said_of_us_can_be_refuted() -> None:
    accuser = Roster([ME])
    for first in (0, 2**31, 2**32 - 1):
        detector = make()
        detector.on_probe(0.0, ANN, Probe(1, [Update(ME, Standing.GONE, first, EVE)]), [])
        for said in (2**32 - 1, 0, 2**31, 2**31 - 1, 2**32 - 1):
            other = Detector(ANN, DetectorConfig(), Chance(1), accuser)
            suspicion = Update(ME, Standing.SUSPECT, said, EVE)
            if said:
                other.on_probe(0.0, EVE, Probe(1, [Update(ME, Standing.THERE, said, ME)]), [])
            other.on_probe(0.0, EVE, Probe(2, [suspicion]), [])
            detector.on_probe(1.0, ANN, Probe(2, [suspicion]), out := [])
            (answer,) = sent(out, ProbeAnswer)
            check(answer.message)
            other.on_probe_answer(2.0, ME, answer.message, [])  # type: ignore[arg-type]
            assert other.find_standing(ME) == Standing.THERE


def test_suspicions_of_more_members_make_the_time_shorter() -> None:
    detector = make(100)
    times = []
    for number, source in enumerate((ANN, ANN, EVE, peer(50), peer(51), peer(52))):
        update = Update(BEN, Standing.SUSPECT, 0, source)
        detector.on_probe(0.0, source, Probe(number, [update]), out := [])
        times += [e.at for e in out if isinstance(e, SetTimer) and e.token == ("suspect", BEN)]
    assert times == sorted(times, reverse=True)
    assert len(times) == 4  # one of a source, and three confirmations
    assert times[0] > 5 * times[-1]


def test_who_is_slow_waits_longer_and_gets_well_again() -> None:
    detector = make()
    for now in range(5):
        probe(detector, float(now))
    assert detector.health >= 3
    slow: list[Effect] = []
    detector.on_period(10.0, slow)
    period = next(e.at for e in slow if isinstance(e, SetTimer) and e.token == ("probe",))
    assert period - 10.0 > 3.0
    before = detector.health
    target, number = probe(detector, 20.0)
    detector.on_probe_answer(20.1, target, ProbeAnswer(number, []), [])
    detector.on_period(21.0, [])
    assert detector.health <= before + 1


def test_health_has_a_limit_and_plain_swim_none() -> None:
    detector = make()
    for now in range(50):
        probe(detector, float(now)) if detector._next_target() else None
    assert detector.health <= 8


def test_updates_of_strangers_are_not_kept() -> None:
    detector = make(5)
    for number in range(200):
        update = Update(peer(1000 + number), Standing.SUSPECT, 0, EVE)
        detector.on_probe(0.0, EVE, Probe(number, [update] * 8), [])
    assert len(detector._states) <= 5
    assert len(detector._updates) <= 6


def test_who_left_is_forgotten() -> None:
    detector = make()
    detector.on_probe(0.0, ANN, Probe(1, [Update(BEN, Standing.SUSPECT, 0, ANN)]), [])
    detector.drop(BEN, [])
    assert detector.find_standing(BEN) is None
    assert BEN not in detector._states


def make_neighbours() -> Playbook:
    book = Playbook(SubstrateConfig(estimates=False))
    for other in (ANN, BEN, EVE):
        book.get(other, Neighbour(True))
    return book


def test_by_hearsay_alone_no_neighbour_is_let_go() -> None:
    book = make_neighbours()
    sources = [peer(50), peer(51), peer(52), peer(53)]
    book.get(EVE, Probe(1, [Update(BEN, Standing.SUSPECT, 0, source) for source in sources]))
    book.do(Timer(("suspect", BEN)), wait_s=20.0)
    assert Found(BEN, Standing.GONE) in book.effects
    assert book.of(Disconnect) == book.sent(BEN) == []
    assert BEN in book.machine.views.active  # the driver asks its session for a sign of life


def test_who_is_gone_by_our_own_probes_is_let_go() -> None:
    book = make_neighbours()
    for _ in range(10):
        book.do(Timer(("probe",)), wait_s=2.0)
        suspects = [found.peer for found in book.of(Found) if found.standing == Standing.SUSPECT]
        if suspects:
            break
    book.do(Timer(("suspect", suspects[0])), wait_s=60.0)
    assert Disconnect(suspects[0], "gone") in book.effects
    assert Part(False) in book.sent(suspects[0])
