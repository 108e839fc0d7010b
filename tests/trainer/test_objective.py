import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from foundation.transitions import Transition, flow_sde, gaussian_kl, log_density
from trainer.objective import policy_loss, velocity_kl

FIXTURES = Path(__file__).parent / "fixtures"
GOLDEN = json.loads((FIXTURES / "objective.json").read_text())["cases"]
TENSORS = load_file(FIXTURES / "objective.safetensors")


@pytest.mark.parametrize("case", GOLDEN, ids=lambda case: f"case{case['case']}")
def test_loss_and_gradient_match_the_released_micro_step(case):
    t = {name: TENSORS[f"c{case['case']}.{name}"] for name in ("x", "v_new", "v_ref", "prev_sample", "grad_v")}
    velocity = t["v_new"].clone().requires_grad_(True)
    step = case["sigma"], case["sigma_next"], case["noise_level"], case["sigmas"][1]
    transition = flow_sde(t["x"], velocity, *step)
    log_prob = log_density(t["prev_sample"], transition)
    wide = 1e-4 if case["case"] == 2 else 2e-6
    torch.testing.assert_close(log_prob, torch.tensor(case["log_prob_new"]), atol=2e-6, rtol=wide)

    old, advantage = torch.tensor(case["log_prob_old"]), torch.tensor(case["advantages_used"])
    result = policy_loss(log_prob, old, advantage, case["clip_range"])
    torch.testing.assert_close(result.ratio, torch.tensor(case["ratio"]), atol=wide, rtol=0)
    expected = torch.maximum(torch.tensor(case["unclipped_loss"]), torch.tensor(case["clipped_loss"]))
    torch.testing.assert_close(result.per_sample.detach(), expected, atol=1e-5, rtol=1e-4)
    assert result.clipped.float().mean().item() == pytest.approx(case["clipfrac"])

    # The released KL divides by the diffusion, not by the transition's std: -dt times ours.
    dt = case["sigma_next"] - case["sigma"]
    kl = gaussian_kl(transition, flow_sde(t["x"], t["v_ref"], *step)) * -dt
    torch.testing.assert_close(kl.detach(), torch.tensor(case["kl_per_sample"]), atol=1e-9, rtol=1e-3)
    loss = result.per_sample.mean() + case["beta"] * kl.mean()
    assert loss.item() == pytest.approx(case["loss"], abs=1e-5)
    loss.backward()
    assert velocity.grad is not None
    tolerance = (1e-3 if case["case"] == 2 else 1e-4) * case["grad_abs_max"] + 1e-12
    torch.testing.assert_close(velocity.grad, t["grad_v"], atol=tolerance, rtol=0)


def test_clip_by_hand():
    ratio = torch.tensor([1.5, 0.5, 1.5, 0.5, 1.0])
    advantage = torch.tensor([1.0, 1.0, -1.0, -1.0, 2.0])
    result = policy_loss(ratio.log(), torch.zeros(5), advantage, 0.2)
    # Gains are capped at the clip, losses are not.
    torch.testing.assert_close(result.per_sample, torch.tensor([-1.2, -0.5, 1.5, 0.8, -2.0]))
    assert result.clipped.tolist() == [True, True, True, True, False]


def test_a_clipped_sample_has_no_gradient():
    log_prob = torch.tensor([0.5, -0.5, 0.5, -0.5]).requires_grad_(True)
    advantage = torch.tensor([1.0, 1.0, -1.0, -1.0])
    policy_loss(log_prob, torch.zeros(4), advantage, 0.1).per_sample.sum().backward()
    assert log_prob.grad is not None
    assert (log_prob.grad != 0).tolist() == [False, True, True, False]


def test_distances_by_hand():
    mean, other = torch.tensor([[[1.0, 3.0]]]), torch.tensor([[[0.0, 1.0]]])
    assert gaussian_kl(Transition(mean, 0.5), Transition(other, 0.5)).tolist() == [5.0]
    assert velocity_kl(mean, other).tolist() == [2.5]
