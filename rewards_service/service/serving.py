"""Reward dimensions as Ray Serve applications: each has its own replicas, scales by itself and is found by name."""

import asyncio
import hashlib
import logging
import math
import time
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import ray
from ray import serve
from ray.exceptions import RayActorError, RayError, RayTaskError
from ray.serve.config import AutoscalingConfig, RequestRouterConfig
from ray.serve.exceptions import BackPressureError, RayServeException
from ray.serve.handle import DeploymentHandle
from ray.serve.schema import ApplicationStatus

from rewards_service.build import bounds_of, environment_of
from rewards_service.config import RewardConfig, ScorerConfig, ServiceConfig
from rewards_service.errors import RefusedError, ReplicaStuckError, RewardError
from rewards_service.service.border import unpack_scores
from rewards_service.service.deploy import actor_options, check
from rewards_service.service.endpoint import RETRY_POLL_S, Endpoint, Request
from rewards_service.service.pool import Pool
from rewards_service.service.route import Routes
from rewards_service.service.routing import CallerRouter
from rewards_service.service.served import ServedReward

DEPLOYMENT = "reward"
ONGOING = 8
"""Requests that a replica holds at least, one of them under work: so many are in flight that it never waits for one."""
ROUTING: dict[str, Any] = {
    "request_router_class": CallerRouter,
    "initial_backoff_s": 0.005,
    "max_backoff_s": 0.05,
}
"""Calls take tens of milliseconds: a request for which all replicas were full must not sleep for half a second."""
LIGHT = {"RAY_SERVE_RUN_USER_CODE_IN_SEPARATE_THREAD": "0", "RAY_SERVE_METRICS_EXPORT_INTERVAL_MS": "2000"}
"""Environment of a replica, in which whatever Serve does in Python, the scorer cannot."""
LOOK_BACK_S = 4.0
STOP_S = 20.0
HEALTH_S = 10.0
_POLL_S = 0.2
_CONTROLLER = "SERVE_CONTROLLER_ACTOR"


def app_name(namespace: str, dimension: str) -> str:
    """Name of a dimension's application."""
    return f"{namespace}-{dimension}"


@dataclass(frozen=True)
class ServeDeployment:
    """Applications of one run; they outlive this process, unless stopped."""

    config: RewardConfig
    namespace: str

    def await_ready(self) -> None:
        """Wait until every replica has scored once.

        Raises RewardError when one has not after `start_s` seconds, with its reason; all are then stopped.
        """
        deadline = time.monotonic() + self.config.start_s
        try:
            for dimension, scorer in self.config.deployed.items():
                _await_running(app_name(self.namespace, dimension), dimension, scorer.replicas, deadline)
        except RewardError:
            self.stop()
            raise

    def stop(self) -> None:
        """Delete this run's applications, and Serve itself when nobody else has any. A second time does nothing."""
        mine = {app_name(self.namespace, dimension) for dimension in self.config.deployed}
        going = mine & applications()
        for name in going:
            serve.delete(name, _blocking=False)
        deadline = time.monotonic() + STOP_S
        while mine & (left := applications()) and time.monotonic() < deadline:
            time.sleep(_POLL_S)
        if going and not left:
            serve.shutdown()


def applications() -> set[str]:
    """Names of everything that Serve runs on this Ray; nothing where there is no Serve."""
    try:
        return set(serve.status().applications)
    except RayServeException:
        return set()


def launch(config: RewardConfig, namespace: str) -> ServeDeployment:
    """Begin to start every dimension's application; other work fits in before `await_ready`.

    Raises RewardConfigError for a wrong option, before any process starts, and RewardError when a scorer's own
    environment cannot be made.
    """
    check(config)
    targets = [
        _target(config, namespace, dimension, s.replicas, s.max_replicas) for dimension, s in config.deployed.items()
    ]
    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    # Handles are all that is used: without this, each node would run a web server.
    serve.start(proxy_location="Disabled")
    serve.run_many(targets, wait_for_ingress_deployment_creation=False, wait_for_applications_running=False)
    return ServeDeployment(config, namespace)


class ServeFleet:
    """The applications of a run, as its clients see them."""

    def __init__(self, config: RewardConfig, namespace: str) -> None:
        self._config, self._namespace = config, namespace

    def endpoints(self) -> dict[str, list[Endpoint]]:
        """Where to send requests, by dimension. Raises RewardError when a dimension has no application."""
        return {dimension: [self._endpoint(dimension)] for dimension in self._config.deployed}

    def bounds(self) -> dict[str, tuple[float, float]]:
        """Lowest and highest score, by dimension."""
        return {dimension: bounds_of(dimension, scorer) for dimension, scorer in self._config.deployed.items()}

    async def scale(self, dimension: str, pool: Pool, replicas: int, max_replicas: int | None) -> None:
        """Change one application in place; replicas that stay keep running, those that go finish what they have.

        Between `replicas` and `max_replicas`, when that is more, Serve decides by load. Raises RewardError when a new
        replica does not start.
        """
        await asyncio.to_thread(self._scale, dimension, replicas, max_replicas)

    async def replicas(self, dimension: str, pool: Pool) -> dict[str, int]:
        """{"running", "wanted"} replicas of a dimension."""
        return await asyncio.to_thread(_count, app_name(self._namespace, dimension))

    def _scale(self, dimension: str, replicas: int, max_replicas: int | None) -> None:
        target = _target(self._config, self._namespace, dimension, replicas, max_replicas)
        serve.run_many([target], wait_for_ingress_deployment_creation=False, wait_for_applications_running=False)
        deadline = time.monotonic() + self._config.start_s
        exact = max_replicas in (None, replicas)
        _await_running(app_name(self._namespace, dimension), dimension, replicas, deadline, exact)

    def _endpoint(self, dimension: str) -> "ServeEndpoint":
        name = app_name(self._namespace, dimension)
        try:
            controller = ray.get_actor(_CONTROLLER, namespace="serve")
            handle = _handle(name, controller._actor_id.hex())
        except (ValueError, RayServeException):
            raise RewardError(
                f"No {dimension} reward is served in {self._namespace!r}; deploy the rewards first."
            ) from None
        return ServeEndpoint(handle, environment_of(dimension, self._config.deployed[dimension]) is not None)


class ServeEndpoint:
    """All replicas of one application. Those that fail rest, as plain actors do in the client's pool.

    packed: they live in another environment.
    """

    def __init__(self, handle: DeploymentHandle, packed: bool = False) -> None:
        self._handle, self.packed = handle, packed
        self._routes = Routes()

    async def score(self, request: Request, patient: bool = False) -> Any:
        """Ask the replica with the least to do; one that is stuck refuses, and the next one is asked."""
        method, arguments = await request.arguments(self.packed)
        refused: set[str] = set()
        while True:
            route = self._routes.begin(request.failed_on | refused)
            response = getattr(self._handle, method).remote(*arguments, route=route)
            try:
                answer = await response
            except asyncio.CancelledError:
                request.placed[id(self)] = route.placed
                response.cancel()
                raise
            except BackPressureError:
                if not patient:
                    raise RefusedError("too many requests are waiting for a replica") from None
            except RayTaskError as error:
                self._failed(request, route.placed)
                if not isinstance(error.cause, ReplicaStuckError):
                    raise
                refused.add(route.placed)
            except RayError as error:
                self._failed(request, route.placed)
                if not (patient and isinstance(error, RayActorError)):
                    raise
            else:
                self._routes.succeeded(route.placed)
                return unpack_scores(answer) if self.packed else answer
            finally:
                route.end()
            await asyncio.sleep(RETRY_POLL_S)

    async def give_up(self, request: Request, deadline_s: float) -> None:
        """Avoid the replica that was asked; it fails its health check when it is stuck, and Serve replaces it."""
        self._failed(request, request.placed.pop(id(self), ""))

    def resting(self) -> int:
        """Replicas that are being left alone."""
        return len(self._routes.resting())

    def _failed(self, request: Request, replica: str) -> None:
        if replica:
            request.failed_on.add(replica)
            self._routes.failed(replica)


@lru_cache(maxsize=64)
def _handle(name: str, controller: str) -> DeploymentHandle:
    """One handle per application and process, since each keeps a connection. controller: another one, another Serve."""
    return _unasked(serve.get_app_handle(name))


def _unasked(handle: DeploymentHandle) -> DeploymentHandle:
    """Without Serve's question to a replica, before each request, whether it has room for it.

    The question makes a stream of every answer, which costs the replica two milliseconds of Python a request; the
    router's own count of what it sent says the same, and one request too many only waits. Serve has no option for it:
    in a Ray that keeps the switch elsewhere, requests are asked about as ever.
    """
    router = getattr(handle._init_router(), "_asyncio_router", None) if hasattr(handle, "_init_router") else None
    if hasattr(router, "_enable_strict_max_ongoing_requests"):
        router._enable_strict_max_ongoing_requests = False  # pyright: ignore[reportOptionalMemberAccess]
    return handle


def _target(
    config: RewardConfig, namespace: str, dimension: str, replicas: int, max_replicas: int | None
) -> serve.RunTarget:
    scorer = config.deployed[dimension]
    options = _options(config, dimension, scorer)
    if max_replicas is None or max_replicas == replicas:
        options["num_replicas"] = replicas
    else:
        options["autoscaling_config"] = _autoscaling(scorer.service, replicas, max_replicas)
    # The class of the scorer, its constants and its environment: what makes other replicas necessary. How many there
    # are does not, so that changing it leaves the running ones alone.
    told = scorer.model_copy(update={"replicas": 1, "max_replicas": None}).model_dump_json()
    made_of = f"{told} {config.deadline_s} {options['ray_actor_options']}"
    options["version"] = hashlib.sha256(made_of.encode()).hexdigest()[:16]
    deployment = serve.deployment(ServedReward).options(name=DEPLOYMENT, _internal=True, **options)
    bound = deployment.bind(dimension, told, config.deadline_s)
    return serve.RunTarget(bound, name=app_name(namespace, dimension), route_prefix=None)


def _options(config: RewardConfig, dimension: str, scorer: ScorerConfig) -> dict[str, Any]:
    service = scorer.service
    ongoing = max(ONGOING, 4 * service.batch_requests, math.ceil(2 * service.target_ongoing_requests))
    actor = actor_options(dimension, scorer, config)
    # Scorers have a thread of their own already (`served`); one more costs every request two switches.
    actor["runtime_env"] = {**actor.get("runtime_env", {}), "env_vars": LIGHT}
    return {
        "ray_actor_options": actor,
        "max_ongoing_requests": ongoing,
        "max_queued_requests": service.queue_limit,
        "health_check_period_s": service.health_check_s,
        # The loop answers while the scorer works: only a process that hangs as a whole, or a starved one, is this late.
        "health_check_timeout_s": max(service.health_check_s, HEALTH_S),
        "graceful_shutdown_timeout_s": config.deadline_s,
        "graceful_shutdown_wait_loop_s": 1.0,
        "logging_config": {"log_level": "WARNING", "enable_access_log": False},
        "request_router_config": RequestRouterConfig(**ROUTING),
    }


def _autoscaling(service: ServiceConfig, replicas: int, max_replicas: int) -> AutoscalingConfig:
    return AutoscalingConfig(
        min_replicas=replicas,
        max_replicas=max_replicas,
        target_ongoing_requests=service.target_ongoing_requests,
        upscale_delay_s=service.upscale_delay_s,
        downscale_delay_s=service.downscale_delay_s,
        look_back_period_s=LOOK_BACK_S,
        metrics_interval_s=1.0,
    )


def _count(name: str) -> dict[str, int]:
    """Replicas of an application that answer, and that will once those starting or stopping have done so."""
    application = serve.status().applications.get(name)
    if application is None or DEPLOYMENT not in application.deployments:
        return {"running": 0, "wanted": 0}
    states = {str(getattr(s, "value", s)): n for s, n in application.deployments[DEPLOYMENT].replica_states.items()}
    return {
        "running": states.get("RUNNING", 0),
        "wanted": sum(count for state, count in states.items() if state != "STOPPING"),
    }


def _await_running(name: str, dimension: str, replicas: int, deadline: float, exact: bool = False) -> None:
    """Wait for at least so many replicas; exact: and for no more. Raises RewardError with Serve's reason."""
    while True:
        application = serve.status().applications.get(name)
        if application is not None and application.status == ApplicationStatus.RUNNING:
            running = _count(name)["running"]
            if running == replicas or (running > replicas and not exact):
                return
        if application is not None and application.status == ApplicationStatus.DEPLOY_FAILED:
            told = [application.message, *(d.message for d in application.deployments.values())]
            raise RewardError(f"The {dimension} reward could not start: {_reason(max(told, key=len))}")
        if time.monotonic() > deadline:
            raise RewardError(
                f"The {dimension} reward did not start {replicas} replicas in time; Ray has "
                f"{ray.available_resources()} free for it"
            )
        time.sleep(_POLL_S)


def _reason(message: str) -> str:
    """The exception that a replica met, at the end of the traceback that Serve passes on."""
    return (message.strip().splitlines() or ["no reason given"])[-1]
