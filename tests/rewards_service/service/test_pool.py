"""Round-robin and breaker."""

from rewards_service.service.pool import Pool


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_replicas_take_turns() -> None:
    pool = Pool.of("abc")
    assert [pool.pick().handle for _ in range(5)] == list("abcab")


def test_a_retry_goes_elsewhere_when_there_is_an_elsewhere() -> None:
    pool = Pool.of("ab")
    first = pool.pick()
    assert pool.pick(avoid=first) is not first
    alone = Pool.of("a")
    assert alone.pick(avoid=alone.pick()).handle == "a"


def test_the_breaker_opens_doubles_and_closes() -> None:
    clock = Clock()
    pool = Pool.of("ab", patience=2, rest_s=4.0, clock=clock)
    a, b = pool.replicas
    pool.failed(a)
    assert {pool.pick().handle for _ in range(4)} == {"a", "b"}
    pool.failed(a)
    assert {pool.pick().handle for _ in range(4)} == {"b"}
    clock.now = 4.0
    assert {pool.pick().handle for _ in range(4)} == {"a", "b"}
    pool.failed(a)
    assert a.resting_until == 4.0 + 8.0
    pool.succeeded(a)
    assert (a.failures, a.resting_until) == (0, 0.0)
    assert b.failures == 0


def test_when_all_rest_the_first_to_wake_is_used() -> None:
    clock = Clock()
    pool = Pool.of("ab", patience=1, rest_s=4.0, clock=clock)
    pool.failed(pool.replicas[0])
    clock.now = 1.0
    pool.failed(pool.replicas[1])
    assert pool.pick().handle == "a"
