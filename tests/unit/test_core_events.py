"""Events: handlers, subscriptions, and what a slow listener loses."""

from dataclasses import dataclass

from shoal.core.events import QUEUE_LIMIT, EventBus
from shoal.core.observation import Observation, ObservationLog


@dataclass(frozen=True)
class Ping:
    number: int


@dataclass(frozen=True)
class Pong:
    number: int


def test_handlers_get_only_their_type_until_they_stop() -> None:
    bus = EventBus()
    seen: list[int] = []
    stop = bus.on(Ping, lambda event: seen.append(event.number))
    bus.publish(Ping(1))
    bus.publish(Pong(2))
    stop()
    stop()
    bus.publish(Ping(3))
    assert seen == [1]


async def test_subscription_delivers_in_order_and_ends_on_close() -> None:
    bus = EventBus()
    with bus.subscribe(Ping) as subscription:
        for number in range(3):
            bus.publish(Ping(number))
        subscription.close()
        assert [event.number async for event in subscription] == [0, 1, 2]


async def test_slow_subscriber_loses_the_oldest_and_knows_it() -> None:
    bus = EventBus()
    subscription = bus.subscribe(Ping)
    for number in range(QUEUE_LIMIT + 5):
        bus.publish(Ping(number))
    subscription.close()
    numbers = [event.number async for event in subscription]
    assert (numbers[0], subscription.lost) == (5, 5)


def test_observations_are_counted_but_logged_once_a_second() -> None:
    now = [0.0]
    lines: list[str] = []

    class Log:
        def warning(self, text: str, *args: object) -> None:
            lines.append(text % args)

    observe = ObservationLog(lambda: now[0])
    observe.log = Log()  # type: ignore[assignment]
    for _ in range(5):
        observe(Observation("bad_knock", "10.0.0.1"))
    now[0] = 1.5
    observe(Observation("bad_knock", "10.0.0.1"))
    assert observe.counts == {"bad_knock": 6}
    assert len(lines) == 2
    assert lines[1].endswith("(+4 like it)")
