import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks.cost import MEASURES, expected_nfe, main, measure, rounds_for, summarise
from benchmarks.memory import forget_peak, peak_mib, resident_mib
from benchmarks.variants import nfe, variant
from benchmarks.world import World

NAMES = ("full_sde", "official", "fast")
STEPS = 4


@pytest.fixture(scope="module")
def rows(place: World) -> list[dict]:
    return measure(place, NAMES, STEPS, rounds=2)


def test_variants_take_turns(rows: list[dict]) -> None:
    assert [row["variant"] for row in rows] == ["full_sde", "official", "fast", "official", "fast", "full_sde"]


def test_evaluations_equal_the_hand_count(place: World, rows: list[dict]) -> None:
    for row in rows:
        chosen = variant(row["variant"])
        hand = nfe(chosen.configure(place.recipe, steps=STEPS), row["start"], chosen.released)
        assert row["nfe"] == {"rollout": hand.rollout, "trained": hand.trained, "reference": hand.reference}


def test_parts_add_up_and_the_model_is_part_of_them(rows: list[dict]) -> None:
    for row in rows:
        for kind in ("wall", "cpu"):
            found = row[kind]
            assert set(found) == set(MEASURES)
            parts = sum(found[name] for name in ("rollout", "update", "codec", "rewards", "rest"))
            assert found["iteration"] == pytest.approx(parts)
            assert 0 < found["model"] < found["rollout"] + found["update"]
            assert found["rest"] >= 0


def test_every_start_is_visited(place: World) -> None:
    assert rounds_for(place, NAMES, STEPS) == 3  # official: 0, 1, 2; fast: 0, 1; full-SDE: 0
    visited = measure(place, ("official", "fast"), STEPS, rounds=3)
    assert {row["start"] for row in visited if row["variant"] == "official"} == {0, 1, 2}
    assert {row["start"] for row in visited if row["variant"] == "fast"} == {0, 1}


def test_expected_evaluations_are_the_mean_over_starts(place: World) -> None:
    # N = 2, P = 2, T = 4, guided; starts 0, 1, 2: prefix l, two window steps of 2 members, tail of (2 - l) * 2.
    assert expected_nfe(place, "official", STEPS) == {
        "rollout": 2 * 2 * np.mean([0 + 4 + 4, 1 + 4 + 2, 2 + 4 + 0]),
        "trained": 2 * 2 * 4,
        "reference": 2 * 2 * 4,
    }


def test_summary_of_known_seconds(place: World, rows: list[dict]) -> None:
    """Seconds in proportion to the evaluations: then so are the ratios, exactly, whatever the starts."""
    alike = [dict.fromkeys(MEASURES, sum(row["nfe"].values()) / 100) for row in rows]
    known = [{**row, "wall": cost, "cpu": cost} for row, cost in zip(rows, alike, strict=True)]
    found = summarise(place, known, NAMES, STEPS)
    expected = {name: sum(expected_nfe(place, name, STEPS).values()) for name in NAMES}
    assert found["fast"]["wall_ratio"]["model"] == [1.0, 1.0, 1.0]
    ratio = found["full_sde"]["cpu_ratio"]["iteration"][0]
    assert ratio == pytest.approx(expected["full_sde"] / expected["fast"], rel=1e-9)


def test_the_file_holds_everything_the_report_reads(folder: Path, overrides: list[str], place: World) -> None:
    out = folder / "cost.json"
    main(["--out", str(out), "--steps", "4", "--variants", "official", "fast", "--rounds", "2", "--set", *overrides])
    found = json.loads(out.read_text())
    assert found["machine"]["cpu"]
    assert set(found["steps"]["4"]["variants"]) == {"official", "fast"}
    entry = found["steps"]["4"]["variants"]["official"]
    assert len(entry["wall_ratio"]["model"]) == 3
    assert entry["memory_mib"]["peak"] > entry["memory_mib"]["world"] > 0
    assert len(found["rows"]["4"]) == 4


def test_ratios_need_their_base(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--out", str(tmp_path / "x.json"), "--variants", "official"])
    assert "'fast'" in capsys.readouterr().err


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="needs Linux")
def test_peak_memory_is_that_since_it_was_forgotten() -> None:
    block = np.ones(64 * 2**20 // 8)
    high = peak_mib()
    del block
    assert forget_peak()
    assert resident_mib() <= peak_mib() < high - 32
