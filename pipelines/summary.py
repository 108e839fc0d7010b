"""summary.json of a finished run, and the table the user sees."""

import json
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from evaluation.heldout import HeldOut, paired
from evaluation.measures import Measures
from evaluation.present import alarm_sentence
from evaluation.samples import plain
from pipelines.recipe import TrainRecipe
from pipelines.run_folder import RunFolder
from settings import PrismError
from trainer.loop import Outcome


class AccountingError(PrismError):
    """A group was neither trained, dropped nor lost."""


def write_summary(
    recipe: TrainRecipe,
    folder: RunFolder,
    outcome: Outcome,
    books: dict[str, Any],
    before: dict[str, Any],
    after: HeldOut,
    measures: Measures | None,
    monitor: dict[str, Any],
    stages: dict[str, float],
    total_seconds: float,
    console: Console,
) -> None:
    """Write the summary and print it. Raises AccountingError when the groups do not balance.

    monitor: of `pipelines.monitor.Monitor.summary`.
    """
    groups, totals = balanced(books["groups"]), outcome.totals
    summary = {
        "name": folder.name,
        "seed": recipe.seed,
        "preset": recipe.algorithm.preset,
        "version": outcome.version,
        "iterations": totals.iterations,
        "stopped": outcome.stopped,
        "samples": totals.samples,
        "groups": groups,
        "nfe": {"rollout": totals.nfe_rollout, "trained": totals.nfe_trained, "reference": totals.nfe_reference},
        "seconds": {
            "setup": stages.get("setup", 0.0),
            "rl": stages.get("rl", 0.0),
            "rollout": books["seconds"]["rollout"],
            "reward": books["seconds"]["reward"],
            "train": totals.seconds.get("train", 0.0),
            "wait": totals.seconds.get("wait", 0.0),
            "total": total_seconds,
        },
        "restarts": books["restarts"],
        "heldout": {
            "clips": len(after.clip_ids),
            "before": before["scores"],
            "after": after.summary(),
            "gain": gains(before, after),
            "guided": before["guided"],
            "gated": after.left_out(),
        },
        "measures": {"before": before["measures"], "after": measures.as_dict() if measures else None},
        "monitor": monitor,
        "algorithm": recipe.algorithm.model_dump(mode="json"),
        "optimiser": recipe.optimiser.model_dump(mode="json"),
    }
    folder.summary.write_text(json.dumps(plain(summary), indent=1, allow_nan=False), encoding="utf-8")
    console.print(_table(summary))
    for name, entry in summary["heldout"]["gated"].items():
        told = f"{name}: {entry['clips']} of {len(after.clip_ids)} clips not judged: {entry['reason']}"
        console.print(told, style="dim", markup=False, highlight=False, soft_wrap=True)
    for alarm in monitor["alarms"]:
        console.print(alarm_sentence(alarm), style="bold red", markup=False, highlight=False, soft_wrap=True)


def balanced(ledger: dict[str, Any]) -> dict[str, Any]:
    """The ledger's settled part. Groups still open when a run is stopped were never accepted for training.

    Raises AccountingError unless submitted = trained + dropped + lost.
    """
    dropped, lost = dict(ledger["dropped"]), dict(ledger["lost"])
    submitted = ledger["submitted"] - ledger.get("open", 0)
    if submitted != ledger["trained"] + sum(dropped.values()) + sum(lost.values()):
        raise AccountingError(
            f"The groups of this run do not balance: {ledger}. Please report this with the run folder."
        )
    return {
        "submitted": submitted,
        "accepted": ledger["accepted"],
        "trained": ledger["trained"],
        "dropped": sum(dropped.values()),
        "lost": sum(lost.values()),
        "reasons": {"dropped": dropped, "lost": lost},
        "abandoned": ledger.get("open", 0),
    }


def gains(before: dict[str, Any], after: HeldOut) -> dict[str, dict[str, float | int | None]]:
    """Mean gain per dimension over the clips scored both times, with its paired standard error.

    before: what before.json holds. Raises PrismError when it scored other clips, as on a resume with changed data.
    """
    columns = {name: np.asarray(values) for name, values in before["scenes"].items()}
    total = columns.pop("total")
    start = HeldOut(clip_ids=tuple(before["clips"]), scenes=columns, total=total)
    return {name: gain.as_dict() for name, gain in paired(start, after).items()}


def _table(summary: dict[str, Any]) -> Table:
    held = summary["heldout"]
    table = Table(
        title=f"{held['clips']} held-out clips, {summary['iterations']} iterations", box=None, padding=(0, 2, 0, 0)
    )
    for column in ("", "before", "after", "gain"):
        table.add_column(column, justify="left" if not column else "right")
    for name, entry in held["after"].items():
        gain = held["gain"][name]
        table.add_row(
            name,
            _number(held["before"][name]["mean"]),
            f"[bold]{_number(entry['mean'])}[/bold]",
            f"{_number(gain['mean'], '+.3f')} ± {_number(gain['stderr'])}",
        )
    return table


def _number(value: float | None, form: str = ".3f") -> str:
    return "–" if value is None or value != value else format(value, form)
