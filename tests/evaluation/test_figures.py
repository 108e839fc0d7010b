import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from evaluation import present
from evaluation.charts import Frame, _spread, slope_chart, smooth, span, ticks
from evaluation.samples import plain

numbers = st.floats(-1e6, 1e6)


def test_ticks_by_hand() -> None:
    assert ticks(0.4, 0.9) == [0.4, 0.5, 0.6, 0.7, 0.8, 0.9]
    assert ticks(0, 100) == [0, 20, 40, 60, 80, 100]
    assert ticks(0, 0.7, 3) == [0.0, 0.2, 0.4, 0.6]


@given(numbers, st.floats(1e-4, 1e6), st.integers(2, 8))
def test_ticks_stay_inside_and_are_few(low: float, width: float, count: int) -> None:
    places = ticks(low, low + width, count)
    assert 1 <= len(places) <= 2 * count + 1
    assert all(low - 1e-5 * width <= p <= low + width * (1 + 1e-5) for p in places)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=30))
def test_span_holds_all_values(values: list[float]) -> None:
    low, high = span(values)
    assert low <= min(values) + 1e-6
    assert high >= max(values) - 1e-6
    assert high - low >= 0.1 - 1e-9


def test_smoothing_keeps_straight_lines_to_the_very_ends() -> None:
    line = [(i, 0.2 + 0.01 * i) for i in range(20)]
    assert [y for _, y in smooth(line)] == pytest.approx([y for _, y in line])
    assert smooth([]) == []
    assert smooth([(3, 0.5)]) == [(3, 0.5)]


def test_smoothing_lowers_noise() -> None:
    noise = np.random.default_rng(0).standard_normal(200)
    assert np.std([y for _, y in smooth(list(enumerate(noise)))]) < 0.45


@given(st.lists(st.floats(0, 300), min_size=1, max_size=6))
def test_labels_never_overlap_and_keep_their_order(places: list[float]) -> None:
    moved = _spread(places, 19)
    order = np.argsort(places, kind="stable")
    assert np.all(np.diff(np.array(moved)[order]) > 18)
    assert np.mean(moved) == pytest.approx(np.mean(places), abs=1e-6)


def test_slope_chart_escapes_and_shows_a_missing_end() -> None:
    frame = Frame(400, 300, (0, 1), (0, 1))
    chart = slope_chart("<t>", ["a&b", "c"], [0.2, 0.4], [0.5, None], ("before", "<after>"), frame)
    assert "&lt;t&gt;" in chart
    assert "a&amp;b" in chart
    assert "<after>" not in chart
    assert chart.count('class="slope') == 1


@pytest.mark.parametrize(
    ("measured", "label", "text"),
    [
        ({"offsets_ms": [12.34, -3.0]}, "offsets", "12.3, −3.0 ms"),
        ({"noise_floor_db": -70.75}, "noise floor", "−70.8 dB"),
        ({"clipping_share": 0.0}, "clipping", "0.0 %"),
        ({"bandwidth_hz": 5125.4}, "bandwidth", "5125 Hz"),
        ({"known_words": ["glass", "marble"]}, "known words", "glass, marble"),
        ({"count": 3}, "count", "3"),
        ({"delay_ms": -0.0}, "delay", "0.0 ms"),
        ({"similarity": float("nan")}, "similarity", "–"),
    ],
)
def test_measured_values_read_well(measured: dict, label: str, text: str) -> None:
    (row,) = present.details(measured)
    assert (row.label, row.text) == (label, text)


def test_records_become_a_table_and_empty_things_vanish() -> None:
    rows = present.details({"windows": [{"time_s": 0.5, "weight": 1.0}, {"time_s": 1.0}], "silent": False, "gone": []})
    assert len(rows) == 1
    assert rows[0].head == ("time (s)", "weight")
    assert rows[0].body == (("0.50", "1.00"), ("1.00", "–"))


def test_durations_and_counts() -> None:
    assert present.duration(47.94) == "47.9 s"
    assert present.duration(88) == "1 min 28 s"
    assert present.duration(3600 * 2 + 200) == "2 h 3 min"
    assert present.duration(None) == present.count(None) == present.number(None) == "–"
    assert present.count(12345) == "12\u202f345"
    assert present.signed(-0.25) == "−0.250"


def test_plain_holds_only_strict_json() -> None:
    value = {"a": np.float32(0.5), "b": np.array([1.0, np.nan]), "c": (float("inf"), True), 3: None}
    assert plain(value) == {"a": 0.5, "b": [1.0, None], "c": [None, True], "3": None}
