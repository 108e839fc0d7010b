import json
import re
from pathlib import Path

import pytest

from benchmarks import cost, scaling
from benchmarks.convergence import Job, path_of, train
from benchmarks.report import fill, main
from benchmarks.tables import counted
from benchmarks.variants import variant
from benchmarks.world import World, laptop
from pipelines.recipe import ROOT
from settings import PrismError

METHODS = ("full_sde", "official", "fast", "fast-w2")


@pytest.fixture
def docs(tmp_path: Path) -> Path:
    """A copy of the page, with every part empty whatever has been measured so far."""
    page = (ROOT / "docs" / "benchmarks.md").read_text()
    for name in re.findall(r"<!-- (\w+) -->", page):
        page = fill(page, name, "Not measured yet.")
    (tmp_path / "benchmarks.md").write_text(page)
    return tmp_path


@pytest.fixture(scope="module")
def runs(place: World, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    for job in [Job(name, seed) for name in METHODS for seed in (0, 1)]:
        path_of(folder, job).write_text(json.dumps(train(place, job, iterations=2, every=1)))
    return folder


def test_convergence_fills_its_parts_and_draws_its_figures(docs: Path, runs: Path) -> None:
    main(["--docs", str(docs), "--convergence", str(runs)])
    page = (docs / "benchmarks.md").read_text()
    for name in ("convergence", "dimensions", "ablations"):
        assert (docs / "images" / f"benchmark-{name}.png").stat().st_size > 10_000
    for title in ("full-SDE GRPO", "official Fast-GRPO, CFG 5, KL", "window of 2 steps"):
        assert f"| {title} |" in page
    parts = {part.split(" -->")[0]: part for part in page.split("<!-- ")[1:]}
    assert "Not measured" not in "".join(parts[name] for name in ("finals", "speed", "gains", "ablations"))
    assert "Not measured" in parts["cost"]


def test_a_second_report_changes_nothing(docs: Path, runs: Path) -> None:
    main(["--docs", str(docs), "--convergence", str(runs)])
    once = (docs / "benchmarks.md").read_text()
    main(["--docs", str(docs), "--convergence", str(runs)])
    assert (docs / "benchmarks.md").read_text() == once


def test_cost_and_scaling_are_filled_in(docs: Path, folder: Path, overrides: list[str], place: World) -> None:
    spent, grown = folder / "cost-report.json", folder / "scaling-report.json"
    cost.main(["--out", str(spent), "--steps", "4", "--variants", "fast", "--rounds", "1", "--set", *overrides])
    scaling.main(["--out", str(grown), "--axes", "T", "--values", "1", "--rounds", "1", "--set", *overrides[:-1]])
    main(["--docs", str(docs), "--cost", str(spent), "--scaling", str(grown)])
    page = (docs / "benchmarks.md").read_text()
    # P = 2: prefix 0.5 on average, window 1, tail of 2 steps for 2 members.
    assert "| fast | 11 | 2 | 0 |" in page
    assert "| steps T | 8 |" in page
    assert {p.name for p in (docs / "images").iterdir()} == {"benchmark-cost.png", "benchmark-scaling.png"}


def test_savings_by_hand() -> None:
    recipe = laptop(["algorithm.window_hi=3", "algorithm.epochs=1", "algorithm.tail_steps=4"])
    lines = counted(lambda steps: variant("fast").configure(recipe, steps=steps), grids=(16,)).splitlines()[2:]
    # 12 groups of 8; starts 0 to 3: prefix 1.5, window 1, tail 4; without the short tail 16 - 1.5 - 1 steps.
    assert lines == [
        f"| 16 | fast | {12 * (1.5 + 1 + 32):,.0f} | 12 |",
        f"| 16 | no shared first step | {12 * (1.5 + 8 + 32):,.0f} | 96 |",
        f"| 16 | no shared prefix either | {12 * 8 * 6.5:,.0f} | 96 |",
        "| 16 | nor a short tail | 1,536 | 96 |",
    ]


def test_tuning_runs_are_no_evidence(docs: Path, runs: Path, tmp_path: Path) -> None:
    found = json.loads((runs / "fast.seed0.json").read_text())
    tuned = tmp_path / "tuned"
    tuned.mkdir()
    (tuned / "fast.seed0.json").write_text(json.dumps({**found, "split": "tuning"}))
    with pytest.raises(PrismError, match="give it as --tuning"):
        main(["--docs", str(docs), "--convergence", str(tuned)])
    main(["--docs", str(docs), "--tuning", str(tuned)])
    assert "| fast | **0.0006** | 1 |" in (docs / "benchmarks.md").read_text()


def test_a_page_without_markers_is_refused() -> None:
    assert fill("a\n<!-- x -->\nold\n<!-- /x -->\nb", "x", "new\n") == "a\n<!-- x -->\nnew\n<!-- /x -->\nb"
    with pytest.raises(PrismError, match="exactly once"):
        fill("nothing", "x", "new")
