"""The files of released models that this project can use: how to recognise each, who uses it, and its licence."""

from collections.abc import Callable
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

from foundation.flat import VAE_PREFIXES
from foundation.release import MODEL, SYNCHFORMER, VAE
from rewards_service.errors import RewardError
from rewards_service.files.headers import Header, Shapes, read_header, read_json
from rewards_service.released import audiobox_files, hub

IN_CACHE = ("gpt2", "roberta-base")
Recognise = Callable[[Path], Shapes]


@dataclass(frozen=True)
class Marks:
    """What tells a model's tensors from others'.

    under: keys at which a file has them, in the order they are looked for; "" is the top. prefixes: what the names may
    begin with besides; the first that fits all marks counts. names: beginnings of names that must be there, with the
    size of their first dimension, or None for any. never: beginnings of names that must not.
    """

    names: dict[str, int | None]
    under: tuple[str, ...] = ("",)
    prefixes: tuple[str, ...] = ("",)
    never: tuple[str, ...] = ()

    def shapes(self, path: Path) -> Shapes:
        """Shapes of the tensors of a file. Raises RewardError: unreadable, or another model, saying what is wrong."""
        header = read_header(path)
        found = next((shapes for key in self.under if (shapes := header.named(key))), None)
        if found is None:
            raise RewardError(f"no tensors {self._place()}; found {_content(header)}")
        problems = [self._problem(found, prefix) for prefix in self.prefixes]
        if all(problems):
            _, reason = max((problem for problem in problems if problem), key=lambda problem: problem[0])
            raise RewardError(reason)
        return found

    def _problem(self, found: Shapes, prefix: str) -> tuple[int, str] | None:
        """How many marks fitted with a prefix, and why the next one did not; None when all do."""
        for fitted, (name, size) in enumerate(self.names.items()):
            sizes = [shape[:1] for key, shape in found.items() if key.startswith(prefix + name)]
            if not sizes:
                return fitted, f"no tensor {prefix}{name}{'*' if name.endswith('.') else ''} among {len(found)}"
            if size is not None and sizes[0] != (size,):
                return fitted, f"{prefix}{name} has {sizes[0][0] if sizes[0] else 'no'} rows, expected {size}"
        never = tuple(prefix + name for name in self.never)
        wrong = next((key for key in found if key.startswith(never)), None) if never else None
        return (len(self.names), f"{wrong} belongs to another variant") if wrong else None

    def _place(self) -> str:
        return " or ".join(f"under {key!r}" if key else "at the top" for key in self.under)


@dataclass(frozen=True)
class KnownFile:
    """One file, or one folder of a model.

    name: as it is published. patterns: names it may have. used_by: scorers by name, or what else it is for; option:
    what in a recipe names it. published: repository or address. recognise: shapes of its tensors; raises RewardError.
    folder: not empty for a folder: by model_type in its config.json it is known whatever it is called. md5: of the
    published file, or the beginning of it that is known.
    """

    name: str
    patterns: tuple[str, ...]
    used_by: str
    option: str
    licence: str
    published: str
    recognise: Recognise
    folder: tuple[str, ...] = ()
    md5: str = ""

    def matches(self, path: Path) -> bool:
        """Whether a path is this, by its name or by what a folder's config.json says."""
        if path.is_dir() != bool(self.folder):
            return False
        named = any(fnmatch(path.name.lower(), pattern.lower()) for pattern in self.patterns)
        return named or (path.is_dir() and _model_type(path).startswith(self.folder))


def folder_shapes(path: Path, model_types: tuple[str, ...]) -> Shapes:
    """Shapes of a model folder in Hugging Face layout, of one file or several. Raises RewardError: of another kind."""
    found = _model_type(path)
    if not found.startswith(model_types):
        said = f"is of type {found!r}" if found else "has no config.json with a model_type"
        raise RewardError(f"the folder {said}, expected {model_types[0]!r}")
    files = sorted(path.glob("*.safetensors")) or sorted(path.glob("pytorch_model*.bin"))
    if not files:
        raise RewardError("the folder has a config.json, but no model.safetensors")
    index = path / "model.safetensors.index.json"
    if index.is_file():
        absent = set(map(str, read_json(index).get("weight_map", {}).values())) - {file.name for file in files}
        if absent:
            raise RewardError(f"the folder lacks {', '.join(sorted(absent))}")
    return {name: shape for file in files for name, shape in read_header(file).named().items()}


def cache_shapes(path: Path) -> Shapes:
    """Nothing, for a Hugging Face cache with one of the models that packages ask for. Raises RewardError otherwise."""
    absent = []
    for name in IN_CACHE:
        try:
            hub.snapshot(path, name)
        except RewardError:
            absent.append(name)
    if len(absent) == len(IN_CACHE):
        raise RewardError(f"the folder is no Hugging Face cache with {' or '.join(IN_CACHE)}")
    return {}


def tokenizer_shapes(path: Path) -> Shapes:
    """Nothing, for a folder with a tokenizer. Raises RewardError otherwise."""
    if not ((path / "tokenizer.json").is_file() or all((path / n).is_file() for n in ("vocab.json", "merges.txt"))):
        raise RewardError("the folder has neither tokenizer.json nor vocab.json with merges.txt")
    return {}


def _model_type(folder: Path) -> str:
    try:
        content = read_json(folder / "config.json")
    except RewardError:
        return ""
    return "audiobox" if "target_transform" in content else str(content.get("model_type", ""))


def _content(header: Header) -> str:
    names = [*(f"{key or 'the top'} ({len(shapes)} tensors)" for key, shapes in header.tensors.items()), *header.others]
    return ", ".join(names[:6]) + (", ..." if len(names) > 6 else "") if names else "nothing"


def _laion(name: str, width: int, fused: bool) -> KnownFile:
    audio, fusion = "audio_branch.patch_embed.", "audio_branch.patch_embed.fusion_model."
    both = ("audio_projection.0.weight", "audio_projection.2.weight", "text_projection.0.weight")
    names: dict[str, int | None] = {f"{audio}proj.weight": width, "text_branch.embeddings.word_embeddings.weight": None}
    names |= dict.fromkeys(both, 512) | {"logit_scale_a": None} | ({fusion: None} if fused else {})
    marks = Marks(names, ("state_dict", ""), ("module.", ""), () if fused else (fusion,))
    return KnownFile(
        f"{name}.pt",
        (f"{name}.pt", f"{name}.safetensors"),
        "laion_clap",
        "options.weights",
        "CC0-1.0, as the package says",
        "lukewys/laion_clap",
        marks.shapes,
    )


def _sync(patterns: tuple[str, ...], training: str, published: str, md5: str) -> KnownFile:
    names: dict[str, int | None] = {"vfeat_extractor.": None, "afeat_extractor.": None}
    names |= dict.fromkeys(("vproj.weight", "aproj.weight", "transformer.OFF_tok", "transformer.MOD_tok"))
    names |= {"transformer.pos_emb_cfg.pos_emb": None, "transformer.off_head.weight": 21}
    marks = Marks(names, ("model", ""))
    use = "synchformer"
    option = "options.weights"
    if patterns == SYNCHFORMER:
        use, option = "synchformer, the flow model", "options.weights; model"
    return KnownFile(patterns[0], patterns, f"{use} ({training})", option, "MIT", published, marks.shapes, md5=md5)


def _crw(name: str) -> KnownFile:
    names: dict[str, int | None] = {"net.conv1.weight": 64, "net.layer1.": None, "net.layer4.": None}
    marks = Marks(names | {"net.fc.weight": 128}, ("state_dict", ""), ("module.", ""))
    where = "IFICL/stereocrw (Dropbox)"
    return KnownFile(f"{name}.pth.tar", (f"{name}.pth*",), "stereo_crw", "options.weights", "MIT", where, marks.shapes)


def _ms_clap(year: int, used_by: str, names: tuple[str, ...]) -> KnownFile:
    ends = ("audio_encoder.projection.", "caption_encoder.projection.", "logit_scale")
    marks = Marks(dict.fromkeys((*names, *ends)), ("model",))
    name = f"CLAP_weights_{year}.pth"
    option = "options.weights" if used_by == "ms_clap" else ""
    return KnownFile(name, (name,), used_by, option, "MIT", "microsoft/msclap", marks.shapes)


def _release_folder(name: str, start: str, use: str, licence: str) -> KnownFile:
    return KnownFile(name, (f"{start}*",), use, "model", licence, name, lambda p: folder_shapes(p, (start,)), (start,))


_AUDIOBOX = ("audiobox", "options.weights", "CC BY 4.0")
_SYNC_SITE = "v-iashin/Synchformer (its own site)"
_PRISM = "FunAudioLLM/PrismAudio"
KNOWN = (
    _ms_clap(2023, "ms_clap", ("audio_encoder.base.htsat.", "caption_encoder.base.wte.weight")),
    _ms_clap(2022, "no scorer", ("audio_encoder.base.conv_block1.", "caption_encoder.base.embeddings.")),
    _laion("music_speech_audioset_epoch_15_esc_89.98", 128, fused=False),
    _laion("music_speech_epoch_15_esc_89.25", 128, fused=False),
    _laion("music_audioset_epoch_15_esc_90.14", 128, fused=False),
    _laion("630k-audioset-best", 96, fused=False),
    _laion("630k-best", 96, fused=False),
    _laion("630k-audioset-fusion-best", 96, fused=True),
    _laion("630k-fusion-best", 96, fused=True),
    KnownFile(
        "a ClapModel folder",
        ("clap-htsat-*", "larger_clap_*"),
        "laion_clap",
        "options.weights",
        "Apache-2.0, as its pages say",
        "laion/clap-htsat-unfused and others",
        lambda path: folder_shapes(path, ("clap",)),
        ("clap",),
    ),
    _sync(SYNCHFORMER, "AudioSet", "hkchengrex/MMAudio, release v0.1", "5b2f5594b0730f70e41e549b7c94390c"),
    _sync(("24-01-04T16-39-21.pt",), "AudioSet", _SYNC_SITE, "54037d2"),
    _sync(("24-01-02T10-00-53.pt",), "VGGSound", _SYNC_SITE, ""),
    _sync(("23-12-23T18-33-57.pt",), "LRS3", _SYNC_SITE, ""),
    KnownFile(
        "audiobox-aesthetics/",
        ("audiobox-aesthetics*", "audiobox_aesthetics*"),
        *_AUDIOBOX,
        "facebook/audiobox-aesthetics",
        audiobox_files.check,
        ("audiobox",),
    ),
    KnownFile(
        "checkpoint.pt",
        ("checkpoint.pt", "audiobox*.pt"),
        *_AUDIOBOX,
        "https://dl.fbaipublicfiles.com/audiobox-aesthetics/checkpoint.pt",
        audiobox_files.check,
    ),
    _crw("FreeMusic-StereoCRW-1024"),
    _crw("FreeMusic-MonoCLR-1024"),
    _crw("FreeMusic-ZeroNCE-1024"),
    KnownFile(
        "hub/",
        ("hub", "huggingface"),
        "ms_clap, laion_clap",
        "options.hub",
        "MIT (gpt2, roberta-base)",
        "gpt2, roberta-base",
        cache_shapes,
        ("a cache",),
    ),
    KnownFile(
        "roberta-base/",
        ("roberta-base*",),
        "laion_clap",
        "options.tokenizer",
        "MIT",
        "FacebookAI/roberta-base",
        tokenizer_shapes,
        ("roberta",),
    ),
    KnownFile(
        MODEL[0],
        MODEL,
        "the flow model",
        "model",
        "Apache-2.0; its README allows research only",
        _PRISM,
        Marks({"model.model.transformer.": None, "conditioner.conditioners.": None}).shapes,
    ),
    KnownFile(
        VAE[0],
        VAE,
        "the flow model's autoencoder",
        "model",
        "Stability AI Community Licence",
        _PRISM,
        Marks({"encoder.": None, "decoder.": None}, ("state_dict", ""), VAE_PREFIXES).shapes,
    ),
    _release_folder(
        "google/videoprism-lvt-large-f8r288", "videoprism", "the flow model's video features", "Apache-2.0"
    ),
    _release_folder(
        "google/t5gemma-l-l-ul2-it", "t5gemma", "the flow model's text features", "Gemma Terms of Use, to be accepted"
    ),
)
"""Everything `prism weights check` looks for, in the order it is shown."""
