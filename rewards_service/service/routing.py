"""Which Serve replica a request goes to: asked of the caller, who knows what it sent where and what came of it.

Serve sends this class by value to every process that asks, so it depends on nothing of ours. Each request carries a
`route` (`rewards_service.service.route.Route`), which stays in the process of the caller.
"""

from ray.serve.request_router import PendingRequest, RequestRouter, RunningReplica


class CallerRouter(RequestRouter):
    """Takes replicas in the order that the request's route gives them."""

    async def choose_replicas(
        self, candidate_replicas: list[RunningReplica], pending_request: PendingRequest | None = None
    ) -> list[list[RunningReplica]]:
        """Candidates in order, each a rank of its own, so that the next one is tried when the first is full."""
        route = pending_request.kwargs.get("route") if pending_request else None
        if pending_request is None or route is None or not hasattr(route, "order"):
            return [candidate_replicas]
        pending_request.routing_context.should_backoff = True
        known = {replica.replica_id.unique_id: replica for replica in candidate_replicas}
        return [[known[name]] for name in route.order(list(known))]
