"""The reward service: what it costs over the bare scorers, and how each dimension grows with its replicas.

Run: OMP_NUM_THREADS=1 python -m benchmarks.rewards --out runs/rewards.json
Everything is a ratio within one run, measured in turns. A request is one prompt with eight sounds of two seconds; for
the embedded scorers, which need little time for that, it is sixteen prompts, as rollout sends them.
overhead: requests per second through one replica with 8 in flight, against the class in a loop. Each costs 20 ms of its
thread's CPU time, in matrix products (as models work) or in Python alone (which fights the replica's own loop for the
interpreter). replicas: each embedded scorer as a class and behind 1, 2, 4 replicas; beyond the machine's cores
efficiency says nothing. simulated: replicas that wait instead of computing, 1 to 16, which shows what the service
itself allows. caches: the temporal reward of the released size on one clip, with and without the clip's visual tokens.
"""

import argparse
import asyncio
import json
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.intervals import Interval, bootstrap
from benchmarks.machine import describe, sentence
from benchmarks.reward_caches import film
from benchmarks.reward_load import RATE, Batch, bare, deployed, served
from benchmarks.reward_work import PLACE, CpuScorer, WaitScorer
from benchmarks.tables import table
from cluster.config import RayConfig
from cluster.session import ray_session
from rewards_service.build import build_scorer
from rewards_service.config import DIMENSIONS, ScorerConfig
from rewards_service.scores import Scorer

SCHEMA = 1
BACKENDS = ("actors", "serve")
PARTS = ("overhead", "replicas", "simulated", "caches")
IN_FLIGHT = 8
WORK_S = 0.02
WAIT_S = 0.1
NEVER: dict[str, float] = {"num_cpus": 0.01}


def overhead(rounds: int, seconds: float, work_s: float = WORK_S) -> dict[str, Any]:
    """Requests per second per round: the class alone and one replica of each backend, in turns.

    cpu_ms: CPU time of the replica's whole process per request, which other load on the machine does not change.
    """
    batch, kinds = Batch.make(), {}
    for kind in ("numeric", "python"):
        options = {"seconds": work_s, "numeric": kind == "numeric"}
        scorer = {"scorer": f"{PLACE}:CpuScorer", "options": options, **NEVER}
        rates: dict[str, list[float]] = {name: [] for name in ("bare", *BACKENDS)}
        spent: dict[str, list[float]] = {name: [] for name in BACKENDS}
        with deployed("actors", {"work": scorer}) as actors, deployed("serve", {"work": scorer}) as serve:
            for _ in range(rounds):
                rates["bare"].append(bare(CpuScorer(**options), batch, seconds))
                for name, service in (("actors", actors), ("serve", serve)):
                    before = service.health("work")
                    rates[name].append(asyncio.run(served(service.client, "work", batch, seconds, IN_FLIGHT)))
                    after = service.health("work")
                    cpu, calls = after["cpu_s"] - before["cpu_s"], after["calls"] - before["calls"]
                    spent[name].append(1000 * cpu / calls)
        kinds[kind] = {"rates": rates, "cpu_ms": spent}
        print(f"overhead, {kind}: " + ", ".join(f"{name} {np.mean(r):.1f}/s" for name, r in rates.items()), flush=True)
    return {"work_s": work_s, "in_flight": IN_FLIGHT, "kinds": kinds}


def replicas(counts: Sequence[int], rounds: int, seconds: float, dimensions: Sequence[str]) -> dict[str, Any]:
    """Clips per second of each embedded scorer: the class, and so many replicas of it."""
    batch, found = Batch.make(groups=16), {}
    for dimension in dimensions:
        scorer = build_scorer(dimension, ScorerConfig())
        alone = [batch.clips * bare(scorer, batch, seconds) for _ in range(rounds)]
        found[dimension] = {"bare": alone, **_grown(dimension, {}, counts, rounds, seconds, batch)}
    return {"counts": list(counts), "clips": batch.clips, "dimensions": found}


def simulated(counts: Sequence[int], rounds: int, seconds: float, wait_s: float = WAIT_S) -> dict[str, Any]:
    """The same for a scorer that waits."""
    batch = Batch.make()
    alone = [batch.clips * bare(WaitScorer(wait_s), batch, seconds) for _ in range(rounds)]
    scorer = {"scorer": f"{PLACE}:WaitScorer", "options": {"seconds": wait_s}}
    return {"wait_s": wait_s, "counts": list(counts), "bare": alone,
            **_grown("wait", scorer, counts, rounds, seconds, batch)}  # fmt: skip


def _grown(
    name: str, scorer: dict[str, Any], counts: Sequence[int], rounds: int, seconds: float, batch: Batch
) -> dict[str, list[list[float]]]:
    """Clips per second per number of replicas and round, by backend. Replicas are added in place."""
    found: dict[str, list[list[float]]] = {}
    for backend in BACKENDS:
        found[backend] = []
        with deployed(backend, {name: {**scorer, **NEVER}}) as service:
            for count in counts:
                asyncio.run(service.client.scale(name, count))
                rates = [asyncio.run(served(service.client, name, batch, seconds, 4 * count)) for _ in range(rounds)]
                found[backend].append([batch.clips * rate for rate in rates])
                print(f"{name}, {backend}, {count} replicas: {np.mean(found[backend][-1]):.0f} clips/s", flush=True)
    return found


def caches(
    without: Callable[[], Scorer], having: Callable[[], Scorer], batch: Batch, rounds: int, rate: int = RATE
) -> dict[str, Any]:
    """Seconds per sound of a scorer that computes everything anew and of one that keeps what belongs to the clip.

    without, having: make the two scorers. Both score once before anything is timed, which fills the cache.
    """
    scorers = {"without": without(), "with": having()}
    for scorer in scorers.values():
        scorer.score(batch.waveforms, rate, batch.references)
    spent: dict[str, list[float]] = {name: [] for name in scorers}
    for _ in range(rounds):
        for name, scorer in scorers.items():
            began = time.perf_counter()
            scorer.score(batch.waveforms, rate, batch.references)
            spent[name].append((time.perf_counter() - began) / batch.clips)
    return {"clips": batch.clips, "seconds": batch.waveforms.shape[-1] / rate, **spent}


def released_caches(rounds: int) -> dict[str, Any]:
    """`caches` of Synchformer."""
    with film() as case:
        return caches(lambda: case.without, lambda: case.having, case.batch, rounds)


def ratio(over: Sequence[float], under: Sequence[float]) -> Interval:
    """Of the means of two sequences of rounds in turns, with its interval over rounds."""
    a, b = np.asarray(over), np.asarray(under)
    return bootstrap(lambda rows: float(a[rows].mean() / b[rows].mean()), len(a))


def report(found: dict[str, Any]) -> str:
    """The section of docs/benchmarks.md."""
    parts = [f"Machine: {sentence(found['machine'])}; load average {found['load']:.1f} before the first measurement."]
    if "overhead" in found:
        part = found["overhead"]
        head = [f"{1000 * part['work_s']:.0f} ms of CPU", "class, requests/s", *(f"{b}, requests/s" for b in BACKENDS),
                *(f"{b}: throughput lost, %" for b in BACKENDS),
                *(f"{b}: CPU of the replica, ms/request" for b in BACKENDS)]  # fmt: skip
        rows = [
            [kind, *(f"{np.mean(taken['rates'][name]):.1f}" for name in ("bare", *BACKENDS)),
             *(_lost(ratio(taken["rates"][b], taken["rates"]["bare"])) for b in BACKENDS),
             *(f"{np.mean(taken['cpu_ms'][b]):.1f}" for b in BACKENDS)]
            for kind, taken in part["kinds"].items()
        ]  # fmt: skip
        parts.append(table(head, rows))
    if "replicas" in found:
        part, cores = found["replicas"], found["machine"]["cores"] or 1
        head = ["clips/s", "class", *(f"{b}, {n}" for b in BACKENDS for n in part["counts"])]
        rows = [
            [name, f"{np.mean(rates['bare']):.0f}",
             *(_grown_cell(rates[b], part["counts"], k, cores) for b in BACKENDS for k in range(len(part["counts"])))]
            for name, rates in part["dimensions"].items()
        ]  # fmt: skip
        parts.append(table(head, rows))
        parts.append(
            f"Requests of {part['clips']} sounds. In brackets: efficiency against one replica, up to as many as "
            f"there are cores ({cores}), of which Ray and the benchmark itself need a part."
        )
    if "simulated" in found:
        part = found["simulated"]
        head = ["replicas", *(f"{b}, clips/s" for b in BACKENDS), *(f"{b}, efficiency" for b in BACKENDS)]
        rows = [
            [str(count), *(f"{np.mean(part[b][k]):.0f}" for b in BACKENDS),
             *(f"{_efficiency(part[b], part['counts'], k).text(2)}" for b in BACKENDS)]
            for k, count in enumerate(part["counts"])
        ]  # fmt: skip
        parts.append(f"A stage of {1000 * part['wait_s']:.0f} ms that waits, 4 requests in flight a replica.")
        parts.append(table(head, rows))
    if "caches" in found:
        part = found["caches"]
        cheaper = ratio(part["without"], part["with"]).text(0)
        parts.append(
            f"Synchformer at its released size (random weights), one sound of {part['seconds']:.0f} s: "
            f"{np.mean(part['without']):.1f} s a sound when the picture is looked at each time, "
            f"{np.mean(part['with']):.2f} s when its tokens are kept: {cheaper} times less."
        )
    return "\n\n".join(parts)


def _lost(kept: Interval) -> str:
    return Interval(100 * (1 - kept.value), 100 * (1 - kept.high), 100 * (1 - kept.low)).text(1)


def _efficiency(rates: list[list[float]], counts: Sequence[int], k: int) -> Interval:
    found = ratio(rates[k], rates[0])
    share = counts[0] / counts[k]
    return Interval(share * found.value, share * found.low, share * found.high)


def _grown_cell(rates: list[list[float]], counts: Sequence[int], k: int, cores: int) -> str:
    told = f" ({_efficiency(rates, counts, k).value:.2f})" if k and counts[k] <= cores else ""
    return f"{np.mean(rates[k]):.0f}{told}"


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print the section, write one JSON file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/rewards.json"))
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)  # fmt: skip
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=4.0, help="of each measurement")
    parser.add_argument("--counts", type=int, nargs="+", default=[1, 2, 4], help="replicas of the embedded scorers")
    parser.add_argument("--simulated", type=int, nargs="+", default=[1, 2, 4, 8, 16])
    parser.add_argument("--dimensions", nargs="+", default=list(DIMENSIONS))
    options = parser.parse_args(arguments)
    rounds, seconds = options.rounds, options.seconds
    found: dict[str, Any] = {"schema": SCHEMA, "machine": describe(), "load": os.getloadavg()[0]}
    make: dict[str, Callable[[], dict[str, Any]]] = {
        "overhead": lambda: overhead(rounds, seconds),
        "replicas": lambda: replicas(options.counts, rounds, seconds, options.dimensions),
        "simulated": lambda: simulated(options.simulated, rounds, seconds),
        "caches": lambda: released_caches(rounds),
    }
    options.out.parent.mkdir(parents=True, exist_ok=True)
    with ray_session(RayConfig(num_cpus=64, dashboard=False)):
        for part in options.parts:
            found[part] = make[part]()
            options.out.write_text(json.dumps(found), encoding="utf-8")
    print(report(found))


if __name__ == "__main__":
    main()
