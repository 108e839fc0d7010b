"""How a flow model is evaluated: in which precision, what is kept for the backward pass, and whether it is compiled."""

from typing import Literal

from foundation.model import FlowModel
from settings import Section

Precision = Literal["fp32", "bf16"]


class ExecutionConfig(Section):
    """One setting for learner, reference and rollout workers, so that they agree on every log-density.

    precision: "bf16" computes the transformer blocks under autocast to bfloat16; weights, the residual stream, noise
    levels, input and output projections, guidance and everything after the velocity stay float32.
    activation_checkpointing: keep only the blocks' inputs for the backward pass and compute the rest again; the numbers
    stay the same. compile: compile each block with torch.compile (needs a C++ compiler, and Triton on a GPU).
    """

    precision: Precision = "fp32"
    activation_checkpointing: bool = False
    compile: bool = False


def execute(flow: FlowModel, config: ExecutionConfig) -> FlowModel:
    """Let a model run as configured; returns the model."""
    transformer = flow.dit.transformer
    transformer.precision = config.precision
    transformer.checkpointing = config.activation_checkpointing
    if config.compile:
        # One block at a time: all blocks share the code, so it is compiled once instead of once per depth.
        for block in transformer.blocks:
            block.compile(fullgraph=True, dynamic=True)
    return flow
