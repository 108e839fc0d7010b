import json
import math
from pathlib import Path

import pytest

from benchmarks import convergence
from benchmarks.convergence import Job, finished, main, parse, path_of, train
from benchmarks.run import Run
from benchmarks.variants import nfe, variant
from benchmarks.world import World, laptop, world
from settings import PrismError

DIMENSIONS = {"semantic", "temporal", "aesthetic", "spatial", "total"}


@pytest.fixture(scope="module")
def result(place: World) -> dict:
    return train(place, Job("official", 1), iterations=2, every=1)


def test_every_evaluation_holds_every_scene(place: World, result: dict) -> None:
    assert [e["iteration"] for e in result["evaluations"]] == [0, 1, 2]
    assert len(result["clips"]) == len(place.held) == 2
    for evaluation in result["evaluations"]:
        assert set(evaluation["scores"]) == {"plain", "guided"}
        for columns in evaluation["scores"].values():
            assert set(columns) == DIMENSIONS
            assert all(len(values) == 2 for values in columns.values())
    assert result == json.loads(json.dumps(result))


def test_evaluations_are_counted_from_the_start(result: dict) -> None:
    spent = [iteration["nfe"] for iteration in result["iterations"]]
    for kind in ("rollout", "trained", "reference"):
        totals = [e["nfe"][kind] for e in result["evaluations"]]
        assert totals == [0, spent[0][kind], spent[0][kind] + spent[1][kind]]
    config = variant("official").configure(laptop(["algorithm.prompts=2", "algorithm.group_size=2"]), steps=4)
    for iteration in result["iterations"]:
        hand = nfe(config, iteration["start"], released=True)
        assert iteration["nfe"] == {"rollout": hand.rollout, "trained": hand.trained, "reference": hand.reference}


def test_the_clock_stands_while_judging(result: dict) -> None:
    walls = [iteration["wall_s"]["iteration"] for iteration in result["iterations"]]
    assert result["evaluations"][0]["wall_s"] == 0
    assert math.isclose(result["evaluations"][-1]["wall_s"], sum(walls), abs_tol=1e-3)


def test_judging_does_not_change_the_run(place: World, result: dict) -> None:
    once = train(place, Job("official", 1), iterations=2, every=2)
    assert [e["iteration"] for e in once["evaluations"]] == [0, 2]
    assert once["evaluations"][-1]["scores"] == result["evaluations"][-1]["scores"]


def test_a_flat_group_is_sampled_again(place: World, monkeypatch: pytest.MonkeyPatch) -> None:
    from benchmarks import run as module

    seen: list[int] = []

    def flat(*args: object) -> str:
        seen.append(1)
        return "flat" if len(seen) == 1 else ""

    monkeypatch.setattr(module, "flatness", flat)
    chosen = variant("fast")
    run = Run(place, chosen.configure(place.recipe, refills=1), chosen.optimise(place.recipe), seed=0)
    done = run.iterate(start=0)
    assert (done.groups, done.refilled) == (2, 1)
    assert done.nfe["rollout"] == 3 * nfe(run.algorithm, 0).rollout // 2


def test_finished_runs_are_skipped(
    folder: Path, overrides: list[str], place: World, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["--out", str(folder), "--variants", "fast", "--seeds", "5", "--iterations", "1", "--here"]
    command += ["--set", *overrides]
    main(command)
    path = path_of(folder, Job("fast", 5))
    before = path.stat().st_mtime_ns
    assert json.loads(path.read_text())["evaluations"][-1]["iteration"] == 1
    main(command)
    assert path.stat().st_mtime_ns == before
    with pytest.raises(PrismError, match="another --out"):
        finished(folder, Job("fast", 5), 2)


def test_processes_write_what_one_process_writes(folder: Path, overrides: list[str], place: World) -> None:
    main(["--out", str(folder), "--variants", "fast", "--seeds", "6", "--iterations", "1", "--set", *overrides])
    found = json.loads(path_of(folder, Job("fast", 6)).read_text())
    here = train(place, Job("fast", 6), 1, 5)
    assert found["evaluations"][-1]["scores"] == here["evaluations"][-1]["scores"]


def test_a_failed_run_is_told_and_leaves_no_result(
    tmp_path: Path, overrides: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(convergence, "world", lambda *_: None)
    command = ["--out", str(tmp_path), "--variants", "fast", "--seeds", "0", "--iterations", "1"]
    with pytest.raises(SystemExit) as stopped:
        main([*command, "--set", *overrides, "model=missing.safetensors"])
    assert stopped.value.code == 1
    assert "There is no model at missing.safetensors" in capsys.readouterr().err
    assert not list(tmp_path.glob("*.json"))


def test_learning_rates_are_chosen_on_scenes_of_their_own(folder: Path, overrides: list[str], place: World) -> None:
    with pytest.raises(PrismError, match="needs --tuning"):
        parse(["--variants", "fast", "--lr", "1e-3"])
    tuning = world(laptop(overrides), folder, "tuning")
    judged = {reference.clip_id for reference in tuning.held.references}
    assert judged == {"tuning-00000", "tuning-00001"}
    assert [p.clip_id for p in tuning.prompts] == [p.clip_id for p in place.prompts]
    assert train(tuning, Job("fast", 0, 1e-3), 1, 1)["optimiser"]["lr"] == 1e-3
