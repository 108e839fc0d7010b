"""CUDA-linked wheels beside a CPU torch: forged ones here, those of PyPI in an environment of their own."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from rewards_service.environments import Environment

ROOT = Path(__file__).resolve().parents[2]
CPU = torch.version.cuda is None and torch.version.hip is None
REAL = Environment("cpu-wheels-test", ("torchaudio==2.11.0", "torchvision==0.28.0"), without=("numpy",))

TORCHAUDIO = {
    "torchaudio/__init__.py": "from . import _extension\nfrom .align import align\n",
    "torchaudio/_extension.py": "import torch, pathlib\n"
    "torch.ops.load_library(str(next(pathlib.Path(__file__).parent.glob('lib/*.so'))))\n",
    "torchaudio/align.py": "from torchaudio._extension import _IS_TORCHAUDIO_EXT_AVAILABLE, fail_if_no_align\n"
    "@fail_if_no_align\ndef align(x):\n    return x\n",
    "torchaudio/lib/_torchaudio.abi3.so": "not a library",
}
TORCHVISION = {
    "torchvision/__init__.py": "import torch\n@torch.library.register_fake('torchvision::nms')\n"
    "def f(dets, scores, iou_threshold):\n    return dets\n",
    "torchvision/_C.so": "not a library",
}


def install(folder: Path, *packages: dict[str, str]) -> None:
    for package in packages:
        for name, text in package.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(text)


def run(code: str, folder: Path | None = None, python: str = sys.executable) -> tuple[str, str, int]:
    paths = [str(ROOT), *([str(folder)] if folder else [])]
    code = f"import sys, json\nsys.path[:0] = {paths!r}\n{code}"
    done = subprocess.run([python, "-c", code], capture_output=True, text=True, cwd="/", timeout=300)
    return done.stdout, done.stderr, done.returncode


TOLERATE = "from rewards_service.cpu_wheels import tolerate\nprint(json.dumps([tolerate(), tolerate()]))\n"


@pytest.mark.skipif(not CPU, reason="this torch has an accelerator, so the wheels fit it")
def test_broken_packages_are_stubbed_once_and_visibly(tmp_path: Path) -> None:
    install(tmp_path, TORCHAUDIO, TORCHVISION)
    assert "OSError" in run("import torchaudio", tmp_path)[1]
    assert "torchvision::nms does not exist" in run("import torchvision", tmp_path)[1]
    out, log, rc = run(f"{TOLERATE}import torchaudio, torchvision\ntorchaudio.align(1)", tmp_path)
    first, second = json.loads(out)
    assert len(first) == 2
    assert "torchaudio._extension" in first[0]
    assert "torchvision::nms" in first[1]
    assert second == []
    assert log.count("CUDA-linked wheel beside a CPU build of torch") == 2
    assert rc == 1
    assert "RuntimeError: torchaudio's align needs its compiled part" in log


def test_nothing_is_done_where_packages_are_absent_or_work(tmp_path: Path) -> None:
    assert json.loads(run(TOLERATE, tmp_path)[0]) == [[], []]
    whole = {name: text for name, text in TORCHAUDIO.items() if not name.endswith(".so")}
    whole["torchaudio/_extension.py"] = "_IS_TORCHAUDIO_EXT_AVAILABLE = True\nfail_if_no_align = lambda f: f\n"
    install(tmp_path, whole)
    out, log, rc = run(f"{TOLERATE}import torchaudio\nassert torchaudio.align(3) == 3", tmp_path)
    assert json.loads(out) == [[], []]
    assert (log, rc) == ("", 0)


@pytest.mark.parametrize("accelerator", ["cuda", "hip"])
def test_nothing_is_done_with_an_accelerator(tmp_path: Path, accelerator: str) -> None:
    install(tmp_path, TORCHAUDIO, TORCHVISION)
    code = f"import torch\ntorch.version.{accelerator} = '13.0'\n{TOLERATE}"
    out, log, rc = run(f"{code}assert 'torchaudio._extension' not in sys.modules", tmp_path)
    assert json.loads(out) == [[], []], log
    assert rc == 0, log


@pytest.mark.slow
@pytest.mark.skipif(not CPU, reason="this torch has an accelerator, so the wheels fit it")
def test_the_wheels_of_pypi_resample_and_resize() -> None:
    """A 1 kHz tone keeps its period from 32 to 16 kHz; an edge of 8 pixels becomes one of 4."""
    python = str(REAL.prepare())
    assert "OSError" in run("import torchaudio", python=python)[1]
    code = f"""{TOLERATE}
import math, torch, torchaudio, torchvision
from torchvision.transforms import v2
t = torch.arange(32000) / 32000
y = torchaudio.functional.resample(torch.sin(2 * math.pi * 1000 * t), 32000, 16000)
want = torch.sin(2 * math.pi * 1000 * torch.arange(16000) / 16000)
assert (y - want)[200:-200].abs().max() < 1e-2, (y - want).abs().max()
assert torchaudio.transforms.MelSpectrogram(16000, n_mels=64)(y).shape == (64, 81)
assert v2.Resize((4, 4))(torch.zeros(3, 8, 8)).shape == (3, 4, 4)
"""
    out, log, rc = run(code, python=python)
    assert rc == 0, log
    assert [len(did) for did in json.loads(out)] == [2, 0]
