"""Which Serve replica comes next: the least busy one, never one that just failed as long as there are others."""

import pickle
from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from rewards_service.service.route import Routes

NAMES = ["a", "b", "c"]


def test_requests_that_come_at_once_spread_evenly() -> None:
    routes = Routes()
    begun = [routes.begin(()) for _ in range(9)]
    for route in begun:
        assert sorted(route.order(NAMES)) == NAMES
    assert Counter(route.placed for route in begun) == routes.in_flight() == {"a": 3, "b": 3, "c": 3}
    for route in begun:
        if route.placed == "b":
            route.end()
    later = routes.begin(())
    assert later.order(NAMES)[0] == "b"


def test_what_failed_is_left_out_unless_nothing_else_is_there() -> None:
    routes = Routes(patience=1, rest_s=60)
    assert routes.begin({"a"}).order(["a", "b"]) == ["b"]
    assert routes.begin({"a"}).order(["a"]) == ["a"]
    routes.failed("b")
    assert routes.resting() == ["b"]
    assert sorted(routes.begin(()).order(NAMES)) == ["a", "c"]
    assert sorted(routes.begin({"a", "c"}).order(NAMES)) == ["b"]  # resting is better than having failed this one
    routes.succeeded("b")
    assert routes.resting() == []
    routes.failed("unheard of")
    assert routes.resting() == []


def test_a_route_asked_again_counts_once_and_not_at_all_when_over() -> None:
    routes = Routes()
    route = routes.begin(())
    for _ in range(3):
        route.order(NAMES)
        assert sum(routes.in_flight().values()) == 1
    assert route.order([]) == []
    assert (route.placed, sum(routes.in_flight().values())) == ("", 0)
    route.order(["a"])
    route.end()
    route.end()
    assert route.order(["a"]) == ["a"]
    assert sum(routes.in_flight().values()) == 0


def test_replicas_receive_nothing_of_it() -> None:
    assert pickle.loads(pickle.dumps(Routes().begin({"a"}))) == {}


@given(st.lists(st.tuples(st.integers(0, 5), st.booleans()), max_size=40))
def test_counts_are_those_of_open_routes(steps: list[tuple[int, bool]]) -> None:
    routes = Routes()
    begun = [routes.begin(()) for _ in range(6)]
    for which, ends in steps:
        if ends:
            begun[which].end()
        else:
            begun[which].order(NAMES)
    still = Counter(route.placed for route in begun if route.placed and not route.ended)
    assert routes.in_flight() == still
