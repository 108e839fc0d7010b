"""Recipes: what is read, what is refused, and whether the message helps."""

from pathlib import Path
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import model_validator

from settings import PrismError, Section
from settings.load import ConfigError, assign, check, dump, load, read_yaml


class Optimiser(Section):
    learning_rate: float = 6e-4
    betas: tuple[float, float] = (0.9, 0.99)
    clip: float | None = 1.0


class Worker(Section):
    name: str
    cpus: float = 1.0


class Demo(Section):
    seed: int = 0
    data: Path | None = None
    name: str = "demo"
    preset: Literal["paper", "fast"] = "fast"
    optimiser: Optimiser = Optimiser()
    workers: list[Worker] = []
    scorers: dict[str, Worker] = {}
    extra: Optimiser | None = None

    @model_validator(mode="after")
    def _positive(self) -> "Demo":
        if self.seed < 0:
            raise ValueError("seed must not be negative")
        return self


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "demo.yaml"
    path.write_text("# A demo.\nseed: 3\noptimiser:\n  learning_rate: 1e-3\n")
    return path


def _message(schema: type[Section], raw: dict) -> str:
    with pytest.raises(ConfigError) as caught:
        check(schema, raw)
    return str(caught.value)


def test_reads_yaml_and_keeps_defaults(recipe: Path) -> None:
    demo = load(Demo, recipe)
    assert demo.seed == 3
    assert demo.optimiser.learning_rate == 1e-3
    assert demo.optimiser.betas == (0.9, 0.99)


def test_overrides_win_and_may_create_sections(recipe: Path) -> None:
    overrides = ["seed=7", "optimiser.clip=null", "extra.learning_rate=2e-5", "optimiser.betas=[0.8, 0.9]", "name=x=y"]
    demo = load(Demo, recipe, overrides)
    assert demo.seed == 7
    assert demo.optimiser.clip is None
    assert demo.optimiser.learning_rate == 1e-3
    assert demo.optimiser.betas == (0.8, 0.9)
    assert demo.extra is not None
    assert demo.extra.learning_rate == 2e-5
    assert demo.name == "x=y"


@pytest.mark.parametrize("text", ["007", "3", "1e5", "yes", "2026-11-20", "x"])
def test_a_name_stays_as_typed(recipe: Path, text: str) -> None:
    demo = load(Demo, recipe, [f"name={text}", f"data={text}", f"scorers.temporal.name={text}"])
    assert (demo.name, demo.data, demo.scorers["temporal"].name) == (text, Path(text), text)
    assert load(Demo, recipe, ["data=null"]).data is None
    assert load(Demo, recipe, ["name='quoted'"]).name == "quoted"


def test_the_later_override_wins(recipe: Path) -> None:
    assert load(Demo, recipe, ["seed=1", "seed=2"]).seed == 2


@pytest.mark.parametrize("text", ["seed", "=3", "optimiser..clip=1", ".seed=1", ""])
def test_a_malformed_override_shows_the_form(recipe: Path, text: str) -> None:
    with pytest.raises(ConfigError, match="key=value"):
        load(Demo, recipe, [text])


def test_an_override_cannot_reach_into_a_value(recipe: Path) -> None:
    with pytest.raises(ConfigError, match=r"reaches into seed, which is the value 3"):
        load(Demo, recipe, ["seed.deep=1"])


def test_an_unknown_key_names_the_nearest(recipe: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        load(Demo, recipe, ["optimiser.learnin_rate=1"])
    assert str(recipe) in str(caught.value)
    assert "did you mean 'optimiser.learning_rate'?" in str(caught.value)


def test_an_unknown_key_with_no_neighbour_lists_what_there_is() -> None:
    assert "known keys here: betas, clip, learning_rate" in _message(Demo, {"optimiser": {"qqq": 1}})


def test_unknown_keys_are_found_inside_lists_dicts_and_optional_sections() -> None:
    assert "did you mean 'workers.0.cpus'?" in _message(Demo, {"workers": [{"name": "a", "cpu": 1}]})
    assert "did you mean 'scorers.temporal.cpus'?" in _message(Demo, {"scorers": {"temporal": {"name": "a", "cpu": 1}}})
    assert "did you mean 'extra.clip'?" in _message(Demo, {"extra": {"clp": 1}})


def test_type_errors_name_key_expectation_and_input() -> None:
    message = _message(Demo, {"seed": "many", "preset": "fats", "optimiser": 3, "workers": [{}]})
    assert "'seed': should be a valid integer, unable to parse string as an integer, got 'many'" in message
    assert "'preset': should be 'paper' or 'fast', got 'fats'" in message
    assert "'optimiser'" in message
    assert "'workers.0.name' is required and missing" in message
    assert message.count("\n  - ") == 4


def test_a_rule_across_keys_is_shown_as_written() -> None:
    assert "seed must not be negative" in _message(Demo, {"seed": -1})


def test_config_errors_are_user_errors() -> None:
    assert issubclass(ConfigError, PrismError)


def test_a_missing_recipe_offers_the_nearest(recipe: Path) -> None:
    with pytest.raises(ConfigError, match=r"There is no recipe .*dmo\.yaml\. Did you mean .*demo\.yaml\?"):
        read_yaml(recipe.with_name("dmo.yaml"))


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"seed: [1", "not valid YAML"),
        (b"- 1\n- 2\n", "must hold `key: value` lines, but holds a list"),
        (b"seed: 1\nseed: 2\n", "the key 'seed' is given twice"),
        (b"\xff\xfe\x00", "Cannot read"),
    ],
)
def test_a_broken_recipe_is_refused(tmp_path: Path, content: bytes, expected: str) -> None:
    path = tmp_path / "broken.yaml"
    path.write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        load(Demo, path)
    assert expected in str(caught.value)
    assert "broken.yaml" in str(caught.value)


def test_a_folder_is_no_recipe(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is a folder"):
        read_yaml(tmp_path)


def test_an_empty_recipe_is_all_defaults(tmp_path: Path) -> None:
    path = tmp_path / "empty.yaml"
    path.write_text("# nothing\n")
    assert load(Demo, path) == Demo()


@pytest.mark.parametrize(
    ("text", "value"),
    [("a=1e-3", 1e-3), ("a=1E5", 1e5), ("a=-2.5e-1", -0.25), ("a='1e-3'", "1e-3"), ("a=1e", "1e"), ("a=e3", "e3")],
)
def test_exponents_without_a_dot_are_numbers(text: str, value: object) -> None:
    raw: dict = {}
    assign(raw, text)
    assert raw == {"a": value}


@given(
    st.builds(
        Demo,
        seed=st.integers(0, 2**40),
        name=st.text(max_size=20),
        preset=st.sampled_from(["paper", "fast"]),
        optimiser=st.builds(
            Optimiser, learning_rate=st.floats(allow_nan=False, allow_infinity=False), clip=st.none() | st.floats(0, 9)
        ),
        workers=st.lists(st.builds(Worker, name=st.text(max_size=5), cpus=st.floats(0, 8)), max_size=3),
        scorers=st.dictionaries(st.text(min_size=1, max_size=5), st.builds(Worker, name=st.just("w")), max_size=2),
    )
)
def test_what_is_written_reads_back_equal(tmp_path_factory: pytest.TempPathFactory, demo: Demo) -> None:
    path = tmp_path_factory.mktemp("recipe") / "resolved.yaml"
    path.write_text(dump(demo), encoding="utf-8")
    assert load(Demo, path) == demo
