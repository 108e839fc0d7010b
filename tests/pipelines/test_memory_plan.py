"""`prism train --plan`: parts and peaks of real recipes."""

from io import StringIO
from pathlib import Path

from rich.console import Console

from pipelines.memory_plan import plan_memory
from pipelines.recipe import ROOT

RECIPES = ROOT / "recipes"


def printed(recipe: str, *overrides: str) -> tuple[str, dict[str, int]]:
    text = StringIO()
    peaks = plan_memory(RECIPES / recipe, overrides, Console(file=text, width=120))
    return text.getvalue(), peaks


def test_adapters_need_less_than_the_whole_model(release: Path) -> None:
    one, small = printed("prismaudio_1gpu.yaml", f"model={release}")
    assert "one of each shares a GPU" in one
    for part in ("weights", "Adam moments", "decoding 4 samples at once", "CUDA context"):
        assert part in one
    _, whole = printed("prismaudio_1gpu.yaml", f"model={release}", "lora=null")
    assert whole["learner"] > small["learner"]


def test_the_laptop_needs_no_gpu() -> None:
    text, peaks = printed("laptop.yaml")
    assert "main memory" in text
    assert "CUDA" not in text
    assert 0 < peaks["learner"] < 2**30
