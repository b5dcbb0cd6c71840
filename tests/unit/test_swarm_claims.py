"""Claims: who is told what of the chunks that others were given."""

from __future__ import annotations

from shoal.swarm.claims import Claims


def test_the_first_who_wants_a_chunk_claims_it_and_the_others_are_told() -> None:
    claims: Claims[str] = Claims()
    claims.claim("a", 0b0011)
    claims.claim("b", 0b0110)
    assert dict(claims.take_news("abc")) == {"a": 0b0100, "b": 0b0011, "c": 0b0111}
    assert claims.take_news("abc") == []


def test_a_getter_is_not_told_of_its_own_claims_again() -> None:
    claims: Claims[str] = Claims()
    claims.claim("a", 0b01)
    claims.take_news("ab")
    claims.claim("a", 0b11)
    assert dict(claims.take_news("ab")) == {"a": 0b01, "b": 0b10}  # who asks again may have lost what it had


def test_a_newcomer_hears_of_all_claims() -> None:
    claims: Claims[str] = Claims()
    claims.claim("a", 0b101)
    claims.take_news("ab")
    claims.greet("c")
    assert claims.take_news("abc") == [("c", 0b101)]
