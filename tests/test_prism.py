"""The command line: what it passes on, what it prints, and how it fails."""

import json
import subprocess
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import prism
from settings import PrismError

ROOT = Path(__file__).resolve().parent.parent
COMMANDS = ("train", "pretrain", "generate", "score", "plan", "evaluate", "report")
SCORES = {
    "scores": {
        "temporal": {"score": 0.5, "measured": {"onsets": [0.25, 1.5], "basis": "events"}},
        "spatial": {"score": None, "measured": {}},
    },
    "total": None,
    "notes": ["Impacts are [seen]."],
}

Stub = Callable[..., Any]


@pytest.fixture
def stub(monkeypatch: pytest.MonkeyPatch) -> Callable[[str, Stub], None]:
    """Puts a function in the place of `module:function`, without importing the real module."""

    def replace(where: str, function: Stub) -> None:
        module_name, _, name = where.partition(":")
        module = types.ModuleType(module_name)
        setattr(module, name, function)
        monkeypatch.setitem(sys.modules, module_name, module)

    return replace


def _run(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(prism.app, list(arguments), catch_exceptions=False)
    return result.exit_code, result.stdout


def _run_main(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int | str | None:
    monkeypatch.setattr(sys, "argv", ["prism", *arguments])
    with pytest.raises(SystemExit) as ended:
        prism.main()
    return ended.value.code


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(command: str) -> None:
    code, text = _run(command, "--help")
    assert code == 0
    assert "Usage" in text


def test_help_is_instant_because_nothing_heavy_is_imported() -> None:
    program = (
        "import sys, prism\n"
        "heavy = {'torch', 'ray', 'matplotlib', 'cv2', 'scipy'} & set(sys.modules)\n"
        "sys.exit(f'imported {heavy}' if heavy else 0)"
    )
    ended = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert ended.returncode == 0, ended.stderr


def test_the_console_script_is_installed() -> None:
    script = Path(sys.executable).with_name("prism")
    ended = subprocess.run([script, "--help"], cwd="/", capture_output=True, text=True, timeout=120)
    assert ended.returncode == 0, ended.stderr
    assert "train" in ended.stdout


def test_train_passes_recipe_overrides_and_resume(stub: Callable[[str, Stub], None]) -> None:
    seen: list[Any] = []

    def train(recipe: Path, overrides: list[str], resume: bool) -> types.SimpleNamespace:
        seen.append((recipe, overrides, resume))
        return types.SimpleNamespace(path=Path("runs/third"))

    stub("pipelines.train:train", train)
    _, text = _run("train", "recipes/laptop.yaml", "seed=3", "name=third", "--resume")
    assert text == "runs/third\n"
    assert seen == [(Path("recipes/laptop.yaml"), ["seed=3", "name=third"], True)]


def test_plan_prints_json_and_nothing_else(stub: Callable[[str, Stub], None]) -> None:
    plan = {
        "positions": [0.1] * 50,
        "semantic": "A bell.",
        "temporal": "Two.",
        "aesthetic": "Clean.",
        "spatial": "[left]",
        "source": "analysis",
    }
    stub("pipelines.plan:plan", lambda video, caption: plan)
    code, text = _run("plan", "video.mp4", "--json")
    assert code == 0
    assert json.loads(text) == plan


def test_plan_prints_texts_literally(stub: Callable[[str, Stub], None]) -> None:
    stub(
        "pipelines.plan:plan",
        lambda video, caption: {"semantic": caption, "spatial": "[left] to [/right]", "positions": [0.123]},
    )
    _, text = _run("plan", "video.mp4", "--caption", "A bell.")
    assert "A bell." in text
    assert "[left] to [/right]" in text
    assert "0.123" not in text


def test_a_missing_score_is_called_missing(stub: Callable[[str, Stub], None]) -> None:
    stub("pipelines.score:score", lambda video, audio, caption, recipe, overrides: SCORES)
    _, text = _run("score", "video.mp4")
    assert "0.500" in text
    assert "onsets [0.25 1.5]" in text
    assert "missing" in text
    assert "Impacts are [seen]." in text


def test_an_evaluation_shows_rewards_measures_and_guidance(stub: Callable[[str, Stub], None]) -> None:
    result = {
        "clips": 7,
        "heldout": {"total": {"mean": 0.512, "stderr": 0.01, "n": 7}},
        "guided": {"2": {"total": {"mean": 0.575, "stderr": None, "n": 7}}},
        "measures": {"onset_f1": {"mean": None, "stderr": None, "n": 0}, "events": 12},
    }
    stub("pipelines.evaluate:evaluate", lambda recipe, overrides, model: result)
    _, text = _run("evaluate", "recipes/laptop.yaml")
    assert [word in text for word in ("7 held-out clips", "0.512", "0.575", "onset f1", "12")] == [True] * 5


def test_generate_lists_what_it_wrote(stub: Callable[[str, Stub], None]) -> None:
    def generate(videos: list[Path], caption: str | None, out_dir: Path, **options: Any) -> list[Path]:
        unset = dict.fromkeys(("model", "guidance", "steps", "solver", "recipe"))
        assert options == {**unset, "seed": 5, "overrides": ["pool.workers=2"]}
        return [out_dir / video.name for video in videos]

    stub("pipelines.generate:generate", generate)
    _, text = _run("generate", "a.mp4", "b.mp4", "-o", "sound", "--seed", "5", "--set", "pool.workers=2")
    assert text.split() == ["sound/a.mp4", "sound/b.mp4"]


def test_a_user_error_is_a_message_and_status_2(
    stub: Callable[[str, Stub], None], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(video: Path, caption: str | None) -> None:
        raise PrismError(f"{video} is [not] a video; give an mp4.")

    stub("pipelines.plan:plan", fail)
    assert _run_main(monkeypatch, "plan", "x.txt") == 2
    captured = capsys.readouterr()
    assert "x.txt is [not] a video; give an mp4." in captured.err
    assert "Traceback" not in captured.err
    assert captured.out == ""


def test_a_user_error_from_a_ray_task_shows_only_its_message(
    stub: Callable[[str, Stub], None], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class WrappedError(PrismError):
        cause = PrismError("the checkpoint has other dimensions")

    def fail(video: Path, caption: str | None) -> None:
        raise WrappedError("Traceback of a remote task")

    stub("pipelines.plan:plan", fail)
    assert _run_main(monkeypatch, "plan", "x.mp4") == 2
    message = capsys.readouterr().err
    assert "the checkpoint has other dimensions" in message
    assert "Traceback" not in message


def test_a_defect_keeps_its_traceback(stub: Callable[[str, Stub], None], monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(video: Path, caption: str | None) -> None:
        raise ZeroDivisionError

    stub("pipelines.plan:plan", fail)
    monkeypatch.setattr(sys, "argv", ["prism", "plan", "x.mp4"])
    with pytest.raises(ZeroDivisionError):
        prism.main()


def test_interrupting_ends_with_130(stub: Callable[[str, Stub], None], monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(video: Path, caption: str | None) -> None:
        raise KeyboardInterrupt

    stub("pipelines.plan:plan", interrupted)
    assert _run_main(monkeypatch, "plan", "x.mp4") == 130
