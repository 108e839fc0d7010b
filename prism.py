"""The command line: it parses words, calls one pipeline and shows what came back."""

import json
import logging
import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.logging import RichHandler
from rich.markup import escape
from rich.panel import Panel

from evaluation import tables
from settings import PrismError

app = typer.Typer(
    name="prism",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Sound for silent video, and four-reward reinforcement learning of the model that makes it, on Ray.",
    epilog="Start with: [bold]prism train recipes/laptop.yaml[/bold]",
)
out = Console()
err = Console(stderr=True)

rewards = typer.Typer(
    no_args_is_help=True, help="The rewards of a run that is going: how many answer, and more of them."
)
weights = typer.Typer(no_args_is_help=True, help="Files of the released models.")
app.add_typer(rewards, name="rewards")
app.add_typer(weights, name="weights")

Recipe = Annotated[Path, typer.Argument(help="A YAML recipe, for example recipes/laptop.yaml.")]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(metavar="KEY=VALUE", help="Settings that replace the recipe's, for example seed=3 name=third."),
]
Caption = Annotated[str | None, typer.Option(help="What the picture shows, in words.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON and nothing else.")]
Resume = Annotated[bool, typer.Option("--resume", help="Continue the run of this name, or the latest one.")]
Model = Annotated[
    Path | None,
    typer.Option("--model", "-m", help="A checkpoint or a run folder; without it, the model shipped here."),
]


@app.command()
def train(
    recipe: Recipe,
    overrides: Overrides = None,
    resume: Resume = False,
    plan: Annotated[bool, typer.Option("--plan", help="Only print how much memory each process will need.")] = False,
) -> None:
    """Make a model better in all four rewards; everything lands in runs/NAME."""
    if plan:
        from pipelines.memory_plan import plan_memory

        plan_memory(recipe, overrides or [], out)
        return
    from pipelines.train import train as run

    _print_path(run(recipe, overrides or [], resume=resume).path)


@app.command()
def pretrain(recipe: Recipe, overrides: Overrides = None) -> None:
    """Make the pre-trained model that `train` starts from."""
    from pipelines.pretrain import pretrain as run

    _print_path(run(recipe, overrides or []))


@app.command()
def generate(
    videos: Annotated[list[Path], typer.Argument(help="Videos of any container that PyAV reads, of any length.")],
    out_dir: Annotated[Path, typer.Option("--out", "-o", help="Folder for the mp4, wav and plan of each video.")],
    recipe: Annotated[
        Path | None, typer.Option("--recipe", "-r", help="A YAML recipe, for example recipes/prismaudio.yaml.")
    ] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Replaces one setting of the recipe.")
    ] = None,
    caption: Caption = None,
    model: Annotated[
        Path | None,
        typer.Option(
            "--model",
            "-m",
            help="A checkpoint, a run folder or a release folder; else the recipe's or the shipped one.",
        ),
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of the initial noise.")] = None,
    guidance: Annotated[float | None, typer.Option(min=0.0, help="Classifier-free guidance scale; 1 is none.")] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Steps from noise to sound.")] = None,
    solver: Annotated[str | None, typer.Option(help="How a step is taken: euler, ab2, dpmpp2m, ...")] = None,
) -> None:
    """Make a soundtrack for each video: the video with sound, a wav and the plan as JSON."""
    from pipelines.generate import generate as run

    chosen = {"model": model, "seed": seed, "guidance": guidance, "steps": steps, "solver": solver}
    for written in run(videos, caption, out_dir, recipe=recipe, overrides=settings or [], **chosen):
        _print_path(written)


@app.command()
def score(
    video: Annotated[Path, typer.Argument(help="The video whose events and positions are the reference.")],
    audio: Annotated[Path | None, typer.Argument(help="The sound to judge; without it, the video's own.")] = None,
    caption: Caption = None,
    recipe: Annotated[
        Path | None, typer.Option("--recipe", "-r", help="A recipe whose rewards are asked; else the embedded four.")
    ] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Replaces one setting of the recipe.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Measure a clip's sound: the rewards and what each of them found."""
    from pipelines.score import score as run

    result = run(video, audio, caption=caption, recipe=recipe, overrides=settings or [])
    if as_json:
        _print_json(result)
    else:
        out.print(tables.scores(result))


@app.command()
def plan(
    video: Annotated[Path, typer.Argument(help="Any video.")], caption: Caption = None, as_json: Json = False
) -> None:
    """Print the four-part plan that conditions generation."""
    from pipelines.plan import plan as run

    result = run(video, caption)
    if as_json:
        _print_json(result)
    else:
        out.print(tables.plan(result))


@app.command()
def evaluate(
    recipe: Recipe,
    overrides: Overrides = None,
    model: Model = None,
    as_json: Json = False,
) -> None:
    """Measure a model on held-out scenes, rewards and measures that are not rewarded."""
    from pipelines.evaluate import evaluate as run

    result = run(recipe, overrides or [], model=model)
    if as_json:
        _print_json(result)
    else:
        out.print(tables.evaluation(result))


@app.command()
def features(
    recipe: Recipe,
    overrides: Overrides = None,
) -> None:
    """Encode a folder of videos for the released model and its rewards: data=VIDEOS release=FOLDER store=URL."""
    from pipelines.features import FeaturesRecipe, extract
    from settings.load import load

    summary = extract(load(FeaturesRecipe, recipe, overrides or []), out)
    computed = sum(stage.done for stage in summary.stages.values())
    out.print(f"{summary.stretches} stretches of {summary.videos} videos, {computed} features computed.")
    if summary.failures:
        sys.exit(1)


Store = Annotated[str, typer.Option("--store", "-s", help="The feature store: a folder or a URL.")]


@app.command()
def import_features(
    source: Annotated[Path, typer.Argument(help="A folder of official .npz files, or a memory-mapped TensorDict.")],
    store: Store = "runs/.cache/features",
    listed: Annotated[
        Path | None, typer.Option("--list", help="The .txt split of .npz files, or the TSV of a TensorDict.")
    ] = None,
    videos: Annotated[
        Path | None, typer.Option(help="Folder of ID.mp4, where the files' own paths do not hold.")
    ] = None,
    label: Annotated[str | None, typer.Option(help="What the encoders are called in the store.")] = None,
) -> None:
    """Put features that other tools made into a store: PrismAudio's .npz files or MMAudio's memory maps."""
    from media.features import FeatureStore
    from pipelines.import_features import import_memmaps, import_npz

    more = {"videos": videos, **({"label": label} if label else {})}
    if (source / "meta.json").is_file():
        summary = import_memmaps(FeatureStore(store), source, out, listed, **more)
    else:
        summary = import_npz(FeatureStore(store), source, out, listed, **more)
    out.print(f"{summary.imported} clips imported, {summary.there} were there, {len(summary.failures)} failed.")
    if summary.failures:
        sys.exit(1)


@app.command()
def export_features(
    target: Annotated[Path, typer.Argument(help="Folder for the .npz files.")],
    store: Store = "runs/.cache/features",
    seed: Annotated[
        int | None, typer.Option(help="Draw the latents, as the official tools do; else their mean.")
    ] = None,
) -> None:
    """Write a store's features as PrismAudio's official .npz files."""
    from media.features import FeatureStore
    from pipelines.export_features import export_npz

    count, failures = export_npz(FeatureStore(store), target, seed=seed)
    out.print(f"{count} files written, {len(failures)} clips lack features.")
    for failure in failures:
        out.print(f"[red]{escape(failure.reason)}[/red]")
    if failures:
        sys.exit(1)


@app.command()
def finetune(recipe: Recipe, overrides: Overrides = None, resume: Resume = False) -> None:
    """Train the released model on stored features: foundation pre-training or CoT fine-tuning."""
    from pipelines.supervise import supervise as run

    _print_path(run(recipe, overrides or [], resume=resume).path)


@app.command()
def finetune_vae(recipe: Recipe, overrides: Overrides = None, resume: Resume = False) -> None:
    """Fine-tune the released autoencoder on sounds."""
    from pipelines.finetune_vae import finetune_vae as run

    _print_path(run(recipe, overrides or [], resume=resume).path)


@app.command()
def convert(
    source: Annotated[Path, typer.Argument(help="A released file (.ckpt, .safetensors) or a release folder.")],
    target: Annotated[Path, typer.Argument(help="The file to write; its ending says the format.")],
    vae: Annotated[Path | None, typer.Option(help="An autoencoder file that goes into the model's file.")] = None,
    without_vae: Annotated[bool, typer.Option("--without-vae", help="Leave the autoencoder out.")] = False,
) -> None:
    """Write a released model file in another format; names, types and values stay."""
    from pipelines.convert import convert as run

    _print_path(run(source, target, vae=vae, without_vae=without_vae))


@app.command()
def export(
    source: Annotated[Path, typer.Argument(metavar="RUN", help="A run folder or one of its checkpoints.")],
    target: Annotated[Path, typer.Argument(help="The file to write: .ckpt as released, or .safetensors.")],
    release: Annotated[Path | None, typer.Option(help="The release the run began from, if it moved.")] = None,
) -> None:
    """Write a post-trained model as the whole flat file of its release, for any program that reads that."""
    from pipelines.convert import export as run

    _print_path(run(source, target, release=release))


@app.command()
def forge(
    folder: Annotated[Path, typer.Argument(help="A new or empty folder.")],
    size: Annotated[str, typer.Option(help="tiny, or full: the released dimensions, about 9 GB.")] = "tiny",
    seed: Annotated[int, typer.Option(help="Seed of the weights.")] = 0,
) -> None:
    """Write a release folder with random weights, to try the recipes for the released model without it."""
    from pipelines.forge import forge as run

    _print_path(run(folder, size, seed))


@app.command()
def report(
    run_dir: Annotated[Path, typer.Argument(metavar="RUN", help="A run folder, for example runs/latest.")],
) -> None:
    """Write report.html and rewards.png of a run again."""
    from evaluation.report import write_report

    _print_path(write_report(run_dir))


Run = Annotated[str | None, typer.Option("--run", help="A run's name or folder; without it, the one that is going.")]
Address = Annotated[str | None, typer.Option(help="The Ray it runs in, as HOST:PORT; without it, where RUN says.")]


@rewards.command("status")
def rewards_status(run: Run = None, address: Address = None, as_json: Json = False) -> None:
    """Replicas, calls and failures of every dimension."""
    from pipelines.rewards import status

    result = status(run, address)
    if as_json:
        _print_json(result)
    else:
        out.print(tables.replicas(result))


@rewards.command("scale")
def rewards_scale(
    dimension: Annotated[str, typer.Argument(help="semantic, temporal, aesthetic, spatial, or one of your own.")],
    replicas: Annotated[str, typer.Argument(help="How many, as 3; with rewards.backend serve also 1:4.")],
    run: Run = None,
    address: Address = None,
) -> None:
    """Give one dimension more or fewer replicas while the run goes on; no request is lost."""
    from pipelines.rewards import scale

    out.print(tables.replicas({dimension: scale(dimension, replicas, run, address)}))


@rewards.command("prepare")
def rewards_prepare(
    recipe: Annotated[Path | None, typer.Argument(help="Only what this recipe needs; else everything.")] = None,
) -> None:
    """Make the environments of scorers with packages of their own, as an image's build does."""
    from pipelines.rewards import prepare

    for interpreter in prepare(recipe):
        _print_path(interpreter)


@weights.command("check")
def weights_check(
    folder: Annotated[Path, typer.Argument(help="A folder with files of released models.")], as_json: Json = False
) -> None:
    """Say which files of the released models are there, whether they are whole, and under which licence they come."""
    from rewards_service.files import inventory

    found = inventory.inspect(folder)
    if as_json:
        _print_json(inventory.as_dict(found))
    else:
        out.print(inventory.table(found))


def main() -> None:
    """Entry point: an error the user can act on is shown as a message and ends with status 2."""
    logging.basicConfig(
        level=logging.WARNING,
        format="%(message)s",
        handlers=[RichHandler(console=err, show_time=False, show_path=False)],
    )
    # Read when Ray is first imported: its hook for `uv run` would start workers in an environment without Ray.
    os.environ["RAY_ENABLE_UV_RUN_RUNTIME_ENV"] = "0"
    try:
        app()
    except PrismError as error:
        # An error raised inside a Ray task arrives wrapped, with the remote traceback in its text.
        message = str(getattr(error, "cause", error))
        err.print(Panel(escape(message), title="prism cannot go on", title_align="left", border_style="red"))
        sys.exit(2)
    except KeyboardInterrupt:
        err.print("Stopped.")
        sys.exit(130)


def _print_path(path: Path) -> None:
    out.print(str(path), soft_wrap=True, highlight=False, markup=False)


def _print_json(value: Any) -> None:
    sys.stdout.write(json.dumps(value, indent=2, allow_nan=False) + "\n")


if __name__ == "__main__":
    main()
