"""What a run needs of a device, before it starts: the real modules are run on tensors without storage and followed.

Not counted: the CUDA context (about 0.5 GB a process), workspaces of convolutions and matrix products, fragmentation.
"""

import copy
import weakref
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakIdKeyDictionary

from foundation.codec import Codec
from foundation.conditions import Conditions
from foundation.dit import Prepared
from foundation.execution import ExecutionConfig, execute
from foundation.lora import adapted
from foundation.model import FlowModel
from foundation.transitions import kl
from trainer.config import AlgorithmConfig
from trainer.reference import Place
from trainer.replay import Replay, Stack
from trainer.update import surrogate

M = TypeVar("M", bound=nn.Module)


class Part(NamedTuple):
    """Bytes that a role ("learner", "rollout") needs for something.

    phase: "" for what is always there; parts of one phase are there together, those of different phases in turn.
    """

    role: str
    part: str
    bytes: int
    phase: str = ""


@dataclass(frozen=True)
class Lengths:
    """Of a clip: latent frames and tokens of each condition. The defaults are nine seconds of the released model."""

    frames: int = 194
    video: int = 36
    text: int = 256
    sync: int = 216


def estimate(
    flow: FlowModel,
    codec: Codec,
    algorithm: AlgorithmConfig,
    lengths: Lengths = Lengths(),
    execution: ExecutionConfig = ExecutionConfig(),  # noqa: B008  (immutable)
    reference: Place = "device",
    ranks: int = 1,
    prompts_per_task: int = 1,
    samples_per_decode: int | None = None,
) -> list[Part]:
    """Device memory of one learner and of one rollout worker, part by part; `peak` adds it up.

    flow: with adapters if those are to be trained; it may live on the meta device and is not changed. The other
    arguments are those of the recipe; ranks: learner workers.
    """
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    model, decoder = _fake(flow.eval(), mode), codec
    execute(model, execution.model_copy(update={"compile": False}))
    if isinstance(codec, nn.Module):
        decoder = _fake(codec, mode)
    with mode:
        learner = _learner(model, algorithm, lengths, reference, ranks)
        rollout = _rollout(model, decoder, algorithm, lengths, prompts_per_task, samples_per_decode)
    return [*(Part("learner", *part) for part in learner), *(Part("rollout", *part) for part in rollout)]


def peak(parts: Sequence[Part], role: str) -> int:
    """Most bytes that a role holds at once."""
    phases: dict[str, int] = defaultdict(int)
    for part in parts:
        if part.role == role:
            phases[part.phase] += part.bytes
    always = phases.pop("", 0)
    return always + max(phases.values(), default=0)


def _learner(flow: FlowModel, config: AlgorithmConfig, lengths: Lengths, reference: Place, ranks: int) -> list[Any]:
    flow.requires_grad_(False)
    parameters = flow.trainable()
    for parameter in parameters.values():
        parameter.requires_grad_(True)
        parameter.grad = torch.zeros_like(parameter)
    weights, trained = _size(flow), _bytes(*parameters.values())
    members = config.members[0].stop
    groups = -(-config.prompts // config.minibatches)
    together = 1 if len(config.members) > 1 else min(groups, config.groups_per_pass or groups, config.prompts)
    conditioned = _conditioned(flow, lengths, 1)
    held = -(-config.prompts // ranks)

    def forward() -> tuple[Any, ...]:
        return _loss(flow, config, _conditioned(flow, lengths, together), lengths.frames, together, members)

    live, most = _followed(forward, lambda held: held[0].backward())
    latents = config.group_size * flow.config.latent_channels * lengths.frames * 4
    found = [
        ("weights", weights),
        ("gradients", trained),
        ("Adam moments", 2 * trained),
        ("average of the weights", trained),
        ("conditions of the batch", held * _bytes(conditioned.video, conditioned.text, conditioned.sync)),
        ("activations kept for the backward pass", live, "pass"),
        ("temporaries of the backward pass", most - live, "pass"),
        ("weights put aside while the average is saved or scored", trained, "average"),
    ]
    if config.kl_beta > 0:
        found.append(("transitions of the reference", 2 * held * config.width * latents))
        if not adapted(flow):
            found.append(("reference", weights, "" if reference == "device" else "reference"))
    return found


def _loss(
    flow: FlowModel, config: AlgorithmConfig, conditioned: Conditions, frames: int, groups: int, members: int
) -> tuple[Any, ...]:
    """The loss of one pass of the learner as `trainer.update` makes it, and what is still held when that goes back."""
    state = (groups, members, flow.config.latent_channels, frames)
    stack = Stack(
        torch.zeros(config.width + 1, *state),
        torch.zeros(config.width, *state),
        torch.zeros(config.width, groups, members),
        config.last_start,
    )
    policy = Replay(flow, conditioned, stack, config, config.cfg_scale)
    loss, last = torch.zeros(()), ()
    for k in range(config.width):
        step, old = policy.step(k), stack.log_probs[k]
        divergence = kl(step.transition, policy.old(k, step.transition.std)).view_as(old)
        loss = loss + surrogate(config, step, old, torch.ones_like(old), divergence)[0].sum()
        last = step, divergence
    return loss, policy, last


@torch.no_grad()
def _rollout(
    flow: FlowModel, codec: Codec, config: AlgorithmConfig, lengths: Lengths, prompts: int, decoded: int | None
) -> list[Any]:
    flow.requires_grad_(False)
    starts, rows = prompts * config.noises, prompts * config.group_size
    conditioned = _conditioned(flow, lengths, prompts)
    prepared = flow.prepare(conditioned, lengths.frames, config.cfg_scale).repeat_interleave(config.noises)
    wide = prepared.tile(config.branches)
    x = torch.zeros(rows, flow.config.latent_channels, lengths.frames)
    _, velocity = _followed(lambda: flow.dit(x, torch.zeros(1), wide))
    many = min(rows, decoded or rows)
    # The codec may be no module; its weights are then nothing.
    sound = codec if isinstance(codec, nn.Module) else nn.Module()
    _, decode = _followed(lambda: codec.decode(x[:many]))
    return [
        ("weights", _size(flow)),
        ("codec", _size(sound)),
        ("states of the window", (3 * config.width + 2) * _bytes(x)),
        ("keys and values of the conditions", _stored(prepared) + (rows > starts) * _stored(wide), "sampling"),
        ("temporaries of a velocity evaluation", velocity, "sampling"),
        (f"decoding {many} samples at once", decode, "decoding"),
    ]


def _conditioned(flow: FlowModel, lengths: Lengths, clips: int) -> Conditions:
    width = flow.config.width
    tokens = lengths.video, lengths.text, lengths.frames
    return Conditions(*(torch.zeros(clips, count, width) for count in tokens))


class _Live(TorchDispatchMode):
    """Counts the bytes of all tensors that were made inside and are still alive, and the most of them at any time."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.most = 0
        self._seen = WeakIdKeyDictionary()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        for tensor in tree_leaves((args, kwargs)):
            if isinstance(tensor, Tensor):
                self._add(tensor.untyped_storage(), 0)  # unless known, it was there before
        made = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(made):
            if isinstance(tensor, Tensor):
                self._add(tensor.untyped_storage(), tensor.untyped_storage().nbytes())
        return made

    def _add(self, storage: torch.UntypedStorage, size: int) -> None:
        if storage in self._seen:
            return
        self._seen[storage] = weakref.ref(storage, lambda _: self._remove(size))
        self.now += size
        self.most = max(self.most, self.now)

    def _remove(self, size: int) -> None:
        self.now -= size


def _followed(first: Callable[[], Any], then: Callable[[Any], object] = id) -> tuple[int, int]:
    """Bytes of what `first` leaves alive, and the most that is alive at any time of `first` and `then`."""
    with _Live() as live:
        result = first()
        left = live.now
        then(result)
    return left, live.most


def _size(module: nn.Module) -> int:
    return _bytes(*module.parameters(), *module.buffers())


def _stored(prepared: Prepared) -> int:
    return _bytes(*prepared.keys, *prepared.values, prepared.stream)


def _bytes(*tensors: Tensor) -> int:
    return sum(tensor.nbytes for tensor in tensors)


def _fake(module: M, mode: FakeTensorMode) -> M:
    """A copy whose tensors have shapes and a device, but no storage."""
    # Tensors beside parameters and buffers are what weight norm computed last.
    others = [t for part in module.modules() for t in vars(part).values() if isinstance(t, Tensor)]
    without: dict[int, Any] = {id(t): t.detach().to("meta") for t in (*module.buffers(), *others)}
    without |= {id(p): nn.Parameter(p.detach().to("meta"), requires_grad=False) for p in module.parameters()}
    copied = copy.deepcopy(module, without)
    with mode:
        return copied.to_empty(device="cpu")
