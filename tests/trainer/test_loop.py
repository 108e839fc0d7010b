"""The loop on real actors: in this process, and in Ray Train workers that get killed."""

import os
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import ray
import torch

from actors.launch import ActorNames
from foundation.checkpoint import read_tensors
from foundation.model import FlowModel
from tests.trainer.builders import algorithm
from tests.trainer.rig import loop_config, start_actors
from trainer import checkpoints
from trainer.errors import InvariantError, LearnerError
from trainer.fit import fit
from trainer.loop import LoopConfig, Outcome

# Windows that follow what was measured, so that coordinator and learner must agree on it, restarts included.
CONFIG = algorithm(window_size=2, window_policy="proportional")
Run = Callable[..., tuple[Outcome, dict[str, Any], list[dict[str, Any]]]]


@pytest.fixture
def run(ray_session: str, request: pytest.FixtureRequest) -> Run:
    """Train in a folder with actors of its own; gives the outcome, the final ledger and the relayed metrics."""
    count = iter(range(10))

    def go(folder: Path, change: Callable[[LoopConfig], LoopConfig] = lambda c: c, **options: Any):
        iterations, base = options.pop("iterations", 4), options.pop("base", None)
        staleness = options.pop("staleness", 0)
        name = f"{request.node.name}-{next(count)}"
        actors = start_actors(name, ray_session, iterations, CONFIG, base, staleness)
        seen: list[dict[str, Any]] = []
        config = loop_config(folder, actors.names, CONFIG, iterations=iterations, **options)
        try:
            outcome = fit(change(replace(config, on_iteration=seen.append)))
            ledger: Any = ray.get(actors.buffer.finish.remote(), timeout=30)
        finally:
            actors.stop()
        return outcome, ledger, seen

    return go


def weights(outcome: Outcome, name: str = checkpoints.MODEL) -> dict[str, torch.Tensor]:
    return read_tensors(Path(outcome.checkpoint) / name)[0]


def score(model: FlowModel, version: int) -> dict[str, dict[str, float]]:
    """A held-out evaluation that looks at the averaged weights."""
    total = float(model.state_dict()["model.model.preprocess_conv.weight"].sum())
    return {"heldout": {"total": total, "version": float(version)}}


def test_a_run_in_the_driver_keeps_exact_books(tmp_path, run):
    outcome, ledger, seen = run(tmp_path, lambda c: replace(c, evaluate=score))
    assert (outcome.version, outcome.stopped) == (4, False)
    assert ledger == outcome.totals.ledger()
    assert ledger["submitted"] == ledger["trained"] == 16
    assert outcome.totals.samples == 64
    assert outcome.totals.nfe_rollout == sum(line["nfe"]["rollout"] for line in seen)
    assert outcome.totals.nfe_trained == sum(line["nfe"]["trained"] for line in seen) == 4 * (4 + 16)
    assert [line["version"] for line in seen] == [1, 2, 3, 4]
    assert [line.get("heldout", {}).get("version") for line in seen] == [None, 2, None, 4]
    assert all(line["mismatch"] < 1e-5 and line["staleness"] == 0 for line in seen)
    config = loop_config(tmp_path)
    assert [line["window"] for line in config.journal.records()] == [line["window"] for line in seen]
    assert sorted(os.listdir(config.checkpoints)) == ["iter-000002", "iter-000004"]
    assert checkpoints.read_state(Path(outcome.checkpoint)).totals == outcome.totals


def test_stop_and_resume_equals_an_uninterrupted_run_to_the_bit(tmp_path, run):
    straight, expected, _ = run(tmp_path / "straight")

    answers = iter([False, False, False])
    halfway = lambda c: replace(c, stop=lambda: next(answers, True))  # noqa: E731
    stopped, part, first = run(tmp_path / "parts", halfway, checkpoint_every=0)
    assert stopped.stopped
    assert 0 < stopped.version < 4
    base = checkpoints.read_state(Path(stopped.checkpoint)).totals.ledger()
    # A line beyond the checkpoint, as a crash leaves it, must not survive.
    loop_config(tmp_path / "parts").journal.append({"iteration": stopped.version, "lie": True})
    resumed, ledger, rest = run(tmp_path / "parts", base=base)
    assert (resumed.version, resumed.stopped) == (4, False)
    assert part["trained"] == 4 * stopped.version
    assert ledger == expected
    for name in (checkpoints.MODEL, checkpoints.EMA, checkpoints.OPTIMISER):
        left, right = weights(straight, name), weights(resumed, name)
        assert left.keys() == right.keys()
        assert all(torch.equal(left[key], right[key]) for key in left), name
    lines = loop_config(tmp_path / "parts").journal.records()
    assert [line["iteration"] for line in lines] == [line["iteration"] for line in first + rest] == [0, 1, 2, 3]
    assert not any("lie" in line for line in lines)


def test_two_workers_with_one_killed_train_what_one_process_trains(tmp_path, run):
    """Rank 0 is killed past a checkpoint; Ray Train restarts both ranks, the books still balance, nothing is lost."""
    alone, expected, _ = run(tmp_path / "alone", iterations=5, checkpoint_every=2)
    marker = tmp_path / "killed"
    kill = lambda c: replace(c, evaluate=Killer(str(marker)))  # noqa: E731
    together, ledger, seen = run(tmp_path / "together", kill, iterations=5, num_workers=2, eval_every=1)
    assert marker.exists()
    assert together.version == 5
    assert ledger == expected
    assert (ledger["dropped"], ledger["lost"]) == ({}, {})
    assert [line["version"] for line in seen] == [1, 2, 3, 4, 5]
    assert together.totals.ledger() == alone.totals.ledger()
    assert together.totals.nfe_trained == alone.totals.nfe_trained
    left, right = weights(alone), weights(together)
    assert max((left[name] - right[name]).abs().max().item() for name in left) < 1e-3
    moved = read_tensors(tmp_path / "alone" / "start.safetensors")[0]
    assert max((left[name] - moved[name]).abs().max().item() for name in left) > 1e-2


class Killer:
    """An evaluation that kills its own worker once, in iteration 3, one iteration past a checkpoint."""

    def __init__(self, marker: str):
        self.marker = marker

    def __call__(self, model: FlowModel, version: int) -> dict[str, float]:
        if version == 3 and not os.path.exists(self.marker):
            Path(self.marker).touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return {}


def test_bounded_staleness_trains_every_group_once(tmp_path, run):
    outcome, ledger, seen = run(tmp_path, iterations=6, staleness=1)
    assert outcome.version == 6
    assert ledger["submitted"] == ledger["trained"] == 24
    assert max(line["staleness"] for line in seen) <= 1


def test_errors_reach_the_user(tmp_path, run, ray_session):
    with pytest.raises(LearnerError, match="no actor 'none-buffer'"):
        fit(loop_config(tmp_path, ActorNames("none", ray_session), CONFIG))
    with pytest.raises(InvariantError, match="different recipes"):
        run(tmp_path / "seed", lambda c: replace(c, seed=6))
