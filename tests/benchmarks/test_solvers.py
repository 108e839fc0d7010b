"""Solvers against evaluations: what is measured, by hand where it can be, and that the page takes it in."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import report, solvers, tables
from benchmarks.solvers import Field, distance, measure, random_field, run, settings
from benchmarks.world import World
from foundation.generate import SamplerConfig
from foundation.solvers import SOLVERS
from pipelines.recipe import ROOT


@pytest.fixture(scope="module")
def found(place: World) -> dict[str, Any]:
    """The smallest run, with a coarser `exact` than the real one."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(solvers, "FINE", SamplerConfig(solver="heun", steps=24))
        return json.loads(json.dumps(run(place, 2, (4, 8), width=64, depth=1, frames=8)))


def test_distance_by_hand() -> None:
    exact = torch.tensor([[[3.0, 4.0]], [[1.0, 1.0]]])
    # RMS 5 / sqrt(2), off by 1 in one of two places: 1 / 5; the second clip is exact.
    assert distance(exact + torch.tensor([[[1.0, 0.0]], [[0.0, 0.0]]]), exact) == pytest.approx(0.1)


@pytest.mark.parametrize("guidance", [1.0, 2.0])
def test_settings_cost_what_they_say(guidance: float) -> None:
    made = list(settings(guidance, (4, 6, 8)))
    assert {config.solver for config in made} == set(SOLVERS)
    assert {config.nfe for config in made} == {4, 6, 8}
    assert all(config.guidance == guidance for config in made)
    # Six evaluations are no whole number of guided steps of two stages.
    assert len(made) == 18 - (0 if guidance == 1 else 2)


def test_panels(found: dict[str, Any]) -> None:
    names = [(panel["title"], panel["guidance"]) for panel in found["panels"]]
    assert names[:4] == [(title, w) for title in ("pre-trained", "post-trained") for w in (1.0, 2.0)]
    assert names[4] == ("random, 64 wide", 5.0)
    assert found["scenes"] == 2
    for panel in found["panels"]:
        euler = {point["nfe"]: point["distance"] for point in panel["points"] if point["solver"] == "euler"}
        assert all(0 < value < 2 for value in euler.values())
        if panel["guidance"] == 1:
            assert euler[8] < euler[4]
        if panel["exact"]:
            assert len(panel["exact"]["scenes"]) == 2
            assert 0 < panel["exact"]["total"] < 1
    # Guidance in an interval costs at most what it costs everywhere, the last of the list.
    costs = [point["nfe"] for point in found["panels"][1]["intervals"]]
    assert min(costs) < max(costs) == costs[-1] == 4


def test_a_field_is_solved_from_the_same_noise_every_time() -> None:
    field = random_field(64, 1, 8)
    first, second = (measure(f, 5.0, (8,), intervals=False)["points"] for f in (field, random_field(64, 1, 8)))
    assert first == second
    assert isinstance(field, Field)
    assert field.judge is None


def test_the_page_takes_the_table_and_the_figure(tmp_path: Path, found: dict[str, Any]) -> None:
    results = tmp_path / "solvers.json"
    results.write_text(json.dumps(found))
    (tmp_path / "benchmarks.md").write_text((ROOT / "docs" / "benchmarks.md").read_text())
    report.main(["--docs", str(tmp_path), "--solvers", str(results)])
    page = (tmp_path / "benchmarks.md").read_text()
    part = re.search(r"<!-- solvers -->\n(.*)\n<!-- /solvers -->", page, re.DOTALL)
    assert part is not None
    assert tables.solvers(found).strip() in part[1]
    assert "| pre-trained, w = 1, exact " in part[1]
    assert "on 2 held-out scenes" in part[1]
    assert (tmp_path / "images" / "benchmark-solvers.png").stat().st_size > 10_000
