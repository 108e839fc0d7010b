"""The Ray section of a recipe."""

from typing import Literal

from pydantic import Field, model_validator

from settings import Section

LOOPBACK = ("127.0.0.1", "localhost", "::1")


class RayConfig(Section):
    """Which Ray a run uses.

    address: "local" starts one that ends with the run; "auto" or "HOST:PORT" joins a running one. Inside a submitted
    job (RAY_ADDRESS is set) "local" joins that job's cluster. The other fields describe a Ray started here.
    num_cpus, num_gpus, object_store_memory (bytes): None lets Ray look at the machine. namespace: of actor names.
    auth: "token" guards every port with a token file; "disabled" only when the dashboard listens on this machine alone.
    dashboard_port: None takes the first free one from 8265 on. metrics_interval_s: how often metrics are exported.
    logs: print the actors' output in the driver's terminal.
    """

    address: str = "local"
    num_cpus: float | None = Field(default=None, gt=0)
    num_gpus: float | None = Field(default=None, ge=0)
    object_store_memory: int | None = Field(default=None, ge=80 * 2**20)
    namespace: str = Field(default="prism", min_length=1)
    auth: Literal["disabled", "token"] = "disabled"
    dashboard: bool = True
    dashboard_host: str = "127.0.0.1"
    dashboard_port: int | None = Field(default=None, ge=1024, le=65535)
    metrics_interval_s: float = Field(default=2.0, gt=0)
    logs: bool = False

    @model_validator(mode="after")
    def _guard(self) -> "RayConfig":
        if self.auth == "disabled" and self.dashboard_host not in LOOPBACK:
            raise ValueError(
                f"a dashboard on {self.dashboard_host} lets anyone who reaches it run code here; set auth to token or "
                "dashboard_host to 127.0.0.1"
            )
        return self
