"""Results into docs/benchmarks.md and its figures.

Run: python -m benchmarks.report [--cost runs/cost.json] [--convergence runs/convergence] [--tuning runs/tuning]
                                 [--scaling runs/scaling.json] [--accelerator runs/accelerator.json]
                                 [--solvers runs/solvers.json]
Replaces what stands between `<!-- name -->` and `<!-- /name -->` for the results that are given; the rest stays. With
--cost beside --convergence, wall seconds are iterations at the pace of the cost table, since convergence runs may have
shared the machine.
"""

import argparse
import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks import figures, tables
from benchmarks.curves import read
from benchmarks.machine import sentence
from benchmarks.variants import METHODS, variant
from benchmarks.world import laptop
from pipelines.recipe import ROOT
from settings import PrismError


def fill(text: str, name: str, content: str) -> str:
    """The page with another content between the markers of a name. Raises PrismError when they are not there once."""
    pattern = re.compile(rf"(<!-- {name} -->\n).*?(\n?<!-- /{name} -->)", re.DOTALL)
    if len(pattern.findall(text)) != 1:
        raise PrismError(
            f"docs/benchmarks.md must have `<!-- {name} -->` and `<!-- /{name} -->` exactly once, each on a line of "
            "its own; put them back where that part belongs."
        )
    return pattern.sub(lambda found: found[1] + content.strip("\n") + "\n" + found[2].lstrip("\n"), text)


def _cost(path: Path, images: Path) -> dict[str, str]:
    results = _json(path)
    figures.cost(results, images / "benchmark-cost.png")
    recipe = laptop()
    counts = tables.counted(lambda steps: variant("fast").configure(recipe, steps=steps))
    return {"cost": _where(results) + tables.cost(results), "counted": counts}


def _convergence(folder: Path, images: Path, cost: Path | None = None) -> dict[str, str]:
    methods = read(folder, _pace(cost))
    if methods[0].seeds[0].split != "heldout":
        raise PrismError(f"{folder} was judged on tuning scenes; give it as --tuning.")
    main = [m for m in methods if m.name in METHODS or m.name == "full_sde_cfg"]
    figures.convergence(main, images / "benchmark-convergence.png")
    figures.dimensions(main, images / "benchmark-dimensions.png")
    where = _where({"machine": methods[0].seeds[0].machine})
    if cost is not None:
        where += "Wall seconds are iterations times the wall seconds of one in the cost table above.\n\n"
    found = {"finals": where + tables.finals(main)}
    if any(m.name == "fast" for m in methods):
        found["gains"] = tables.gains(methods)
        if len(main) > 1:
            found["speed"] = tables.speed_ups(main)
        contrasts = tables.contrasts(methods)
        if contrasts:
            rows = [(title, pair) for title, _, _, pair in contrasts]
            figures.forest(rows, "fast", images / "benchmark-ablations.png")
            found["ablations"] = tables.ablations(methods)
    return found


def _tuning(folder: Path, images: Path) -> dict[str, str]:
    return {"tuning": tables.rates(read(folder))}


def _scaling(path: Path, images: Path) -> dict[str, str]:
    results = _json(path)
    figures.scaling(results, images / "benchmark-scaling.png")
    return {"scaling": _where(results) + tables.scaling(results)}


def _solvers(path: Path, images: Path) -> dict[str, str]:
    results = _json(path)
    figures.solvers(results, images / "benchmark-solvers.png")
    return {"solvers": _where(results) + tables.solvers(results)}


def _accelerator(path: Path, images: Path) -> dict[str, str]:
    results = _json(path)
    return {"accelerator": _where(results) + tables.accelerator(results)}


def _pace(cost: Path | None) -> dict[str, float]:
    """Wall seconds of one iteration per variant, from a cost file on the laptop recipe's grid."""
    if cost is None:
        return {}
    panel = _json(cost)["steps"].get(str(laptop().algorithm.steps), {"variants": {}})
    return {name: entry["wall"]["iteration"][0] for name, entry in panel["variants"].items()}


PARTS: dict[str, Callable[..., dict[str, str]]] = {
    "cost": _cost,
    "convergence": _convergence,
    "tuning": _tuning,
    "scaling": _scaling,
    "solvers": _solvers,
    "accelerator": _accelerator,
}


def _where(results: dict[str, Any]) -> str:
    return f"Machine: {sentence(results['machine'])}.\n\n"


def _json(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise PrismError(f"Cannot read {path}: {error.strerror}; run that benchmark first.") from error


def main(arguments: Sequence[str] | None = None) -> None:
    """Fill the page with the results that are given."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--docs", type=Path, default=ROOT / "docs", help="folder of benchmarks.md and images/")
    for name in PARTS:
        parser.add_argument(f"--{name}", type=Path, default=None)
    options = vars(parser.parse_args(arguments))
    page = options["docs"] / "benchmarks.md"
    text = page.read_text(encoding="utf-8")
    for name, make in PARTS.items():
        if options[name] is not None:
            more = [options["cost"]] if name == "convergence" else []
            for marker, content in make(options[name], options["docs"] / "images", *more).items():
                text = fill(text, marker, content)
    page.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
