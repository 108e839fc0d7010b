"""The released code's reward formulas, against numbers that it printed."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rewards_service import official
from rewards_service.errors import RewardError

GOLDEN: dict[str, Any] = json.loads((Path(__file__).parent / "fixtures" / "official.json").read_text())
FORMULAS = [
    (official.total, 4),
    (official.ms_clap, 2),
    (official.itd, 4),
    (official.aesthetic, 4),
    (official.aesthetic_ce, 1),
    (official.aesthetic_pc, 1),
]


def close(got: Any, want: Any) -> None:
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-6)


def test_the_weighted_total_is_the_released_one() -> None:
    scores, want = GOLDEN["total"]["scores"], GOLDEN["total"]["total"]
    terms = [scores[name] for name in ("ms_clap", "synch_reward", "itd_reward", "meta_reward")]
    close(official.total(*terms), want)
    close(official.total(*(np.array(t, np.float32) for t in terms)), want)
    close(official.total(*(torch.tensor(t) for t in terms)), want)
    close([official.total(*(t[i] for t in terms)) for i in range(len(want))], want)


def test_ms_clap_and_delays_are_the_released_ones() -> None:
    clap, delays = GOLDEN["ms_clap"], GOLDEN["itd"]
    close(official.ms_clap(clap["cosine"], clap["logit_scale"]), clap["reward"])
    columns = ("crw_generated", "crw_ground_truth", "gcc_generated", "gcc_ground_truth")
    close(official.itd(*(delays[name] for name in columns)), delays["reward"])
    close(official.itd(0.4, 0.0, 0.0, 0.2), -(1.25 * 0.16 + 2.5 * 0.04))  # the halves are weighted 1 : 2


def test_aesthetic_windows_and_axes_are_the_released_ones() -> None:
    told = GOLDEN["aesthetic"]
    lengths = told["clip_lengths_samples_16k"]
    shares = [official.windows(n) for n in lengths]
    close(np.concatenate(shares), told["window_weights"])
    clip = np.repeat(np.arange(len(lengths)), [len(s) for s in shares])
    assert clip.tolist() == told["window_clip_index"]
    axes = []
    for name in ("CE", "CU", "PC", "PQ"):
        target = told["target_transform"][name]
        windows = np.array(told["normalised_predictions"][name]) * target["std"] + target["mean"]
        axes.append(official.axis_means(windows, told["window_weights"], clip, len(lengths)))
        close(axes[-1], told["axes"][name])
    close(official.aesthetic(*axes), told["reward_all"])
    close(official.aesthetic_ce(axes[0]), told["reward_CE"])
    close(official.aesthetic_pc(axes[2]), told["reward_PC"])


def test_windows_of_any_length() -> None:
    assert official.windows(160000).tolist() == [1.0]
    assert official.windows(160001).tolist() == [1.0, 1 / 160000]
    assert official.windows(441 * 1500, 44100).tolist() == [1.0, 0.5]
    assert official.windows(0).size == 0


@given(st.data())
def test_a_nan_in_any_term_is_a_nan_in_the_result(data: st.DataObject) -> None:
    formula, terms = data.draw(st.sampled_from(FORMULAS))
    # Magnitudes at which exp does not overflow: what is asked here is where NaN goes.
    values = data.draw(st.lists(st.lists(st.floats(-100, 100), min_size=3, max_size=3), min_size=terms, max_size=terms))
    at, column = data.draw(st.integers(0, terms - 1)), data.draw(st.integers(0, 2))
    assert np.isfinite(formula(*values)).all()
    values[at][column] = float("nan")
    assert np.isnan(formula(*values)).tolist() == [i == column for i in range(3)]


def test_a_nan_window_or_none_at_all_is_a_nan_mean() -> None:
    means = official.axis_means([1.0, 3.0, np.nan, 5.0], [1.0, 0.5, 1.0, 1.0], [0, 0, 1, 3], 4)
    np.testing.assert_allclose(means, [2.5 / 1.5, np.nan, np.nan, 5.0])


def test_what_does_not_go_together_is_refused() -> None:
    with pytest.raises(RewardError, match="ms_clap, synch, itd, aesthetic must be numbers"):
        official.total([1.0, 2.0], [1.0, 2.0, 3.0], 0.0, 0.0)
    with pytest.raises(RewardError, match="must be numbers"):
        official.aesthetic("loud", 1, 2, 3)  # pyright: ignore[reportArgumentType]
    for index in ([0, 4], [0, -1], [0], [0.0, 1.0]):
        with pytest.raises(RewardError, match="need the index of one of 4 clips"):
            official.axis_means([1.0, 2.0], [1.0, 1.0], index, 4)
