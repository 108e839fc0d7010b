"""A released model at golden size: a flat dict in the released layout, and the autoencoder's two own layouts."""

from torch import Tensor

from tests.foundation.conftest import FIXTURES, read_tensors


def released_names() -> list[str]:
    """All 850 names of the released flat dict, in its order."""
    files = ("prismaudio_keys.txt", "prismaudio_vae_keys.txt")
    return [line.split()[0] for file in files for line in (FIXTURES / file).read_text().splitlines()]


def vae_state(prefix: str = "pretransform.model.") -> dict[str, Tensor]:
    """The golden autoencoder's tensors in the released order."""
    golden = {n.removeprefix("model."): t for n, t in read_tensors("vae_a_weights.safetensors").items()}
    plain = [name.removeprefix("pretransform.model.") for name in released_names()]
    return {prefix + name: golden[name] for name in plain if name in golden}


def flat_state(model: str = "a", vae: bool = True) -> dict[str, Tensor]:
    """Golden DiT and conditioners, with or without the autoencoder, as `prismaudio.ckpt` holds them."""
    golden = read_tensors(f"dit_{model}_weights.safetensors")
    order = [name for name in released_names() if name in golden]
    rest = [name for name in golden if name not in set(order)]  # proj_out of two conditioners, at reduced width only
    return {name: golden[name] for name in order + rest} | (vae_state() if vae else {})
