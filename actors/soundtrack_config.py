"""Configuration of the pool of soundtrack actors."""

from pydantic import Field

from settings import Section


class SoundtrackConfig(Section):
    """The pool.

    workers: actors; 0 makes one video after the other in this process. num_cpus, num_gpus: reserved by each.
    deadline_s: longest one video may take, and as much again for each minute of its picture. max_attempts: tries of one
    video when actors die or hang. start_deadline_s: longest an actor may take to load the model.
    """

    workers: int = Field(default=0, ge=0)
    num_cpus: float = Field(default=1.0, ge=0)
    num_gpus: float = Field(default=0.0, ge=0)
    deadline_s: float = Field(default=600.0, gt=0)
    max_attempts: int = Field(default=3, ge=1)
    start_deadline_s: float = Field(default=600.0, gt=0)
