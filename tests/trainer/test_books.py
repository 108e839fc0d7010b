"""Totals, the metrics line and the journal."""

import json
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.messages import Batch, GroupInfo
from trainer.journal import Follower, Journal
from trainer.record import describe
from trainer.totals import Totals

METRICS = {"samples": 6, "nfe_trained": 2, "nfe_reference": 0, "loss": 0.5, "masked": 2} | {
    "policy_kl": [0.1, 0.2],
    "conflict": {"a/b": -0.5},
}


@dataclass
class Counted:
    nfe: int


def test_totals_by_hand():
    totals = Totals()
    totals.add([Counted(5), Counted(7)], {"missing": 1}, {}, METRICS, {"train": 1.0})
    totals.add([Counted(5)], {"missing": 1, "stale": 1}, {"died": 2}, METRICS, {"train": 0.5, "wait": 2.0})
    assert totals == Totals(2, 3, {"missing": 2, "stale": 1}, {"died": 2}, 12, 17, 4, 0, {"train": 1.5, "wait": 2.0})
    assert totals.ledger() == {
        "submitted": 8,
        "accepted": 3,
        "trained": 3,
        "open": 0,
        "dropped": {"missing": 2, "stale": 1},
        "lost": {"died": 2},
    }
    assert Totals(**json.loads(json.dumps(totals.as_dict()))) == totals


REASONS = st.dictionaries(st.sampled_from(["a", "b"]), st.integers(0, 3))


@given(st.lists(st.tuples(st.integers(0, 4), REASONS, REASONS)))
def test_the_books_balance(iterations):
    totals = Totals()
    for trained, dropped, lost in iterations:
        totals.add([Counted(1)] * trained, dropped, lost, METRICS, {})
    ledger = totals.ledger()
    assert ledger["submitted"] == sum(t + sum(d.values()) + sum(x.values()) for t, d, x in iterations)
    assert ledger["submitted"] == ledger["trained"] + sum(ledger["dropped"].values()) + sum(ledger["lost"].values())


def info(index: int, rewards: list[float], version: int = 3) -> GroupInfo:
    table = {"a": np.array(rewards), "b": np.full(len(rewards), 0.5)}
    return GroupInfo(f"000004-{index:04d}", index, "clip", version, 10 + index, table)


@dataclass
class Lines:
    taken: Batch
    record: Any = None
    status: dict[str, Any] = field(default_factory=dict)

    def __call__(self) -> dict[str, Any]:
        return describe(self.taken, METRICS, {"train": 0.1, "wait": 0.2, "iteration": 0.4}, self.record, self.status)


def test_a_metrics_line():
    batch = Batch(4, "lease", groups=[info(0, [0.0, 1.0]), info(1, [0.2, float("nan")], version=4)], lost={"died": 1})
    told = {"missing": {"a": 0, "b": 1}, "replicas": {"a": 2, "b": 1}}
    record = SimpleNamespace(seconds={"rollout": 1.5, "reward": 0.5}, resubmitted=2, refilled=3, nfe=30, **told)
    line = Lines(batch, record, {"buffer": {"items": 3, "bytes": 9, "stop": False}, "rollouts_per_s": 2.5})()
    assert line["reward"] == pytest.approx({"a": 0.4, "b": 0.5})
    assert line["reward_std"] == {"a": 0.25, "b": 0.0}
    assert line["total"] == pytest.approx(0.45)
    assert line["nfe"] == {"rollout": 21, "sampled": 30, "trained": 2, "reference": 0}
    assert line["seconds"] == {"rollout": 1.5, "reward": 0.5, "train": 0.1, "wait": 0.2, "iteration": 0.4}
    assert (line["staleness"], line["buffer"], line["rollouts_per_s"]) == (1, {"items": 3, "bytes": 9}, 2.5)
    assert (line["samples"], line["loss"], line["lost"]) == (6, 0.5, {"died": 1})
    assert (line["resubmitted"], line["refilled"]) == (2, 3)
    assert {name: line[name] for name in told} == told
    assert (line["policy_kl"], line["conflict"]) == ([0.1, 0.2], {"a/b": -0.5})


def test_a_metrics_line_of_an_empty_batch_without_a_record(tmp_path):
    line = Lines(Batch(4, "lease", dropped={"missing": 2}))()
    assert line["reward"] == {}
    assert line["seconds"]["rollout"] is None
    assert line["refilled"] is None
    journal = Journal(tmp_path / "metrics.jsonl")
    journal.append(line)
    assert journal.records()[0]["total"] is None


def lines(journal: Journal) -> list[int]:
    return [record["iteration"] for record in journal.records()]


def test_a_journal_is_cut_back_to_where_training_resumes(tmp_path):
    journal = Journal(tmp_path / "run" / "metrics.jsonl")
    journal.rewind(0)
    assert journal.records() == []
    for iteration in range(5):
        journal.append({"iteration": iteration, "x": float("inf")})
    with open(journal.path, "a") as file:
        file.write('{"iteration": 5, "cut sh')
    assert lines(journal) == [0, 1, 2, 3, 4]
    journal.rewind(3)
    assert lines(journal) == [0, 1, 2]
    journal.append({"iteration": 3})
    assert lines(journal) == [0, 1, 2, 3]
    assert [path.name for path in journal.path.parent.iterdir()] == ["metrics.jsonl"]


def test_a_follower_sees_every_iteration_once(tmp_path):
    journal = Journal(tmp_path / "metrics.jsonl")
    follower = Follower(journal, 1)
    assert follower.new() == []
    for iteration in range(3):
        journal.append({"iteration": iteration})
    assert [r["iteration"] for r in follower.new()] == [1, 2]
    with open(journal.path, "a") as file:
        file.write('{"iteration":')
        file.flush()
        assert follower.new() == []
        file.write(" 3}\n")
    assert [r["iteration"] for r in follower.new()] == [3]
    journal.rewind(2)
    for iteration in (2, 3, 4):
        journal.append({"iteration": iteration})
    assert [r["iteration"] for r in follower.new()] == [4]
    assert follower.new() == []
