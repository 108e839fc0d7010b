"""A Markdown table of several runs of one recipe with different seeds.

Run: for s in 0 1 2; do prism train recipes/laptop.yaml seed=$s name=seed-$s; done
     python -m benchmarks.seeds runs/seed-*
"""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np

COLUMNS = ("semantic", "temporal", "aesthetic", "spatial", "total")
MEASURES = {
    "onset_f1": "onset F1 (70 ms)",
    "count_exact": "impact count exact",
    "class_top1": "class top-1, independent judge",
    "level_position_corr": "level–position correlation",
    "delay_position_corr": "delay–position correlation",
    "log_mel_distance_db": "log-mel distance to clean sound, dB",
}


def score(entry: dict[str, Any], error: bool = True) -> str:
    """Mean with its standard error."""
    return f"{entry['mean']:.3f}" + (f" ± {entry['stderr']:.3f}" if error else "")


def rows(runs: list[dict[str, Any]]) -> list[list[str]]:
    """Before, guided, and after and gain per run."""
    first = runs[0]["heldout"]
    scale, guided = max(first["guided"].items(), key=lambda item: item[1]["total"]["mean"])
    out = [
        ["pre-trained", *(score(first["before"][c]) for c in COLUMNS), ""],
        [f"pre-trained, guidance {scale}", *(score(guided[c]) for c in COLUMNS), ""],
    ]
    for run in runs:
        held = run["heldout"]
        out.append(
            [f"**seed {run['seed']}**", *(score(held["after"][c]) for c in COLUMNS), f"{run['seconds']['rl']:.0f} s"]
        )
        out.append(["gain, paired", *(f"+{score(held['gain'][c])}" for c in COLUMNS), ""])
    means = {c: np.mean([run["heldout"]["gain"][c]["mean"] for run in runs]) for c in COLUMNS}
    return [*out, ["**mean gain**", *(f"**+{means[c]:.3f}**" for c in COLUMNS), ""]]


def measures(runs: list[dict[str, Any]]) -> list[list[str]]:
    """What no reward sees, before and after each run."""
    out = []
    for key, title in MEASURES.items():
        values = [run["measures"]["after"][key]["mean"] for run in runs]
        before = runs[0]["measures"]["before"][key]["mean"]
        out.append([title, f"{before:.2f}", *(f"{value:.2f}" for value in values)])
    return out


def table(head: list[str], body: list[list[str]]) -> str:
    """Markdown."""
    return "\n".join("| " + " | ".join(line) + " |" for line in [head, ["---"] * len(head), *body])


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+")
    runs = [json.loads((path / "summary.json").read_text(encoding="utf-8")) for path in parser.parse_args().runs]
    print(table(["held-out scenes", *COLUMNS, "RL wall time"], rows(runs)))
    print()
    print(table(["not rewarded", "pre-trained", *(f"seed {run['seed']}" for run in runs)], measures(runs)))


if __name__ == "__main__":
    main()
