"""Submitting a `prism` command as a Ray job to a running, token-guarded cluster."""

import os
import shlex
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from cluster.environment import ROOT
from settings import PrismError

if TYPE_CHECKING:
    from ray.job_submission import JobSubmissionClient

# What a job does not need: Ray uploads the working directory, and refuses more than a few hundred MB.
EXCLUDES = [".git", ".venv", "runs", "*.egg-info", "**/__pycache__", ".pytest_cache", ".ruff_cache", "tests"]
NOT_READY = "No available agent"
FINAL = ("SUCCEEDED", "FAILED", "STOPPED")


class SubmitError(PrismError):
    """The job could not be handed to the cluster, or did not finish."""


@dataclass(frozen=True)
class Job:
    """A submitted job on the dashboard at `address`, http://HOST:PORT."""

    address: str
    id: str


def entrypoint(words: list[str], python: str) -> str:
    """The shell command of a job: `prism WORDS...` under an absolute interpreter of the cluster's machines.

    The head looks up a bare `python` on its own PATH, where there may be one without Ray.
    """
    if not os.path.isabs(python):
        raise SubmitError(f"The job's interpreter must be an absolute path on the cluster, got {python!r}.")
    return shlex.join([python, "prism.py", *words])


def submit(
    address: str,
    words: list[str],
    python: str,
    runs_dir: Path,
    token_path: Path | None = None,
    working_dir: Path = ROOT,
    start_s: float = 60.0,
) -> Job:
    """Hand `prism WORDS...` to the cluster; the code in `working_dir` travels along.

    runs_dir: absolute, on storage the job can write and that outlives Ray's working-directory cache, which is
    content-addressed and shared between jobs. start_s: how long a head that is still starting is given.
    Raises SubmitError.
    """
    if not runs_dir.is_absolute():
        raise SubmitError(
            f"runs_dir must be absolute, got {str(runs_dir)!r}: a relative one would lie in Ray's cache of the working "
            "directory, which later jobs reuse."
        )
    client, give_up = _client(address, token_path), time.monotonic() + start_s
    while True:
        try:
            job = client.submit_job(
                entrypoint=entrypoint([*words, f"runs_dir={runs_dir}"], python),
                runtime_env={"working_dir": str(working_dir), "excludes": EXCLUDES},
            )
            return Job(address, job)
        except Exception as error:
            # A head that has just started answers before its agent can take jobs.
            if NOT_READY not in str(error) or time.monotonic() > give_up:
                raise SubmitError(f"The cluster at {address} refused the job: {error}") from error
            time.sleep(1.0)


def wait(job: Job, timeout_s: float, token_path: Path | None = None, every_s: float = 1.0) -> str:
    """The job's final status (SUCCEEDED, FAILED or STOPPED). Raises SubmitError after `timeout_s` seconds."""
    client, give_up = _client(job.address, token_path), time.monotonic() + timeout_s
    while time.monotonic() < give_up:
        status = str(client.get_job_status(job.id))
        if status in FINAL:
            return status
        time.sleep(every_s)
    raise SubmitError(f"Job {job.id} did not finish within {timeout_s:g} s; see {job.address} or stop it there.")


def logs(job: Job, token_path: Path | None = None) -> str:
    """Everything the job printed."""
    return _client(job.address, token_path).get_job_logs(job.id)


def _client(address: str, token_path: Path | None) -> "JobSubmissionClient":
    from ray.job_submission import JobSubmissionClient

    try:
        headers = {"Authorization": f"Bearer {token_path.read_text().strip()}"} if token_path else None
        return JobSubmissionClient(address, headers=headers)
    except Exception as error:
        raise SubmitError(
            f"No Ray dashboard lets us in at {address} ({error}). Start the head with its dashboard, and give the "
            "token file if it is guarded."
        ) from error
