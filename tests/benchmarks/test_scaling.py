import json
from pathlib import Path

import pytest

from benchmarks.scaling import AXES, Axis, curve, main
from benchmarks.variants import nfe, variant
from benchmarks.world import laptop
from foundation.build import load_foundation
from pipelines.recipe import find

SMALL = ["algorithm.prompts=2", "algorithm.group_size=2", "algorithm.steps=4", "algorithm.window_hi=1",
         "algorithm.tail_steps=2", "algorithm.epochs=1"]  # fmt: skip


@pytest.mark.parametrize("axis", [Axis("members", "group_size", (2, 4)), Axis("length", None, (0.5, 1.0))])
def test_points_hold_the_hand_count(axis: Axis) -> None:
    recipe = laptop(SMALL)
    found = curve(recipe, load_foundation(find(recipe.model, "model")), axis, rounds=1)
    assert found["label"] == axis.label
    for name, points in found["methods"].items():
        assert [p["value"] for p in points] == list(axis.values)
        for p in points:
            changes = {axis.field: int(p["value"])} if axis.field else {}
            config = variant(name).configure(recipe, **changes)
            # Starts 0, 1, 2 of official have their mean at 1; 0, 1 of fast at 0.5.
            mid = [1, 1] if name == "official" else [0, 1]
            assert p["nfe"] == round(sum(nfe(config, s, name == "official").total for s in mid) / 2)
            assert p["model_s"][0] > 0


def test_every_axis_fits_both_methods() -> None:
    recipe = laptop()
    fields = [(axis.field, int(value)) for axis in AXES.values() for value in axis.values if axis.field]
    for field, value in fields:
        for name in ("official", "fast"):
            assert getattr(variant(name).configure(recipe, **{field: value}), field) == value


def test_the_file(tmp_path: Path) -> None:
    out = tmp_path / "scaling.json"
    main(["--out", str(out), "--axes", "P", "--values", "1", "--rounds", "1", "--set", *SMALL])
    found = json.loads(out.read_text())
    assert set(found["axes"]) == {"P"}
    assert [p["value"] for p in found["axes"]["P"]["methods"]["fast"]] == [3]
