"""A pass of the learner is one graph: replay, transitions, log-densities, trust region, and the way back."""

import pytest
import torch
from torch import Tensor
from torch._dynamo.testing import CompileCounter

from foundation.conditions import Conditions
from foundation.execution import ExecutionConfig, execute
from foundation.lora import LoraConfig, inject
from foundation.transitions import kl
from tests.trainer.builders import TINY, algorithm, tiny_model
from trainer.replay import Replay, Stack
from trainer.update import surrogate

# At module level, where the compiler takes its numbers for constants.
CONFIG = algorithm(window_size=2, cfg_scale=2.0, noises=2, trust_region="kl")


@pytest.mark.parametrize("lora", [False, True])
def test_a_pass_has_no_graph_breaks_at_any_length(lora: bool) -> None:
    model = tiny_model().requires_grad_(False)
    execute(inject(model, LoraConfig(rank=2)) if lora else model, ExecutionConfig(activation_checkpointing=True))
    parameters = model.trainable()
    for parameter in parameters.values():
        parameter.requires_grad_(True)

    def loss(stack: Stack, conditioned: Conditions, advantage: Tensor) -> Tensor:
        policy = Replay(model, conditioned, stack, CONFIG, CONFIG.cfg_scale)
        total = advantage.new_zeros(())
        for k in range(CONFIG.width):
            step, old = policy.step(k), stack.log_probs[k]
            divergence = kl(step.transition, policy.old(k, step.transition.std)).view_as(old)
            total = total + surrogate(CONFIG, step, old, advantage, divergence)[0].sum()
        return total

    def inputs(groups: int, frames: int) -> tuple[Stack, Conditions, Tensor]:
        state = (groups, 4, TINY.latent_channels, frames)
        stack = Stack(torch.randn(3, *state), torch.randn(2, *state), torch.randn(2, groups, 4), 1)
        tokens = 3, 5, frames
        return stack, Conditions(*(torch.randn(groups, n, TINY.width) for n in tokens)), torch.randn(groups, 4)

    def gradients(loss_of_pass: Tensor) -> list[Tensor | None]:
        return list(torch.autograd.grad(loss_of_pass, list(parameters.values()), allow_unused=True))

    torch.compiler.reset()
    counter = CompileCounter()
    # A symbolic noise level ends in a guard that its own frame fails (torch 2.13).
    with torch._dynamo.config.patch(specialize_float=True):  # type: ignore[attr-defined]
        compiled = torch.compile(loss, fullgraph=True, dynamic=True, backend=counter)
        for groups, frames in ((2, 8), (3, 8), (2, 11)):
            given = inputs(groups, frames)
            found, expected = compiled(*given), loss(*given)
            torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
            for one, other in zip(gradients(found), gradients(expected), strict=True):
                torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-4)
    # The first sizes, then any.
    assert counter.frame_count <= 2
    torch.compiler.reset()
