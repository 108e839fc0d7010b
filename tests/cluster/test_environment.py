import os

import pytest
from pydantic import ValidationError

from cluster.config import RayConfig
from cluster.environment import ROOT, variables


def test_a_user_keeps_what_is_set_and_the_uv_hook_is_off() -> None:
    found = variables(RayConfig(metrics_interval_s=0.5), {"OMP_NUM_THREADS": "4", "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "1"})
    assert "OMP_NUM_THREADS" not in found
    assert found["RAY_ENABLE_UV_RUN_RUNTIME_ENV"] == "0"
    assert found["RAY_metrics_report_interval_ms"] == "500"


def test_the_checkout_comes_first_and_once_on_the_path() -> None:
    path = variables(RayConfig(), {"PYTHONPATH": os.pathsep.join(["/elsewhere", str(ROOT), ""])})["PYTHONPATH"]
    assert path.split(os.pathsep) == [str(ROOT), "/elsewhere"]


@pytest.mark.parametrize("host", ["0.0.0.0", "10.0.0.7"])
def test_an_open_dashboard_needs_a_token(host: str) -> None:
    with pytest.raises(ValidationError, match="set auth to token"):
        RayConfig(dashboard_host=host)
    assert RayConfig(dashboard_host=host, auth="token").auth == "token"
