"""One micro-step of the released trainer through the DiT, with guidance and a reference, under the official preset."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from foundation.config import ModelConfig
from foundation.model import FlowModel
from trainer.batch import IterationBatch
from trainer.config import AlgorithmConfig, OptimiserConfig
from trainer.group import Group, Window
from trainer.replay import Replay, Stack
from trainer.table import Advantages, RewardTable
from trainer.update import Learner, reference_distance, surrogate

FOUNDATION = Path(__file__).parent.parent / "foundation" / "fixtures"
GOLDEN = json.loads((Path(__file__).parent / "fixtures" / "grpo_step.json").read_text())
CHANGED = "model.model.transformer.project_out.weight"
# One noise with three branches at a time; their window; the policy is not the one that sampled.
CONFIG = AlgorithmConfig(preset="official", group_size=3, noises=1, prompts=1, ratio_tolerance=1)


@pytest.fixture
def learner() -> Learner:
    """The golden model as the reference, and as the policy with one layer changed."""
    model = FlowModel(ModelConfig(latent_channels=64, video_dim=1024, text_dim=1024, sync_dim=768, depth=2, heads=2))
    weights = {name: tensor.float() for name, tensor in load_file(FOUNDATION / "dit_a_weights.safetensors").items()}
    model.load_state_dict(weights)
    learner = Learner(model, CONFIG, OptimiserConfig(grad_clip=1e9), {"semantic": 1.0})
    with torch.no_grad():
        learner.parameters[CHANGED].mul_(1 + 1 / 64)
    return learner


@pytest.fixture
def group(learner: Learner) -> Group:
    """Sampler case c1: the released rollout under the reference's weights."""
    stored = load_file(FOUNDATION / "sampler.safetensors")
    latents = stored["c1.window_latents"].numpy()
    found = Group(
        id="000000-0000",
        iteration=0,
        index=0,
        clip_id="item0",
        version=0,
        weights_checksum=learner.checksums[0],
        window=Window(6, 2),
        sigmas=np.append(np.linspace(1, 0.001, 24), 0),
        conditions={n: stored[f"item0.{n}_features"].float().numpy() for n in ("video", "text", "sync")},
        latents=latents,
        means=np.zeros_like(latents[1:]),
        log_probs=stored["c1.log_probs"].numpy(),
        nfe_rollout=0,
        rewards={"semantic": np.linspace(0, 1, 3)},
    )
    assert learner.reference is not None
    with torch.no_grad():
        sampler = replay(learner, learner.reference.model, found)
        found.means = np.stack([sampler.step(k).transition.mean.numpy() for k in range(2)])
    return found


def replay(learner: Learner, model: FlowModel, group: Group) -> Replay:
    stack = Stack.of([group], torch.device("cpu"))
    return Replay(model, learner._condition(group), stack, CONFIG, CONFIG.cfg_scale)


def near(found: torch.Tensor, expected: list[float], tolerance: float) -> None:
    torch.testing.assert_close(found[0].detach(), torch.tensor(expected), atol=tolerance, rtol=0)


def test_the_preset_has_the_golden_settings():
    assert (CONFIG.cfg_scale, CONFIG.noise_level) == (GOLDEN["cfg_scale"], GOLDEN["noise_level"])
    assert (CONFIG.clip_range, CONFIG.kl_beta) == (GOLDEN["clip_range"], GOLDEN["beta"])
    assert (CONFIG.width, CONFIG.window_lo, CONFIG.last_start) == (2, 6, 6)


def test_log_probs_ratios_and_losses_of_each_step(learner: Learner, group: Group):
    advantage, zero = torch.tensor([GOLDEN["advantages"]]), torch.zeros(1, 3)
    assert learner.reference is not None
    policy, anchor = replay(learner, learner.model, group), replay(learner, learner.reference.model, group)
    for k, golden in enumerate(GOLDEN["steps"]):
        step, target = policy.step(k), anchor.step(k)
        old = torch.tensor([golden["log_prob_old"]])
        near(torch.from_numpy(group.log_probs[k])[None], golden["log_prob_old"], 1e-5)
        near(step.log_prob, golden["log_prob_new"], 1e-5)
        near(target.log_prob, golden["log_prob_reference"], 1e-5)
        near(torch.exp(step.log_prob - old), golden["ratio"], 1e-5)
        loss, _ = surrogate(CONFIG, step, old, advantage, zero)
        distance = reference_distance(CONFIG, step, target).mean()
        assert loss.mean().item() == pytest.approx(golden["policy_loss"], abs=1e-6)
        assert distance.item() == pytest.approx(golden["kl_loss"], rel=1e-3)
        assert (loss.mean() + CONFIG.kl_beta * distance).item() == pytest.approx(golden["loss"], abs=1e-6)


def test_an_iteration_has_the_golden_loss_and_gradients(
    learner: Learner, group: Group, monkeypatch: pytest.MonkeyPatch
):
    given: Callable[..., Advantages] = lambda *_: Advantages(  # noqa: E731
        torch.tensor([GOLDEN["advantages"]], dtype=torch.float64), torch.ones(1, 3, dtype=torch.bool)
    )
    monkeypatch.setattr(RewardTable, "advantages", given)
    metrics = learner.update(IterationBatch.of(0, [group]))
    # The released code adds up the window's steps; ours takes their mean.
    assert 2 * metrics["loss"] == pytest.approx(sum(step["loss"] for step in GOLDEN["steps"]), abs=2e-6)
    assert 2 * metrics["grad_norm"] == pytest.approx(GOLDEN["total_grad_norm"], rel=1e-4)
    assert metrics["kl"] == pytest.approx(np.mean([step["kl_loss"] for step in GOLDEN["steps"]]), rel=1e-3)
    for k, step in enumerate(GOLDEN["steps"]):
        delta = np.abs(np.array(step["log_prob_new"]) - np.array(step["log_prob_old"])).mean()
        assert metrics["delta_log_prob"][k] == pytest.approx(delta, abs=1e-5)
    # A guided pair per evaluation: one at the first step, three at the second.
    assert metrics["nfe_trained"] == metrics["nfe_reference"] == 2 * (1 + 3)

    golden = {name: norm for name, norm in GOLDEN["grad_norms"].items() if "empty_" not in name}
    assert {f"model.{name}" for name in golden} == learner.parameters.keys()
    for name, expected in golden.items():
        gradient = learner.parameters[f"model.{name}"].grad
        assert gradient is not None
        assert 2 * gradient.norm().item() == pytest.approx(expected, rel=1e-4, abs=1e-7), name
