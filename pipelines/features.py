"""`prism features`: what a model and its rewards need to know about videos, computed once and kept."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from pydantic import Field
from rich.console import Console

from cluster.config import RayConfig
from cluster.session import ray_session
from cot_service.config import PlannerConfig
from foundation.release import Release
from media.features import Failure, FeatureStore, stretch_id
from media.manifest import ClipRecord, Rejected, read_manifest, scan_folder, sha256_of
from media.stretches import Stretch, read_stretches, write_stretches
from pipelines.extraction import ExtractionError, PatienceConfig, PlacementConfig, run_stage
from pipelines.extractor import Extractor
from pipelines.extractors import (
    Delays,
    Encoded,
    OobleckLatents,
    PlanTexts,
    SynchformerFeatures,
    T5GemmaFeatures,
    VideoPrismFeatures,
    plan_of,
)
from pipelines.features_view import StageProgress, failure_table
from pipelines.segments import MIN_SECONDS, starts
from settings import PrismError, Section

ENCODED: dict[str, type[Encoded]] = {
    "videoprism": VideoPrismFeatures, "synchformer": SynchformerFeatures, "t5gemma": T5GemmaFeatures,
}  # fmt: skip


class StagesConfig(Section):
    """Where each is computed, in this order; null leaves it out. plan writes the texts that t5gemma encodes."""

    plan: PlacementConfig | None = PlacementConfig()
    videoprism: PlacementConfig | None = PlacementConfig()
    synchformer: PlacementConfig | None = PlacementConfig()
    t5gemma: PlacementConfig | None = PlacementConfig()
    oobleck: PlacementConfig | None = PlacementConfig()
    delays: PlacementConfig | None = PlacementConfig()


class FeaturesRecipe(Section):
    """Feature extraction.

    data: a folder of videos, or a Parquet clip table. release: the released model's folder. store: a folder, or a URL
    such as s3://bucket/features. seconds: of the model's clips; a longer video becomes several stretches, of which the
    last ends where the video ends. texts: what is encoded of a clip's texts. weights: type of the encoders' weights.
    max_tokens: longer texts are cut. compact: merge small files at the end.
    """

    data: Path | None = None
    release: Path | None = None
    store: str = "runs/.cache/features"
    seconds: float = Field(default=9.0, gt=0)
    texts: tuple[Literal["plan", "caption"], ...] = ("plan", "caption")
    weights: Literal["float32", "bfloat16", "float16"] = "float32"
    max_tokens: int | None = Field(default=None, ge=1)
    compact: bool = True
    planner: PlannerConfig = PlannerConfig()
    stages: StagesConfig = StagesConfig()
    patience: PatienceConfig = PatienceConfig()
    ray: RayConfig = RayConfig()


@dataclass
class StageSummary:
    """done: computed now. there: computed before. failed: without a result."""

    identity: str
    done: int = 0
    there: int = 0
    failed: int = 0
    seconds: float = 0.0


@dataclass
class ExtractSummary:
    """What one run of `extract` did. stages: by name."""

    videos: int
    stretches: int
    stages: dict[str, StageSummary] = field(default_factory=dict)
    failures: list[Failure] = field(default_factory=list)
    seconds: float = 0.0


Stage = tuple[Extractor, PlacementConfig]


def extract(recipe: FeaturesRecipe, console: Console, stages: Sequence[Stage] | None = None) -> ExtractSummary:
    """Compute what is missing in the store for every stretch of every video; print progress and what failed.

    stages: instead of the recipe's. Whatever stops it, what was computed is kept and the next call goes on from there.
    Raises PrismError: no usable data or release, a stage that cannot run at all.
    """
    began = time.monotonic()
    store = FeatureStore(recipe.store if "://" in recipe.store else Path(recipe.store).resolve())
    chosen = list(stages) if stages is not None else recipe_stages(recipe)
    records, rejected = _records(recipe)
    found, unusable = stretches_of(records, recipe.seconds)
    summary = ExtractSummary(len(records) + len(rejected), len(found))
    summary.failures = [Failure("scan", r.path, r.path, r.reason) for r in [*rejected, *unusable]]
    store.record(summary.failures, [("scan", record.uri) for record in records])
    with ray_session(recipe.ray):
        _require(chosen)
        texts = {s.id: s.text for s in read_stretches(store.root)}
        found = [replace(s, text=s.text or texts.get(s.id, "")) for s in found]
        for extractor, placement in chosen:
            _stage(recipe, store, extractor, placement, found, summary, console)
            if isinstance(extractor, PlanTexts):
                found = _with_texts(recipe, store, extractor, found)
                write_stretches(store.root, found)
    write_stretches(store.root, found)
    summary.seconds = time.monotonic() - began
    if summary.failures:
        console.print(failure_table(summary.failures, store.root))
    return summary


def recipe_stages(recipe: FeaturesRecipe) -> list[Stage]:
    """The recipe's extractors with where they run. Raises CheckpointError for what the release lacks."""
    chosen: list[Stage] = []
    places = {name: place for name in StagesConfig.model_fields if (place := getattr(recipe.stages, name)) is not None}
    release = None
    if set(places) - {"plan", "delays"}:
        if recipe.release is None:
            raise PrismError("Name the folder of the released model with release=FOLDER; its encoders are needed.")
        release = Release.find(recipe.release.resolve())
        release.require(*(name for name in ENCODED if name in places))
    for name, place in places.items():
        device = "cuda" if place.num_gpus > 0 else "cpu"
        if name == "plan":
            chosen.append((PlanTexts(recipe.planner), place))
        elif name == "delays":
            chosen.append((Delays(), place))
        elif name == "oobleck":
            assert release is not None
            chosen.append((OobleckLatents(release, device), place))
        else:
            assert release is not None
            chosen.append((ENCODED[name](release, device, recipe.weights, recipe.max_tokens), place))
    return chosen


def stretches_of(records: Sequence[ClipRecord], seconds: float) -> tuple[list[Stretch], list[Rejected]]:
    """Windows of `seconds` that cover each video, and the videos that cannot be used, with the reason."""
    found: list[Stretch] = []
    rejected: list[Rejected] = []
    for record in records:
        if record.seconds < MIN_SECONDS:
            rejected.append(Rejected(record.uri, f"lasts {record.seconds:.2f} s; expected at least {MIN_SECONDS} s."))
            continue
        try:
            digest = record.sha256 or sha256_of(record.uri)
        except OSError as error:
            rejected.append(Rejected(record.uri, f"cannot be read ({error.strerror}); correct the clip table."))
            continue
        length = min(seconds, record.seconds)
        found += [
            Stretch(
                stretch_id(digest, start, length), record.id, record.uri, start, length, digest, record.split,
                record.caption,
            )
            for start in starts(record.seconds, seconds, seconds)
        ]  # fmt: skip
    return found, rejected


def _records(recipe: FeaturesRecipe) -> tuple[list[ClipRecord], list[Rejected]]:
    if recipe.data is None:
        raise PrismError("Name a folder of videos or a Parquet clip table with data=PATH.")
    return (read_manifest(recipe.data), []) if recipe.data.is_file() else scan_folder(recipe.data)


def _require(stages: Sequence[Stage]) -> None:
    """Rather now than after a wait for actors that can never start."""
    import ray

    total = ray.cluster_resources()
    for extractor, place in stages:
        for kind, each in (("CPU", place.num_cpus), ("GPU", place.num_gpus)):
            if place.workers * each > total.get(kind, 0.0) + 1e-6:
                raise ExtractionError(
                    f"stages.{extractor.name} asks for {place.workers} workers with {each:g} {kind}s each, but Ray has "
                    f"{total.get(kind, 0.0):g} {kind}s. Lower its workers or num_{kind.lower()}s."
                )


def _stage(
    recipe: FeaturesRecipe,
    store: FeatureStore,
    extractor: Extractor,
    placement: PlacementConfig,
    stretches: Sequence[Stretch],
    summary: ExtractSummary,
    console: Console,
) -> None:
    began = time.monotonic()
    if isinstance(extractor, T5GemmaFeatures):
        stretches = _texts(recipe, stretches)
    keyed = {extractor.key(stretch): stretch for stretch in reversed(stretches)}
    todo = store.missing(extractor.identity, reversed(keyed), extractor.names)
    stage = summary.stages[extractor.name] = StageSummary(extractor.identity, there=len(keyed) - len(todo))
    failures: list[Failure] = []
    done: list[tuple[str, str]] = []
    try:
        with StageProgress(console, extractor.identity, len(todo)) as progress:
            for status in run_stage(store.root, extractor, [keyed[key] for key in todo], placement, recipe.patience):
                if status.reason:
                    failures.append(Failure(extractor.identity, status.key, keyed[status.key].uri, status.reason))
                else:
                    done.append((extractor.identity, status.key))
                progress.advance(failed=bool(status.reason))
    finally:
        there = ((extractor.identity, key) for key in keyed.keys() - set(todo))
        store.record(failures, [*done, *there])
        summary.failures += failures
        stage.done, stage.failed, stage.seconds = len(done), len(failures), time.monotonic() - began
    if recipe.compact and done:
        store.compact(extractor.identity)
    rate = f", {stage.done / stage.seconds:.2g} clips/s" if stage.done else ""
    console.print(
        f"{extractor.identity:<28} {stage.done} computed, {stage.there} already there, {stage.failed} failed{rate}",
        highlight=False,
    )


def _texts(recipe: FeaturesRecipe, stretches: Sequence[Stretch]) -> list[Stretch]:
    """The texts to encode: of the plans, as generation needs them, and the captions, as pre-training does."""
    plans = [s for s in stretches if s.text and "plan" in recipe.texts]
    return plans + [replace(s, text=s.caption) for s in stretches if s.caption and "caption" in recipe.texts]


def _with_texts(
    recipe: FeaturesRecipe, store: FeatureStore, plans: PlanTexts, stretches: Sequence[Stretch]
) -> list[Stretch]:
    """Stretches with the text of their plan, where they have one."""
    keys = [plans.key(stretch) for stretch in stretches]
    absent = set(store.missing(plans.identity, keys, plans.names))
    known = store.read(plans.identity, [key for key in keys if key not in absent])
    return [
        stretch if key in absent else replace(stretch, text=plan_of(known[key]["plan"]).join(recipe.planner.template))
        for key, stretch in zip(keys, stretches, strict=True)
    ]
