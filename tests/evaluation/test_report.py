import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from evaluation import sample_views
from evaluation.report import write_report
from evaluation.run_data import load_run
from evaluation.sections import conflict_rows
from settings import PrismError
from tests.evaluation.conftest import metrics_line, score_block, summary

VOID = {"meta", "link", "br", "img", "input", "hr"}


class Balance(HTMLParser):
    """Fails on tags that are closed in another order than opened, and gathers text and attributes."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.text: list[str] = []
        self.attributes: list[tuple[str, str]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes += [(name, value or "") for name, value in attrs]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if not self.open or self.open[-1] not in ("script", "style"):
            self.text.append(data)


def page_of(run: Path) -> tuple[str, Balance]:
    """Visible text with single spaces, and the parsed page."""
    parser = Balance()
    parser.feed(write_report(run).read_text(encoding="utf-8"))
    assert parser.open == []
    return re.sub(r"\s+", " ", " ".join(parser.text)), parser


def rewrite(run: Path, **changes: object) -> None:
    (run / "summary.json").write_text(json.dumps({**summary(), **changes}))


def test_a_finished_run_is_told_completely(run_dir: Path) -> None:
    text, page = page_of(run_dir)
    for part in (
        "+0.250",
        "0.500 before, 0.750 after",
        "rose by more than two standard errors",
        "Before, guidance 1.5",
        "over 128 scenes",
        "open when the run was stopped (3)",
        "Onset F1 within 70 ms",
        "+0.40 better",
        "preset fast",
        "Every submitted group was trained, dropped or lost",
        "reward missing (1)",
        "8 280",
        "Some impacts.",
        "12.0, −3.5 ms",
        "visible impacts heard within 70 ms",
        "name: forged",
    ):
        assert part in text, part
    assert "unfinished" not in text
    videos = [value for name, value in page.attributes if name == "src"]
    assert len(videos) == 4
    assert all(v.startswith("data:video/mp4;base64,") for v in videos)


def test_the_page_needs_no_other_file_and_no_network(run_dir: Path) -> None:
    _, page = page_of(run_dir)
    links = [value for name, value in page.attributes if name in ("src", "href", "srcset", "poster", "data")]
    assert all(value.startswith(("data:", "#")) for value in links)
    assert "@import" not in write_report(run_dir).read_text()


def test_a_relative_path_and_a_link_are_fine(run_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(run_dir.parent)
    Path("latest").symlink_to(run_dir.name)
    assert write_report("latest") == run_dir.resolve() / "report.html"


def test_the_picture_is_a_png(run_dir: Path) -> None:
    write_report(run_dir)
    header = (run_dir / "rewards.png").read_bytes()[:24]
    assert header[:8] == b"\x89PNG\r\n\x1a\n"
    assert int.from_bytes(header[16:20]) > 1200


def test_text_from_outside_is_escaped(run_dir: Path) -> None:
    evil = '<script>alert("x")</script>'
    for file in (run_dir / "samples").rglob("*.json"):
        record = json.loads(file.read_text())
        record |= {"caption": evil, "plan": {**record["plan"], "spatial": evil}, "measured": {"temporal": {evil: evil}}}
        record |= {"scores": {**record["scores"], "semantic": None}, "missing": {"semantic": evil}}
        file.write_text(json.dumps(record))
    (run_dir / "config.yaml").write_text(f"name: {evil}\n")
    rewrite(run_dir, preset=evil)
    page = write_report(run_dir).read_text()
    assert evil not in page
    assert page.count("<script>") == 1
    assert "&lt;script&gt;" in page


def test_a_missing_score_says_why(run_dir: Path) -> None:
    file = run_dir / "samples" / "after" / "clip-0.json"
    record = json.loads(file.read_text())
    record["scores"]["spatial"] = None
    file.write_text(json.dumps({**record, "missing": {"spatial": "deadline passed twice"}}))
    text, _ = page_of(run_dir)
    assert "missing: deadline passed twice" in text


def test_an_unfinished_run_never_calls_a_later_score_before(run_dir: Path) -> None:
    (run_dir / "summary.json").unlink()
    with (run_dir / "metrics.jsonl").open("a") as file:
        file.write('{"iteration": 20, "rew')
    text, _ = page_of(run_dir)
    assert "unfinished" in text
    assert "1 unreadable line of metrics.jsonl left out" in text
    assert "after 5 updates" in text
    assert "Some groups are still in flight" in text
    assert not re.search(r"[\d.]+ before", text)


def test_scores_before_training_count_while_a_run_is_unfinished(run_dir: Path) -> None:
    (run_dir / "summary.json").unlink()
    (run_dir / "before.json").write_text(json.dumps({"scores": score_block(0.4), "guided": {"2": score_block(0.45)}}))
    text, _ = page_of(run_dir)
    assert "unfinished" in text
    assert re.search(r"0\.400 before, 0\.\d+ after 20 updates", text)
    assert "Before, guidance 2" in text
    assert "standard errors come with the summary" in text


def test_a_stopped_run_says_so(run_dir: Path) -> None:
    rewrite(run_dir, stopped=True)
    assert "stopped early" in page_of(run_dir)[0]


def test_the_paired_gain_decides(run_dir: Path) -> None:
    blocks = {"before": score_block(0.5), "after": score_block(0.52)}
    rewrite(run_dir, heldout={**blocks, "gain": {n: {"mean": 0.02, "stderr": 0.002} for n in score_block(0)}})
    assert "rose by more than two standard errors" in page_of(run_dir)[0]


@pytest.mark.parametrize("keep", ["config.yaml", "metrics.jsonl", "summary.json"])
def test_any_single_file_is_enough(run_dir: Path, keep: str) -> None:
    for name in {"config.yaml", "metrics.jsonl", "summary.json"} - {keep}:
        (run_dir / name).unlink()
    for file in (run_dir / "samples").rglob("*.*"):
        file.unlink()
    text, _ = page_of(run_dir)
    assert "is not there yet" in text


def test_damaged_samples_are_reported_and_left_out(run_dir: Path) -> None:
    after = run_dir / "samples" / "after"
    (after / "clip-0.json").write_text('{"clip_id": "clip-0", "sec')
    (after / "clip-1.mp4").write_bytes(b"not a video")
    (run_dir / "samples" / "before" / "clip-1.mp4").unlink()
    text, _ = page_of(run_dir)
    assert "samples/after/clip-0.json cannot be read" in text
    assert "clip-1.mp4" in text
    assert "The video is missing" in text


def test_large_videos_are_linked(run_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sample_views, "EMBED_LIMIT", 0)
    text, page = page_of(run_dir)
    assert "linked, not embedded" in text
    assert ("src", "samples/after/clip-0.mp4") in page.attributes


@pytest.mark.parametrize(
    ("after", "stderr", "words"),
    [
        (0.75, 0.01, "All four dimensions rose by more than two standard errors"),
        (0.52, 0.01, "semantic, temporal, aesthetic and spatial by less than two standard errors"),
        (0.49, 0.01, "Semantic, temporal, aesthetic and spatial did not rise"),
    ],
)
def test_the_verdict_is_honest(run_dir: Path, after: float, stderr: float, words: str) -> None:
    rewrite(run_dir, heldout={"before": score_block(0.5), "after": score_block(after)})
    assert words in page_of(run_dir)[0]


def test_lost_balance_is_shown(run_dir: Path) -> None:
    rewrite(run_dir, groups={"submitted": 10, "accepted": 9, "trained": 9, "dropped": 0, "lost": 0})
    assert "does not balance" in page_of(run_dir)[0]


def test_resumed_lines_replace_earlier_ones(run_dir: Path) -> None:
    with (run_dir / "metrics.jsonl").open("a") as file:
        file.write(json.dumps({**metrics_line(3), "total": 0.99}) + "\n")
    run = load_run(run_dir)
    assert len(run.metrics) == 20
    assert dict(run.training("total"))[4] == 0.99


def test_conflicts_are_shown_most_opposed_first(run_dir: Path) -> None:
    lines = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    for place, line in enumerate(lines):
        line["conflict"] = {"semantic/temporal": 0.5, "temporal/spatial": -0.25 if place else None}
    (run_dir / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    rows = conflict_rows(load_run(run_dir))
    assert rows == [("temporal and spatial", -0.25, -0.25), ("semantic and temporal", 0.5, 0.5)]
    assert "Temporal and spatial" in write_report(run_dir).read_text()


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PrismError, match="not a run folder"):
        write_report(tmp_path / "nowhere")
    with pytest.raises(PrismError, match="holds none of"):
        write_report(tmp_path)


def test_a_full_disk_leaves_the_old_report(run_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old = write_report(run_dir).read_text()

    def full(self: Path, *_: object, **__: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(PrismError, match="No space left"):
        write_report(run_dir)
    assert (run_dir / "report.html").read_text() == old
