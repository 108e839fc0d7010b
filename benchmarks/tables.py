"""The benchmarks' results as Markdown."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from benchmarks.curves import DIMENSIONS, Method, at_budget, at_end, difference, needed, speed_up
from benchmarks.intervals import Interval
from benchmarks.variants import METHODS, Nfe, nfe, starts
from trainer.config import AlgorithmConfig

Row = Sequence[str]


def table(head: Row, rows: Iterable[Row]) -> str:
    """Markdown."""
    return "\n".join("| " + " | ".join(row) + " |" for row in [head, ["---"] * len(head), *rows])


def cost(results: dict[str, Any]) -> str:
    """One table per T: evaluations, seconds, ratios and memory."""
    parts = []
    for steps, panel in results["steps"].items():
        head = [
            f"T = {steps}", "NFE rollout", "trained", "reference", "model, s", "codec, s", "rewards, s", "iteration, s",
            "CPU, s", "model / fast", "iteration / fast", "peak memory, MiB",
        ]  # fmt: skip
        rows = []
        for entry in panel["variants"].values():
            spent, wall = entry["nfe"], entry["wall"]
            rows.append(
                [
                    entry["title"],
                    *(f"{spent[kind]:,.0f}" for kind in ("rollout", "trained", "reference")),
                    *(f"{wall[what][0]:.3f}" for what in ("model", "codec", "rewards", "iteration")),
                    f"{entry['cpu']['iteration'][0]:.3f}",
                    *(_interval(entry["wall_ratio"][what]).text(1) for what in ("model", "iteration")),
                    f"{entry['memory_mib']['peak']:.0f} (+{entry['memory_mib']['rise']:.0f})",
                ]
            )
        note = (
            f"N = {results['members']}, P = {results['prompts']}, {panel['rounds']} rounds in turns, means over all "
            "window starts, ratios of wall seconds with 95 % bootstrap intervals over rounds."
        )
        parts += [table(head, rows), note]
    return "\n\n".join(parts)


def counted(configure: Callable[[int], AlgorithmConfig], grids: Sequence[int] = (16, 24)) -> str:
    """Evaluations of `fast` without each of its savings, whose numbers are the same by construction."""
    rows = []
    for steps in grids:
        config = configure(steps)
        places = starts(config)

        def mean(count: Callable[[int], Nfe], places: range = places) -> list[str]:
            found = [count(start) for start in places]
            return [f"{np.mean([getattr(n, kind) for n in found]):,.0f}" for kind in ("rollout", "trained")]

        full = config.model_copy(update={"tail_steps": None})
        rows += [
            [str(steps), "fast", *mean(lambda s, c=config: nfe(c, s))],
            [str(steps), "no shared first step", *mean(lambda s, c=config: nfe(c, s, released=True))],
            [str(steps), "no shared prefix either", *mean(lambda s, c=config: nfe(c, s, shared_prefix=False))],
            [str(steps), "nor a short tail", *mean(lambda s, c=full: nfe(c, s, shared_prefix=False))],
        ]
    return table(["T", "", "NFE rollout", "NFE trained"], rows)


def finals(methods: Sequence[Method]) -> str:
    """Held-out scores at the end, and what each method spent."""
    head = ["", "seeds", "lr", *DIMENSIONS, "**total**", "gain", "judged", "NFE", "wall, s", "CPU, s"]
    rows = []
    for method in methods:
        spent = [float(method.budget(name)[:, -1].mean()) for name in ("nfe", "wall_s", "cpu_s")]
        rows.append(
            [
                method.title, str(len(method.seeds)), f"{method.lr:g}",
                *(f"{method.final(name).value:.3f}" for name in DIMENSIONS), method.final().text(),
                method.gain().text(sign=True), method.mode, *(f"{value:,.0f}" for value in spent),
            ]
        )  # fmt: skip
    return table(head, rows)


def gains(methods: Sequence[Method], name: str = "fast") -> str:
    """Rise of every reward of one method, paired by scene, with intervals over seeds."""
    found = _named(methods, name)
    rows = []
    for column in (*DIMENSIONS, "total"):
        curve = found.curve(column)
        start, rises = float(curve[:, 0].mean()), curve[:, -1] - curve[:, 0]
        rows.append([column, f"{start:.3f}", found.final(column).text(), found.gain(column).text(sign=True),
                     f"{rises.min():+.3f}"])  # fmt: skip
    return table([f"`{name}`", "before", "after", "rise", "least rise of a seed"], rows)


def speed_ups(methods: Sequence[Method], name: str = "fast") -> str:
    """How much more the other methods need to reach a level; each level is the final reward of one of them."""
    ours, others = _named(methods, name), [m for m in methods if m.name in METHODS and m.name != name]
    head = ["final reward of", "level", "needed by", "NFE", "wall, s", "NFE ratio", "wall ratio", "CPU ratio"]
    rows = []
    for goal in others:
        rows.append([goal.title, f"{goal.final().value:.3f}", f"**{ours.title}**", *_needed(ours, goal), "1", "1", "1"])
        for base in others:
            found = {b: speed_up(ours, base, b, goal) for b in ("nfe", "wall_s", "cpu_s")}
            ratios = [("≥ " if f.bound else "") + f.ratio.text(1) for f in found.values()]
            rows.append(["", "", base.title, *_needed(base, goal), *ratios])
    note = (
        "Smallest budget at which the mean curve over seeds reaches the level, interpolated between evaluations; 95 % "
        "intervals by resampling seeds. ≥: the method never gets there, its whole budget counts."
    )
    return table(head, rows) + "\n\n" + note


def ablations(methods: Sequence[Method], name: str = "fast") -> str:
    """Every variant of one method against it, worst first."""
    rows = [
        [title, str(seeds), per.text(2), *(found.text(sign=True) for found in pair)]
        for title, seeds, per, pair in sorted(contrasts(methods, name), key=lambda row: row[3][1].value)
    ]
    head = ["changed", "seeds", "CPU, s an iteration", "Δ total, equal iterations", "Δ total, equal CPU seconds"]
    return table(head, rows) + "\n\nPaired by seed and scene, 95 % Student intervals over seeds."


def contrasts(
    methods: Sequence[Method], name: str = "fast"
) -> list[tuple[str, int, Interval, tuple[Interval, Interval]]]:
    """Title, seeds, CPU seconds an iteration, and differences at equal iterations and at `name`'s CPU seconds."""
    ours = _named(methods, name)
    budget = float(ours.budget("cpu_s")[:, -1].mean())
    found = []
    for method in methods:
        if method.name.startswith(f"{name}-"):
            per = float((method.budget("cpu_s")[:, -1] / method.budget("iteration")[:, -1]).mean())
            pair = (difference(method, ours, at_end), difference(method, ours, at_budget("cpu_s", budget)))
            found.append((method.title, len(method.seeds), Interval(per), pair))
    return found


def rates(methods: Sequence[Method]) -> str:
    """Learning rates on the tuning scenes; the best of each variant in bold."""
    best = {m.name: max((k for k in methods if k.name == m.name), key=lambda k: k.final().value) for m in methods}
    rows = []
    for method in methods:
        lr = f"**{method.lr:g}**" if best[method.name] is method else f"{method.lr:g}"
        rows.append([method.title, lr, str(len(method.seeds)), method.final().text()])
    return table(["", "lr", "seeds", "total on tuning scenes"], rows)


def scaling(results: dict[str, Any]) -> str:
    """Model seconds and evaluations at every point."""
    rows = []
    for found in results["axes"].values():
        for official, fast in zip(found["methods"]["official"], found["methods"]["fast"], strict=True):
            ratio = official["model_s"][0] / fast["model_s"][0]
            rows.append(
                [found["label"], f"{official['value']:g}", f"{official['nfe']:,}", f"{official['model_s'][0]:.3f}",
                 f"{fast['nfe']:,}", f"{fast['model_s'][0]:.3f}", f"{ratio:.1f}"]
            )  # fmt: skip
    return table(["", "value", "official NFE", "model, s", "fast NFE", "model, s", "ratio"], rows)


def accelerator(results: dict[str, Any]) -> str:
    """Rollout and learner step under every mode against their bounds."""
    rows = []
    for row in results["rows"]:
        if "error" in row:
            rows.append([row["what"], row["preset"], row["dtype"], row["mode"], row["attention"], "", row["error"]])
            rows[-1] += [""] * 6
            continue
        # A clip's seconds are those of one clip, the others' of all their rows.
        per_s = (1 if row["what"].startswith("clip") else row["rows"]) / row["seconds"]
        peak = "" if row["peak_gib"] is None else f"{row['peak_gib']:.1f}"
        rows.append(
            [row["what"], row["preset"], row["dtype"], row["mode"], row["attention"], str(row["rows"]),
             f"{row['seconds'] * 1e3:.2f}", f"{per_s:.1f}", peak, f"{row['tflop']:.2f}",
             f"{row['tflop'] / row['seconds']:.1f}", f"{row['bound_s'] * 1e3:.2f}",
             f"{row['bound_s'] / row['seconds']:.0%}"]
        )  # fmt: skip
    head = [
        "", "preset", "dtype", "mode", "attention", "samples", "ms", "samples/s", "peak, GiB", "TFLOP", "TFLOP/s",
        "bound, ms", "of the bound",
    ]  # fmt: skip
    return table(head, rows)


def solvers(results: dict[str, Any]) -> str:
    """Distance and reward of every solver at every number of evaluations, then guidance in intervals."""
    budgets = sorted({point["nfe"] for panel in results["panels"] for point in panel["points"]})
    rows, narrow = [], []
    for panel in results["panels"]:
        exact = panel["exact"]
        title = f"{panel['title']}, w = {panel['guidance']:g}"
        if exact:
            title += f", exact {exact['total']:.3f}"
        for name in dict.fromkeys(point["solver"] for point in panel["points"]):
            found = {point["nfe"]: point for point in panel["points"] if point["solver"] == name}
            rows.append([title, f"`{name}`", *(_solved(found.get(nfe)) for nfe in budgets)])
            title = ""
        for point in panel["intervals"]:
            low, high = point["interval"]
            rewards = point["rewards"]
            values = [f"{rewards[n]:.3f}" for n in (*DIMENSIONS, "total")] if rewards else [""] * 5
            title = f"{panel['title']}, w = {panel['guidance']:g}"
            narrow.append([title, f"({low:g}, {high:g}]", str(point["steps"]), str(point["nfe"]), *values])
    note = (
        f"Distance to the exact latents (Heun, {results['fine']} steps) in per cent of their RMS, and the mean of the "
        f"four rewards on {results['scenes']} held-out scenes. A guided pair counts as two evaluations."
    )
    text = table(["", "solver", *(f"NFE {nfe}" for nfe in budgets)], rows) + "\n\n" + note
    head = ["guided by `dpmpp2m`", "levels", "steps", "NFE", *DIMENSIONS, "**total**"]
    return text + ("\n\n" + table(head, narrow) if narrow else "")


def _solved(point: dict[str, Any] | None) -> str:
    if point is None:
        return ""
    rewards = f", {point['rewards']['total']:.3f}" if point["rewards"] else ""
    return f"{100 * point['distance']:.2g} %{rewards}"


def _needed(method: Method, goal: Method) -> list[str]:
    level = float(goal.curve()[:, -1].mean())
    found = [needed(method, level, name) for name in ("nfe", "wall_s")]
    return [f"{value:,.0f}" if np.isfinite(value) else "never" for value in found]


def _named(methods: Sequence[Method], name: str) -> Method:
    return next(m for m in methods if m.name == name)


def _interval(values: Sequence[float | None]) -> Interval:
    return Interval(*(float("nan") if v is None else v for v in values))
