"""Run as a program: starts a Ray guarded by a token, submits a command to it and prints what happened as JSON."""

import json
import sys
import urllib.error
import urllib.request
from pathlib import Path

from cluster.config import RayConfig
from cluster.session import SessionError, ray_session
from cluster.submit import logs, submit, wait


def main(runs_dir: Path, words: list[str]) -> None:
    with ray_session(RayConfig(num_cpus=4, auth="token", object_store_memory=200 * 2**20)) as session:
        assert session.dashboard_url is not None
        found: dict[str, object] = {"without_token": _status(session.dashboard_url + "/api/jobs/")}
        try:
            session.require(cpus=5)
        except SessionError as error:
            found["too_many"] = str(error)
        with ray_session(RayConfig(namespace="other")) as inner:
            found["shared"] = (inner.dashboard_url == session.dashboard_url, inner.owned)
        job = submit(session.dashboard_url, words, sys.executable, runs_dir, session.token_path)
        found["status"] = wait(job, 400, session.token_path)
        found["logs"] = logs(job, session.token_path)
        folder = session.temp_dir
    found["folder_left"] = folder is not None and folder.exists()
    print(json.dumps(found))


def _status(url: str) -> int:
    try:
        with urllib.request.urlopen(url, timeout=20) as answer:
            return answer.status
    except urllib.error.HTTPError as error:
        return error.code


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
