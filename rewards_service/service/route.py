"""A caller's own account of the replicas behind one Serve application: how busy they are, and which ones failed."""

import random
import threading
from collections import Counter
from collections.abc import Collection
from typing import Any

from rewards_service.service.pool import Pool, Replica


class Routes:
    """What is under way at each replica, by its id, and the breaker that lets failing ones rest, as `Pool` does.

    Serve's router asks from another thread than the one that awaits the answers.
    """

    def __init__(self, patience: int = 3, rest_s: float = 2.0) -> None:
        self._pool = Pool([], patience=patience, rest_s=rest_s)
        self._known: dict[str, Replica] = {}
        self._lock = threading.Lock()

    def begin(self, avoid: Collection[str]) -> "Route":
        """A route for one request. avoid: ids of replicas to leave out as long as there are others."""
        return Route(self, avoid)

    def resting(self) -> list[str]:
        """Ids of replicas that are being left alone."""
        now = self._pool.clock()
        return [name for name, replica in list(self._known.items()) if replica.resting_until > now]

    def in_flight(self) -> Counter:
        """Requests under way, by replica."""
        return Counter({name: replica.in_flight for name, replica in list(self._known.items()) if replica.in_flight})

    def succeeded(self, name: str) -> None:
        """Forget a replica's failures."""
        if name in self._known:
            self._pool.succeeded(self._known[name])

    def failed(self, name: str) -> None:
        """Count a replica's failure."""
        if name in self._known:
            self._pool.failed(self._known[name])

    def order(self, route: "Route", names: list[str]) -> list[str]:
        """`Route.order`."""
        with self._lock:
            self._leave(route)
            if route.ended:
                return names
            resting = self.resting()
            usable = [name for name in names if name not in route.avoid]
            usable = [name for name in usable if name not in resting] or usable or names
            random.shuffle(usable)
            for name in usable:
                self._known.setdefault(name, Replica(name))
            usable.sort(key=lambda name: self._known[name].in_flight)
            route.placed = usable[0] if usable else ""
            if usable:
                self._known[route.placed].in_flight += 1
            return usable

    def end(self, route: "Route") -> None:
        """`Route.end`."""
        with self._lock:
            self._leave(route)

    def _leave(self, route: "Route") -> None:
        if route.placed and not route.ended:
            self._known[route.placed].in_flight -= 1


class Route:
    """Of one request: where it is, and where it must not go. A replica receives an empty dict in its place."""

    def __init__(self, routes: Routes, avoid: Collection[str]) -> None:
        self._routes, self.avoid = routes, frozenset(avoid)
        self.placed, self.ended = "", False

    def __reduce__(self) -> tuple[Any, ...]:
        return dict, ()

    def order(self, names: list[str]) -> list[str]:
        """Replicas from the one with the least to do on; the request counts as being at the first from now on.

        So requests that are routed at once do not all go to the same one. Asked anew when the first was full.
        """
        return self._routes.order(self, names)

    def end(self) -> None:
        """The request is over, whatever came of it."""
        self._routes.end(self)
        self.ended = True
