"""The official preset's loss against micro-steps of the released trainer, and RatioNorm against its authors' code."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from foundation.grids import grid
from foundation.transitions import kl, transition
from trainer.config import AlgorithmConfig
from trainer.fast_grpo import normalised_log_ratio, policy_loss
from trainer.replay import Step
from trainer.update import reference_distance, surrogate

FIXTURES = Path(__file__).parent / "fixtures"
FOUNDATION = Path(__file__).parent.parent / "foundation" / "fixtures"
CASES = json.loads((FIXTURES / "grpo.json").read_text())["cases"]
TENSORS = load_file(FIXTURES / "grpo.safetensors")
GUARD = json.loads((FOUNDATION / "sde.json").read_text())["guard_ratio"]


def near(found: Tensor, expected: Tensor | list, tolerance: float, relative: float = 0.0) -> None:
    expected = torch.as_tensor(expected, dtype=found.dtype)
    torch.testing.assert_close(found.detach(), expected, atol=tolerance, rtol=relative)


def official(case: dict) -> AlgorithmConfig:
    return AlgorithmConfig(
        preset="official",
        group_size=case["batch"],
        noises=1,
        steps=case["T"],
        window_lo=0,
        window_hi=None,
        noise_level=case["noise_level"],
        clip_range=case["clip_range"],
        kl_beta=case["beta"],
    )


def micro_step(case: dict, velocity: Tensor, config: AlgorithmConfig) -> Step:
    x, x_next = (TENSORS[f"c{case['case']}.{name}"] for name in ("x", "prev_sample"))
    found = transition(config.transition, x, velocity, case["sigma"], case["sigma_next"], config.noise_level)
    return Step(found, velocity, found.log_prob(x_next)[None], case["sigma"] - case["sigma_next"])


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"case{case['case']}")
def test_loss_and_gradients_match_the_released_micro_step(case):
    config = official(case)
    last = case["case"] == 2  # the step from 0.001 to 0, whose std of 7e-4 magnifies rounding
    assert grid(config.grid, config.steps)[case["step_index"]] == pytest.approx(case["sigma"], abs=1e-7)
    t = {name: TENSORS[f"c{case['case']}.{name}"] for name in ("v_old", "v_new", "v_ref", "mean_new", "mean_ref")}
    velocity = t["v_new"].clone().requires_grad_()
    new, reference = micro_step(case, velocity, config), micro_step(case, t["v_ref"], config)
    near(new.transition.mean, t["mean_new"], 2e-6)
    near(reference.transition.mean, t["mean_ref"], 2e-6)
    near(new.log_prob[0], case["log_prob_new"], 2e-6, 1e-4 if last else 0)
    near(reference.log_prob[0], case["log_prob_ref"], 2e-6, 1e-4 if last else 0)

    old, raw = torch.tensor([case["log_prob_old"]]), torch.tensor([case["advantages_raw"]])
    if case["log_prob_old_shift"] is None:
        near(micro_step(case, t["v_old"], config).log_prob, old, 2e-6, 1e-4 if last else 0)
    advantage = raw.clamp(-config.adv_clip, config.adv_clip)
    near(advantage[0], case["advantages_used"], 0)
    near(torch.exp(new.log_prob - old)[0], case["ratio"], 1e-4 if last else 2e-6)

    loss, limited = surrogate(config, new, old, advantage, torch.zeros_like(old))
    expected = torch.maximum(torch.tensor(case["unclipped_loss"]), torch.tensor(case["clipped_loss"]))
    near(loss[0], expected, 1e-5, 1e-4 if last else 0)
    assert policy_loss(new.log_prob, old, advantage, config.clip_range).item() == pytest.approx(
        case["policy_loss"], abs=1e-5, rel=1e-4 if last else 0
    )
    assert limited.float().mean().item() == pytest.approx(case["clipfrac"])

    distance = reference_distance(config, new, reference)
    near(distance, case["kl_per_sample"], 1e-9, 1e-3)
    rounding, elements = 1e-8 if last else 1e-9, velocity[0].numel()
    near(kl(new.transition, reference.transition), case["true_gaussian_kl_mean_reduced"], rounding, 1e-3)
    summed = kl(new.transition, reference.transition, "sum")
    near(summed, case["true_gaussian_kl_per_sample"], rounding * elements, 1e-3)
    total = loss.mean() + config.kl_beta * distance.mean()
    assert total.item() == pytest.approx(case["loss"], abs=1e-5, rel=1e-4 if last else 0)

    terms = {"grad_v": total, "grad_v_policy": loss.mean(), "grad_v_kl": distance.mean()}
    for name, term in terms.items():
        gradient = torch.autograd.grad(term, velocity, retain_graph=True)[0]
        golden = TENSORS[f"c{case['case']}.{name}"]
        near(gradient, golden, (1e-3 if last else 1e-4) * golden.abs().max().item() + 1e-12)
        if name == "grad_v_policy":
            trained = gradient.flatten(1).abs().amax(1) > 0
            assert trained.tolist() == case["sample_has_gradient_from_policy"]


@pytest.mark.parametrize("case", GUARD, ids=lambda case: f"step{case['index']}")
def test_ratio_norm_matches_its_authors(case):
    sigma, sigma_next = case["sigmas"][case["index"]], case["sigmas"][case["index"] + 1]
    assert sigma - sigma_next == pytest.approx(case["gradient_reweight_divisor_dt"])
    x, v_old, v_new, x_next = (torch.tensor(case[name]) for name in ("x", "v_old", "v_new", "prev"))
    old, new = (transition("flow_sde", x, v, sigma, sigma_next, case["eta"]) for v in (v_old, v_new))
    near(old.mean, case["mean_old"], 2e-6)
    near(new.mean, case["mean_new"], 2e-6)
    assert old.std == pytest.approx(case["std_dev_t"][0] * case["sqrt_dt"][0], rel=1e-6)
    before, after = old.log_prob(x_next), new.log_prob(x_next)
    near(before, case["logprob_old"], 2e-6)
    near(after, case["logprob_new"], 2e-6)
    near(torch.exp(after - before), case["plain_ratio"], 2e-6)
    near(torch.exp(normalised_log_ratio(after, before, kl(new, old), new.std)), case["rationorm_ratio"], 2e-6)

    # The whole loss: clipped around 1 at this ratio, then divided by the step.
    advantage = torch.tensor([[1.5, -0.5]])
    config = AlgorithmConfig(trust_region="ratio_norm", clip_range=1e-4, group_size=2)
    step = Step(new, v_new, after[None], sigma - sigma_next)
    loss, _ = surrogate(config, step, before[None], advantage, kl(new, old)[None])
    ratio = torch.tensor([case["rationorm_ratio"]])
    expected = torch.maximum(-advantage * ratio, -advantage * ratio.clamp(1 - 1e-4, 1 + 1e-4))
    near(loss, expected / case["gradient_reweight_divisor_dt"], 2e-6 * 1.5 / 0.03)
