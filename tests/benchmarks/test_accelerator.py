import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from benchmarks import accelerator, tables
from benchmarks.accelerator import Work, main, measure
from benchmarks.clips import Clips
from benchmarks.device import Bench, ceilings, teraflop
from foundation.generate import SamplerConfig
from settings import PrismError

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def bench() -> Bench:
    return Bench.of("cpu", small=True, prompts=2, repeats=1)


def test_it_refuses_a_cpu_and_a_missing_gpu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(PrismError, match="sees no CUDA device"):
        main(["--out", str(tmp_path / "x.json")])
    for arguments in (["--device", "cpu"], ["--small"]):
        with pytest.raises(PrismError, match="--device cpu --small"):
            main(["--out", str(tmp_path / "x.json"), *arguments])
    assert not list(tmp_path.iterdir())


@pytest.mark.filterwarnings("ignore:Mismatch dtype")
def test_small_run_writes_a_row_per_part(tmp_path: Path) -> None:
    out = tmp_path / "accelerator.json"
    small = ["--device", "cpu", "--small", "--repeats", "1", "--modes", "eager", "graphs"]
    main(["--out", str(out), *small, "--attention", "default", "math", "--clips", "1", "2"])
    found = json.loads(out.read_text())
    done = [row for row in found["rows"] if "error" not in row]
    clips = ["clip, released"] * 2 + ["clip, abm3, 12 steps"] * 2
    fast = ["velocity", "rollout", "learner step"]
    assert [row["what"] for row in done] == [*clips, *fast, *fast, *fast[1:]] * 2
    assert {(row["dtype"], row["attention"], row["preset"]) for row in done} == {
        (dtype, *rest)
        for dtype in ("fp32", "bf16")
        for rest in (("default", ""), ("default", "fast"), ("math", "fast"), ("default", "official"))
    }
    for row in done:
        assert row["seconds"] > 0
        assert row["bound_s"] > 0
    refused = [row for row in found["rows"] if "error" in row]
    assert [(row["mode"], row["error"]) for row in refused] == [
        ("graphs", "RuntimeError: CUDA graphs need a CUDA device")
    ] * 4
    lines = tables.accelerator(found).splitlines()
    assert len({line.count("|") for line in lines}) == 1
    assert lines[0].count("|") == 14


def test_flops_by_hand(bench: Bench) -> None:
    a, b = torch.ones(3, 5), torch.ones(5, 7)
    assert teraflop(lambda: a @ b) == 2 * 3 * 5 * 7 / 1e12
    rows = {row["what"]: row for row in measure(bench, "fp32", "eager", "math", ceilings(bench))}
    # fast: the prefix and the window's step for 2 prompts, then the tail for all members; conditions come on top.
    config = accelerator.algorithm(2)
    work = Work(bench, "fp32")
    prefix, tail = work.stretch.start + 1, config.tail_steps or 0
    one = rows["velocity"]["tflop"] / (2 * config.group_size)
    velocities = one * 2 * (prefix + config.group_size * tail)
    assert velocities < rows["rollout"]["tflop"] < 1.2 * velocities


@pytest.mark.parametrize("preset", accelerator.PRESETS)
def test_the_learner_accepts_its_own_rollout(bench: Bench, preset: str) -> None:
    work = Work(bench, "fp32", preset)
    config = work.config
    groups = work.rollout()
    assert groups[0].latents.shape[:2] == (config.width + 1, config.group_size)
    metrics = work.update(groups)
    assert metrics["mismatch"] < 1e-5
    # A shared first step is trained once per initial noise; a guided pair counts as two.
    pairs = 1 if config.cfg_scale == 1 else 2
    trained = config.noises + (config.width - 1) * config.group_size
    assert metrics["nfe_trained"] == 2 * config.epochs * trained * pairs


def test_a_clip_is_whole_and_at_full_scale(bench: Bench) -> None:
    made = Clips(bench, "bf16").generate(SamplerConfig(steps=2, guidance=5.0), 3)
    assert made.shape == (3, 2, bench.frames * 2048)
    torch.testing.assert_close(made.abs().amax((1, 2)), torch.ones(3))


def test_it_needs_no_ray_and_no_media() -> None:
    loaded = "import sys, benchmarks.accelerator; print(*sorted({name.split('.')[0] for name in sys.modules}))"
    found = subprocess.run([sys.executable, "-c", loaded], check=True, capture_output=True, text=True, cwd=ROOT)
    rooms = set(found.stdout.split())
    assert {"foundation", "trainer", "torch"} <= rooms
    assert not rooms & {"ray", "actors", "pipelines", "media", "scenes", "rewards_service", "evaluation", "av", "cv2"}
