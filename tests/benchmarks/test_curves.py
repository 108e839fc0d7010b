import json
import math
from pathlib import Path

import numpy as np
import pytest

from benchmarks.curves import Method, at_budget, at_end, difference, needed, read, speed_up
from benchmarks.intervals import student
from settings import PrismError

DIMENSIONS = ("semantic", "temporal", "aesthetic", "spatial", "total")


def write(
    folder: Path, variant: str, seed: int, totals: list[list[float]], cost: float, guided: float | None = None
) -> None:
    """A run whose evaluation e has the totals of every scene, after e * cost seconds and 100 e * cost evaluations."""
    rows = []
    for e, scenes in enumerate(totals):
        scores = {"plain": dict.fromkeys(DIMENSIONS, scenes)}
        if guided is not None:
            raised = [v + guided for v in scenes]
            scores["guided"] = dict.fromkeys(DIMENSIONS, raised)
        nfe = {"rollout": round(90 * e * cost), "trained": round(10 * e * cost), "reference": 0}
        rows.append({"iteration": 5 * e, "nfe": nfe, "wall_s": e * cost, "cpu_s": e * cost / 2, "scores": scores})
    found = {
        "variant": variant, "title": variant, "seed": seed, "optimiser": {"lr": 6e-4}, "split": "heldout",
        "clips": [str(k) for k in range(len(totals[0]))], "machine": {"cpu": "x"}, "evaluations": rows,
    }  # fmt: skip
    (folder / f"{variant}.seed{seed}.json").write_text(json.dumps(found))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """full_sde: 0.5 to 0.6 and 0.62 in 40 s; fast: to 0.7 and 0.72 in 4 s."""
    write(tmp_path, "full_sde", 0, [[0.4, 0.6], [0.45, 0.65], [0.5, 0.7]], cost=20)
    write(tmp_path, "full_sde", 1, [[0.4, 0.6], [0.47, 0.67], [0.52, 0.72]], cost=20)
    write(tmp_path, "fast", 0, [[0.4, 0.6], [0.5, 0.7], [0.6, 0.8]], cost=2)
    write(tmp_path, "fast", 1, [[0.4, 0.6], [0.52, 0.72], [0.62, 0.82]], cost=2)
    return tmp_path


def methods(folder: Path) -> dict[str, Method]:
    return {method.name: method for method in read(folder)}


def test_runs_become_methods_in_table_order(folder: Path) -> None:
    found = read(folder)
    assert [method.name for method in found] == ["full_sde", "fast"]
    assert [seed.seed for seed in found[0].seeds] == [0, 1]
    assert found[1].curve().tolist() == [pytest.approx([0.5, 0.6, 0.7]), pytest.approx([0.5, 0.62, 0.72])]
    assert found[1].budget("nfe")[0].tolist() == [0, 200, 400]


def test_final_and_gain_by_hand(folder: Path) -> None:
    fast = methods(folder)["fast"]
    assert fast.final() == student(np.array([0.7, 0.72]))
    assert fast.gain("spatial").value == pytest.approx(0.21)


def test_speed_up_by_hand(folder: Path) -> None:
    found = methods(folder)
    # full-SDE ends at 0.61 after 40 s; fast's mean curve is 0.5, 0.61, 0.71 at 0, 2, 4 s.
    result = speed_up(found["fast"], found["full_sde"], "wall_s")
    assert (result.level, result.base, result.method) == (pytest.approx(0.61), pytest.approx(40), pytest.approx(2))
    assert result.ratio.value == pytest.approx(20)
    assert result.ratio.low < 20 < result.ratio.high
    assert not result.bound


def test_a_base_that_never_arrives_gives_a_lower_bound(folder: Path) -> None:
    found = methods(folder)
    result = speed_up(found["fast"], found["full_sde"], "nfe", target=found["fast"])
    assert result.bound
    assert (result.base, result.method) == (pytest.approx(4000), pytest.approx(400))
    assert result.ratio.value == pytest.approx(10)


def test_a_method_that_never_arrives_has_no_speed_up(folder: Path) -> None:
    found = methods(folder)
    result = speed_up(found["full_sde"], found["fast"], "wall_s")
    assert math.isnan(result.ratio.value)
    assert math.isnan(needed(found["full_sde"], 0.7, "wall_s"))


def test_differences_are_paired_by_seed(folder: Path) -> None:
    found = methods(folder)
    # Seed by seed 0.60 - 0.70 and 0.62 - 0.72: no spread, although the seeds differ.
    result = difference(found["full_sde"], found["fast"], at_end)
    assert result.value == pytest.approx(-0.1)
    assert result.high - result.low == pytest.approx(0, abs=1e-9)


def test_equal_budget_interpolates_between_evaluations(folder: Path) -> None:
    found = methods(folder)
    seed = found["full_sde"].seeds[0]
    assert at_budget("wall_s", 10.0)(seed, "plain") == pytest.approx([0.425, 0.625])
    assert at_budget("wall_s", 0.0)(seed, "plain") == pytest.approx([0.4, 0.6])
    assert at_budget("wall_s", 99.0)(seed, "plain") == pytest.approx([0.5, 0.7])
    result = difference(found["full_sde"], found["fast"], at_budget("wall_s", 4.0))
    assert result.value == pytest.approx(np.mean([0.51 - 0.7, 0.514 - 0.72]))


def test_a_guided_method_is_judged_as_it_is_best(tmp_path: Path) -> None:
    write(tmp_path, "official", 0, [[0.5, 0.5], [0.6, 0.6]], cost=1, guided=0.05)
    write(tmp_path, "paper", 0, [[0.5, 0.5], [0.6, 0.6]], cost=1, guided=-0.05)
    found = methods(tmp_path)
    assert (found["official"].mode, found["official"].final().value) == ("guided", pytest.approx(0.65))
    assert (found["paper"].mode, found["paper"].final().value) == ("plain", pytest.approx(0.6))


def test_runs_that_cannot_be_compared_are_refused(folder: Path, tmp_path: Path) -> None:
    write(folder, "paper", 0, [[0.4, 0.6], [0.5, 0.7]], cost=1)
    with pytest.raises(PrismError, match="paper seed 0 judged other"):
        read(folder)
    (tmp_path / "empty").mkdir()
    with pytest.raises(PrismError, match="no finished runs"):
        read(tmp_path / "empty")
