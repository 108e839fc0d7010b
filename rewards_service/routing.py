"""Which Serve replica a request goes to: the one with the least to do among those that did not just fail.

Serve sends this class by value to every process that asks, so it depends on nothing of ours. What it must know of a
request travels in the request's `route` argument, a plain dict: "avoid" lists ids of replicas to leave out as long as
there are others; the router writes the id of the chosen one to "placed", which the caller reads after a failure.
"""

import random

from ray.serve.request_router import PendingRequest, ReplicaID, RequestRouter, RunningReplica


class LeastLoadedRouter(RequestRouter):
    """By the queue lengths that Serve's router already keeps; at equal ones at random."""

    async def choose_replicas(
        self, candidate_replicas: list[RunningReplica], pending_request: PendingRequest | None = None
    ) -> list[list[RunningReplica]]:
        """Candidates in order, each a rank of its own, so that the next one is tried when the first is full."""
        route = pending_request.kwargs.get("route", {}) if pending_request else {}
        avoid = route.get("avoid", ())
        wanted = [r for r in candidate_replicas if r.replica_id.unique_id not in avoid] or candidate_replicas
        lengths = {r.replica_id: self.replica_queue_len_cache.get(r.replica_id) or 0 for r in wanted}
        order = sorted(wanted, key=lambda r: (lengths[r.replica_id], random.random()))
        if order and pending_request is not None:
            # Before it has accepted: one that is stuck may never say so.
            route["placed"] = order[0].replica_id.unique_id
            pending_request.routing_context.should_backoff = True
        return [[replica] for replica in order]

    def on_request_routed(self, pending_request: PendingRequest, replica_id: ReplicaID, result: object) -> None:
        """A replica accepted the request."""
        pending_request.kwargs.get("route", {})["placed"] = replica_id.unique_id
