from evaluation.names import configured, in_words, joined, ordered, recipe_of, titled, tone

CONFIG = """
name: x
rewards:
  scorers:
    semantic: {scorer: "", weight: 1.0}
    spatial: null
    brightness: {scorer: /home/me/brightness.py:Brightness}
  judges:
    semantic: {scorer: laion_clap}
"""


def test_the_usual_four_come_first_and_others_as_they_came() -> None:
    assert ordered(["zeal", "spatial", "total", "semantic", "awe", "zeal"]) == ("semantic", "spatial", "zeal", "awe")
    assert ordered([]) == ()


def test_colours_are_told_apart_and_never_another_class() -> None:
    names = ("semantic", "grid", "line", "a", "b", "c")
    assert [tone(name, (*names, "total")) for name in ("semantic", "total")] == ["semantic", "total"]
    assert [tone(name, names) for name in names[1:]] == ["extra0", "extra1", "extra2", "extra3", "extra0"]


def test_the_recipe_names_scorers_and_judges() -> None:
    rewards = recipe_of(CONFIG)
    assert configured(rewards, "scorers") == {"semantic": "", "brightness": "brightness.py:Brightness"}
    assert configured(rewards, "judges") == {"semantic": "laion_clap"}
    for broken in ("", "name: <a: b", "- 1", "rewards: 3", "rewards: {scorers: [1]}"):
        assert configured(recipe_of(broken), "scorers") == {}


def test_words() -> None:
    assert in_words(("a", "b", "c", "d")) == "all four dimensions"
    assert in_words(("a", "b")) == "both dimensions"
    assert in_words(("a",)) == "the a reward"
    assert in_words(("a",) * 12) == "all 12 dimensions"
    assert joined(["a", "b", "c"]) == "a, b and c"
    assert titled("loudness_range") == "Loudness range"
