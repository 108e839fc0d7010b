import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from benchmarks import accelerator
from benchmarks.accelerator import Bench, Work, ceilings, main, measure, teraflop
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
    main(["--out", str(out), *small, "--attention", "default", "math"])
    found = json.loads(out.read_text())
    done = [row for row in found["rows"] if "error" not in row]
    assert [row["what"] for row in done] == ["velocity", "rollout", "learner step"] * 4
    assert {(row["dtype"], row["attention"]) for row in done} == {
        (d, a) for d in ("fp32", "bf16") for a in ("default", "math")
    }
    for row in done:
        assert row["seconds"] > 0
        assert row["bound_s"] > 0
    refused = [row for row in found["rows"] if "error" in row]
    assert [(row["mode"], row["error"]) for row in refused] == [
        ("graphs", "RuntimeError: CUDA graphs need a CUDA device")
    ] * 2


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


def test_the_learner_accepts_its_own_rollout(bench: Bench) -> None:
    work = Work(bench, "fp32")
    metrics = work.update(work.rollout())
    assert metrics["mismatch"] < 1e-5
    assert metrics["nfe_trained"] == 2 * work.config.epochs


def test_it_needs_no_ray_and_no_media() -> None:
    loaded = "import sys, benchmarks.accelerator; print(*sorted({name.split('.')[0] for name in sys.modules}))"
    found = subprocess.run([sys.executable, "-c", loaded], check=True, capture_output=True, text=True, cwd=ROOT)
    rooms = set(found.stdout.split())
    assert {"foundation", "trainer", "torch"} <= rooms
    assert not rooms & {"ray", "actors", "pipelines", "media", "scenes", "rewards_service", "evaluation", "av", "cv2"}
