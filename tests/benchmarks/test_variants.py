import pytest

from benchmarks.run import Run
from benchmarks.variants import VARIANTS, Nfe, distinct, nfe, starts, variant
from benchmarks.world import World, laptop
from settings import PrismError
from trainer.config import AlgorithmConfig


def config(**changes) -> AlgorithmConfig:
    """P = 1, N = 8, T = 16, one epoch."""
    plain = {"prompts": 1, "minibatches": 1, "group_size": 8, "steps": 16, "epochs": 1}
    return AlgorithmConfig.model_validate({**plain, **changes})


def test_fast_by_hand() -> None:
    # 3 steps before the window and its one step once, then 4 steps of 8 members.
    assert nfe(config(window_size=1, tail_steps=4), start=3) == Nfe(3 + 1 + 32, 1, 0)
    # Near the end of the grid the tail has fewer steps than it may have.
    assert nfe(config(window_size=1, window_hi=13, tail_steps=4), start=13) == Nfe(13 + 1 + 16, 1, 0)


def test_every_epoch_trains_again() -> None:
    assert nfe(config(window_size=2, tail_steps=4, epochs=3), start=0) == Nfe(1 + 8 + 32, 3 * 9, 0)


def test_released_code_by_hand() -> None:
    """The figures measured with the released functions: rank 0's window, T = 24, N = 8, a guided pair counted once."""
    found = config(preset="official", noises=1, steps=24, group_size=8, cfg_scale=1.0)
    assert nfe(found, start=6, released=True) == Nfe(150, 16, 16)
    guided = config(preset="official", noises=1, steps=24, group_size=8)
    assert nfe(guided, start=6, released=True) == Nfe(300, 32, 32)


def test_full_sde_by_hand() -> None:
    found = config(preset="full_sde")
    assert nfe(found, start=0, released=True) == Nfe(128, 128, 0)
    assert nfe(found, start=0) == Nfe(1 + 15 * 8, 1 + 15 * 8, 0)


def test_without_shared_prefix_every_member_pays_for_every_step() -> None:
    assert nfe(config(tail_steps=None), start=3, shared_prefix=False) == Nfe(8 * 16, 8, 0)


def test_an_own_noise_per_member_shares_nothing() -> None:
    own = nfe(config(noises=8, tail_steps=4), start=3)
    assert own == nfe(config(tail_steps=4), start=3, shared_prefix=False)
    assert own == Nfe(8 * (3 + 1 + 4), 8, 0)


@pytest.mark.parametrize("name", ["full_sde", "full_sde_cfg", "official", "paper", "fast", "fast-own_noises"])
def test_the_code_spends_what_the_hand_count_says(place: World, name: str) -> None:
    chosen = variant(name)
    run = Run(place, chosen.configure(place.recipe), chosen.optimise(place.recipe), seed=0, released=chosen.released)
    done = run.iterate(start=starts(run.algorithm)[-1])
    hand = nfe(run.algorithm, done.start, chosen.released)
    assert done.nfe == {"rollout": hand.rollout, "trained": hand.trained, "reference": hand.reference}


def test_released_cost_changes_no_number(place: World) -> None:
    chosen = variant("fast-w2")
    runs = [
        Run(place, chosen.configure(place.recipe), chosen.optimise(place.recipe), seed=3, released=released)
        for released in (False, True)
    ]
    for run in runs:
        run.iterate(start=1)
    ours, theirs = (run.learner.export() for run in runs)
    # Other batch shapes round differently; a step of lr 6e-4 is a thousand times larger.
    assert max(abs(ours[name] - theirs[name]).max() for name in ours) < 1e-5


def test_all_variants_have_equal_n_p_and_t() -> None:
    recipe = laptop()
    for chosen in VARIANTS.values():
        found = chosen.configure(recipe)
        assert (found.group_size, found.prompts, found.steps) == (8, 12, 16)


def test_official_window_lies_in_the_first_half_at_any_t() -> None:
    assert list(starts(variant("official").configure(steps=24))) == list(range(13))
    assert list(starts(variant("full_sde").configure(steps=24))) == [0]


def test_an_ablation_that_changes_nothing_is_left_out() -> None:
    recipe = laptop(["algorithm.trust_region=ratio", "algorithm.minibatches=2", "algorithm.window_policy=uniform"])
    kept, same = distinct(["fast", "fast-ratio_clip", "fast-uniform", "fast-one_minibatch"], recipe)
    assert kept == ["fast", "fast-one_minibatch"]
    assert same == ["fast-ratio_clip", "fast-uniform"]


def test_an_unknown_variant_is_refused_with_the_known_ones() -> None:
    with pytest.raises(PrismError, match="full_sde, full_sde_cfg, official"):
        variant("fastest")
