"""Configuration of the rollout pool, the coordinator and the experience buffer."""

from pydantic import Field

from settings import Section


class RolloutConfig(Section):
    """The pool of sampling actors and how its work is admitted, split and retried.

    workers: number of rollout actors. num_cpus, num_gpus, torch_threads: resources of each.
    num_gpus may be a part of one: the rest is for the learner and the scorers, whose memory must then fit beside.
    prompts_per_task: prompts of one remote call; an iteration is split into ceil(prompts / prompts_per_task) calls.
    samples_per_decode: latents that the codec decodes at once, to bound memory (None: all of a call).
    deadline_s: longest a call may take before its actor is restarted and the call is sent again.
    max_attempts: sends of one task before its groups count as lost.
    max_staleness: weight versions a rollout may lag behind the learner; 0 is the synchronous, reproducible mode.
    start_deadline_s: longest the first answer of a starting or restarting actor may take.
    """

    workers: int = Field(default=1, ge=1)
    num_cpus: float = Field(default=1.0, ge=0)
    num_gpus: float = Field(default=0.0, ge=0)
    torch_threads: int = Field(default=1, ge=1)
    prompts_per_task: int = Field(default=12, ge=1)
    samples_per_decode: int | None = Field(default=None, ge=1)
    deadline_s: float = Field(default=120.0, gt=0)
    max_attempts: int = Field(default=3, ge=1)
    max_staleness: int = Field(default=0, ge=0)
    start_deadline_s: float = Field(default=180.0, gt=0)


class BufferConfig(Section):
    """Bounds of the experience buffer.

    max_items: groups held at once. max_bytes: bytes of their arrays, at most about half of the object store.
    pack_bytes: small groups that arrive together share one object of at most this size, since an object costs about a
    millisecond whatever its size; a rank may fetch that much more than its own groups.
    lease_s: a leased batch that is not acknowledged within this many seconds returns to the queue.
    rpc_deadline_s: longest any call to the buffer, the weight store or the coordinator may take, apart from waits that
    carry their own limit.
    """

    max_items: int = Field(default=1024, ge=1)
    max_bytes: int = Field(default=512 * 2**20, ge=1)
    pack_bytes: int = Field(default=4 * 2**20, ge=1)
    lease_s: float = Field(default=600.0, gt=0)
    rpc_deadline_s: float = Field(default=60.0, gt=0)
