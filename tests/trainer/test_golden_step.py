"""One micro-step of the released trainer, through the DiT with guidance and a reference."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from foundation.config import ModelConfig
from foundation.grids import official_rl
from foundation.model import FlowModel
from trainer.advantages import Advantages
from trainer.batch import IterationBatch
from trainer.config import AlgorithmConfig, OptimiserConfig
from trainer.group import Group, Window
from trainer.tally import Tally
from trainer.update import Learner

FOUNDATION = Path(__file__).parent.parent / "foundation" / "fixtures"
GOLDEN = json.loads((Path(__file__).parent / "fixtures" / "grpo_step.json").read_text())
# The released KL is our KL times -dt, and dt is the same for both window steps.
DT = 0.999 / 23


def test_losses_and_gradient_norms():
    model = FlowModel(ModelConfig(latent_channels=64, video_dim=1024, text_dim=1024, sync_dim=768, depth=2, heads=2))
    weights = {name: tensor.float() for name, tensor in load_file(FOUNDATION / "dit_a_weights.safetensors").items()}
    model.load_state_dict(weights)
    config = AlgorithmConfig(
        group_size=3,
        prompts=1,
        steps=24,
        grid="official_rl",
        window_size=2,
        window_hi=6,
        noise_level=GOLDEN["noise_level"],
        cfg_scale=GOLDEN["cfg_scale"],
        clip_range=GOLDEN["clip_range"],
        kl_beta=GOLDEN["beta"] * DT,
        kl_space="mean",
        minibatches=1,
        ratio_tolerance=1,
    )
    learner = Learner(model, config, OptimiserConfig(grad_clip=1e9), {"semantic": 1.0})
    with torch.no_grad():
        learner.parameters["model.model.transformer.project_out.weight"].mul_(1 + 1 / 64)

    stored = load_file(FOUNDATION / "sampler.safetensors")
    group = Group(
        id="000000-0000",
        iteration=0,
        index=0,
        clip_id="item0",
        version=0,
        weights_checksum="",
        window=Window(6, 2),
        sigmas=official_rl(24),
        conditions={n: stored[f"item0.{n}_features"].float().numpy() for n in ("video", "text", "sync")},
        latents=stored["c1.window_latents"].numpy(),
        log_probs=stored["c1.log_probs"].numpy(),
        nfe_rollout=0,
        rewards={"semantic": np.zeros(3)},
    )
    np.testing.assert_allclose(group.log_probs, [s["log_prob_old"] for s in GOLDEN["steps"]], atol=1e-5)
    table = Advantages(np.array([GOLDEN["advantages"]]), np.ones((1, 3), dtype=bool))
    batch = IterationBatch.of(0, [group])
    tally = Tally(2)
    conditioned = {0: learner._condition(group)}
    learner._step(batch, range(1), table, conditioned, tally, first=True)

    # The released code adds up the gradients of the window's steps; ours is their mean.
    assert 2 * float(tally.loss) == pytest.approx(sum(step["loss"] for step in GOLDEN["steps"]), abs=2e-6)
    assert 2 * tally.grad_norm == pytest.approx(GOLDEN["total_grad_norm"], rel=1e-4)
    for k, step in enumerate(GOLDEN["steps"]):
        new, old = np.array(step["log_prob_new"]), np.array(step["log_prob_old"])
        assert float(tally.sums[k, 4]) / 3 == pytest.approx(np.abs(new - old).mean(), abs=1e-5)
        # Our KL is the true Gaussian one.
        assert float(tally.sums[k, 3]) / 3 * DT == pytest.approx(step["kl_loss"], rel=1e-3)
    norms = {
        name.removeprefix("model."): float(p.grad.norm())
        for name, p in learner.parameters.items()
        if p.grad is not None
    }
    for name, expected in GOLDEN["grad_norms"].items():
        if expected is not None and "empty_" not in name:
            assert 2 * norms[name] == pytest.approx(expected, rel=1e-4, abs=1e-7), name
    assert len(norms) == sum(1 for name in GOLDEN["grad_norms"] if "empty_" not in name)
