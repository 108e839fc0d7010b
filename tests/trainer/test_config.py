"""Presets, what a recipe may override, and which settings cannot be."""

import pytest
from pydantic import ValidationError

from trainer.config import PRESETS, AlgorithmConfig

# Of arXiv 2511.18833, of the code released with it, and of Flow-GRPO. `fast` is whatever the evidence favours.
KNOWN = {
    "paper": {
        "group_size": 16,
        "noises": 1,
        "steps": 24,
        "grid": "inference",
        "width": 2,
        "window_policy": "uniform",
        "window_lo": 0,
        "last_start": 22,
        "advantage": "weighted_sum_group_std",
        "std_eps": 1e-6,
        "cfg_scale": 1.0,
        "clip_range": 1e-4,
        "kl_beta": 0.04,
        "kl_space": "x",
    },
    "official": {
        "group_size": 16,
        "noises": 2,
        "branches": 8,
        "steps": 24,
        "grid": "official_rl",
        "width": 2,
        "window_policy": "fixed",
        "window_lo": 6,
        "last_start": 6,
        "advantage": "weighted_sum_global_std",
        "std_eps": 1e-4,
        "cfg_scale": 5.0,
        "guided": 5.0,
        "clip_range": 1e-4,
        "kl_beta": 0.04,
        "kl_space": "x_no_dt",
    },
    "full_sde": {
        "noises": 1,
        "width": 16,
        "window_lo": 0,
        "last_start": 0,
        "advantage": "weighted_sum_group_std",
        "std_eps": 1e-4,
        "clip_range": 1e-4,
        "kl_beta": 0,
    },
}


@pytest.mark.parametrize("preset", KNOWN)
def test_a_preset_is_its_source(preset):
    config = AlgorithmConfig.model_validate({"preset": preset})
    assert {name: getattr(config, name) for name in KNOWN[preset]} == KNOWN[preset]
    # What the sources have in common and what they do not know of.
    assert (config.transition, config.noise_level, config.tail, config.tail_steps) == ("flow_sde", 0.7, "euler", None)
    assert (config.trust_region, config.epochs, config.minibatches) == ("ratio", 1, 1)
    assert (config.adv_clip, config.conflict, config.refills) == (5.0, "none", 0)


@pytest.mark.parametrize("preset", PRESETS)
def test_a_preset_fits_the_known_fields_and_reads_back(preset):
    assert PRESETS[preset].keys() <= AlgorithmConfig.model_fields.keys()
    config = AlgorithmConfig.model_validate({"preset": preset})
    assert AlgorithmConfig.model_validate(config.model_dump()) == config


def test_fast_is_the_default_and_cheap():
    fast = AlgorithmConfig()
    assert fast == AlgorithmConfig(preset="fast")
    assert fast.width == 1
    assert fast.noises == 1
    assert fast.tail_steps is not None
    assert fast.cfg_scale == 1
    assert fast.kl_beta == 0
    assert fast.advantage == "per_reward"


def test_a_recipe_overrides_its_preset():
    changed = AlgorithmConfig(preset="paper", group_size=4, window_hi=6)
    assert (changed.group_size, changed.last_start, changed.steps) == (4, 6, 24)
    assert AlgorithmConfig.model_validate(changed.model_dump()) == changed


def test_derived_numbers():
    whole = AlgorithmConfig(window_size=None, window_hi=None, steps=7)
    assert (whole.width, whole.last_start) == (7, 0)
    some = AlgorithmConfig(group_size=12, noises=3, window_size=2, window_hi=None, steps=7)
    assert (some.branches, some.width, some.last_start) == (4, 2, 5)
    assert AlgorithmConfig(cfg_scale=2.0).guided == 2
    assert AlgorithmConfig(cfg_scale=1.0, reference_cfg_scale=5.0).guided == 5


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"preset": "papr"}, "'fast', 'paper', 'official' or 'full_sde'"),
        ({"window_hi": 16}, r"window starts 0\.\.16 do not fit 16 steps"),
        ({"window_lo": 3, "window_hi": 2}, r"starts 3\.\.2"),
        ({"steps": 4, "window_size": 5, "window_hi": None}, "window_size 5 is longer"),
        ({"transition": "cps", "window_hi": None}, "set window_hi to at most 14"),
        ({"transition": "exponential", "window_hi": 15}, "no noise on the last step"),
        ({"preset": "full_sde", "transition": "cps"}, "set window_size to at most 15"),
        ({"minibatches": 13}, "13 minibatches cannot be split out of 12 prompts"),
        ({"group_size": 1}, "greater than or equal to 2"),
        ({"noises": 3}, "3 initial noises cannot be shared evenly by 8 members"),
        ({"conflict": "project", "advantage": "no_std"}, "needs advantage 'per_reward'"),
        ({"advantage": "gdpo"}, "per_reward"),
        ({"trust_region": "kl_clip"}, "ratio_norm"),
        ({"kl_space": "mean"}, "x_no_dt"),
        ({"window_policy": "random"}, "stratified"),
        ({"refills": -1}, "greater than or equal to 0"),
        ({"kl_limit": 0.0}, "greater than 0"),
        ({"clip": 1e-3}, "clip"),
    ],
)
def test_impossible_settings_are_refused(bad, message):
    with pytest.raises(ValidationError, match=message):
        AlgorithmConfig.model_validate(bad)
