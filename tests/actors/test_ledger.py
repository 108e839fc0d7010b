import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.ledger import Ledger, LedgerError


def balance(totals: dict) -> int:
    lost, dropped = sum(totals["lost"].values()), sum(totals["dropped"].values())
    return totals["submitted"] - totals["trained"] - dropped - lost - totals["open"]


def test_every_path_of_a_group_is_counted() -> None:
    ledger = Ledger()
    ledger.expect(0, 4)
    ledger.accept(0, 0)
    ledger.train(0, 0)
    ledger.accept(0, 1)
    ledger.drop(0, 2, "missing:temporal")
    ledger.lose(0, 3, "worker died")
    assert ledger.totals() == {
        "submitted": 4,
        "accepted": 2,
        "trained": 1,
        "open": 1,
        "dropped": {"missing:temporal": 1},
        "lost": {"worker died": 1},
    }
    assert ledger.complete(0)
    assert ledger.open_groups() == [(0, 1)]


def test_a_final_state_stays() -> None:
    ledger = Ledger()
    ledger.expect(0, 2)
    ledger.accept(0, 0)
    ledger.train(0, 0)
    assert not ledger.drop(0, 0, "late")
    assert ledger.drop(0, 1, "first")
    assert not ledger.lose(0, 1, "second")
    assert ledger.totals()["dropped"] == {"first": 1}
    with pytest.raises(LedgerError, match="is trained"):
        ledger.accept(0, 0)


def test_an_accepted_group_cannot_be_lost() -> None:
    ledger = Ledger()
    ledger.expect(0, 1)
    ledger.accept(0, 0)
    assert not ledger.lose(0, 0, "late news")
    assert ledger.state(0, 0) == "accepted"


def test_unknown_groups_and_changed_sizes_are_errors() -> None:
    ledger = Ledger()
    ledger.expect(3, 2)
    ledger.expect(3, 2)
    with pytest.raises(LedgerError, match="with 2 groups, now with 5"):
        ledger.expect(3, 5)
    with pytest.raises(LedgerError, match="never submitted"):
        ledger.accept(3, 2)
    with pytest.raises(LedgerError, match="never submitted"):
        ledger.accept(4, 0)


def test_a_replacement_is_submitted_as_its_predecessor_is_dropped() -> None:
    ledger = Ledger()
    ledger.expect(0, 2)
    ledger.accept(0, 0)
    assert ledger.replace(0, 1, 3, "flat")
    assert not ledger.complete(0)
    assert not ledger.replace(0, 1, 3, "flat")
    assert not ledger.replace(0, 0, 2, "flat")
    assert ledger.open_groups() == [(0, 0), (0, 3)]
    assert ledger.replace(0, 3, 5, "flat")
    assert ledger.drop(0, 5, "flat")
    assert ledger.complete(0)
    assert not ledger.barren(0)
    ledger.expect(0, 2)
    assert ledger.totals() == {
        "submitted": 4,
        "accepted": 1,
        "trained": 0,
        "open": 1,
        "dropped": {"flat": 3},
        "lost": {},
    }


def test_a_replacement_needs_a_number_of_its_own() -> None:
    ledger = Ledger()
    ledger.expect(0, 2)
    with pytest.raises(LedgerError, match="Group 0 of iteration 0 was submitted before"):
        ledger.replace(0, 1, 0, "flat")
    with pytest.raises(LedgerError, match="never submitted"):
        ledger.replace(0, 2, 4, "flat")
    assert ledger.open_groups() == [(0, 0), (0, 1)]


def test_an_iteration_whose_replacements_all_failed_is_barren() -> None:
    ledger = Ledger()
    ledger.expect(0, 1)
    ledger.replace(0, 0, 1, "flat")
    assert not ledger.barren(0)
    ledger.lose(0, 1, "worker died")
    assert ledger.barren(0)


def test_rewinding_forgets_and_a_base_carries_on() -> None:
    base = {"submitted": 24, "accepted": 23, "trained": 23, "dropped": {}, "lost": {"died": 1}, "open": 0}
    ledger = Ledger(base)
    ledger.expect(2, 3)
    ledger.expect(3, 3)
    ledger.rewind(3)
    assert not ledger.knows(3)
    assert ledger.totals()["submitted"] == 27
    assert ledger.totals()["lost"] == {"died": 1}


CALLS = st.tuples(
    st.sampled_from(["expect", "accept", "train", "drop", "lose", "replace", "rewind"]),
    st.integers(0, 3),
    st.integers(0, 8),
)


@given(st.lists(CALLS, max_size=60))
def test_the_books_balance_after_any_calls(calls: list[tuple[str, int, int]]) -> None:
    ledger = Ledger()
    for name, iteration, index in calls:
        arguments: dict[str, tuple] = {
            "expect": (iteration, 3),
            "rewind": (iteration,),
            "drop": (iteration, index, "why"),
            "lose": (iteration, index, "why"),
            "replace": (iteration, index, index + 3, "why"),
        }
        with contextlib.suppress(LedgerError):
            getattr(ledger, name)(*arguments.get(name, (iteration, index)))
        assert balance(ledger.totals()) == 0
