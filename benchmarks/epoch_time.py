"""Training time per epoch, side by side: InfoDCL, the baselines of this library, and PyG's own LightGCN.

    python benchmarks/epoch_time.py --data ../shared/data/electronics --out epoch_time.csv \\
        --models infodcl,infodcl-two,mf,lightgcn,simgcl,xsimgcl,pyg-lightgcn

Rounds are interleaved: each trains one epoch of every model in turn, so that whatever else happens on the machine hits
all of them. All models have the same batch size, embedding size, number of layers and sampler, and those of the library
the Adam that they are trained with by default. ``--data generated`` is
a graph of the size of the paper's Amazon-Electronics (32,886 users, 52,974 items, 337,837 interactions).

With ``--quality FILE`` each model is then trained with its own default settings until validation stops it, and the
seconds until its best epoch are written with everything that happens once; ``--figure FILE`` draws time per epoch
against Recall@20 (the paper's Figure 3) and validation over time.
"""

from __future__ import annotations

import argparse
import multiprocessing
import platform
import statistics
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from tabulate import tabulate
from torch import Tensor

from infodcl_geo import experiment
from infodcl_geo.configuration import Config, configure
from infodcl_geo.data.generated import power_law_graph
from infodcl_geo.data.interactions import Interactions, load_interactions
from infodcl_geo.graph.graph import WITH_TORCH_SPARSE, csr_parts, normalized_adjacency
from infodcl_geo.models import Model
from infodcl_geo.models.base import Batch
from infodcl_geo.models.options import Init
from infodcl_geo.models.scoring import Scorer, dot_scorer
from infodcl_geo.training.loop import rank, set_up, train, train_epoch
from infodcl_geo.training.options import TrainOptions
from infodcl_geo.training.sampling import BatchSampler

TRAINED = ("infodcl", "infodcl-two", "simdiff", "diffcl", "mf", "lightgcn", "simgcl", "xsimgcl")
# The other start: the model, and what its embeddings start from.
STARTED: dict[str, tuple[str, Init]] = {
    "mf-pretrained": ("mf", "pretrained"),
    "lightgcn-pretrained": ("lightgcn", "pretrained"),
    "infodcl-random": ("infodcl", "normal"),
}
PYG = {"pyg-lightgcn": "sparse", "pyg-lightgcn-csr": "csr", "pyg-lightgcn-edge-index": "edge-index"}


class PyGLightGCN(Model):
    """``torch_geometric.nn.models.LightGCN`` behind the interface of the training loop.

    Args:
        data: interactions; the graph is that of the training split.
        dim, num_layers: of the model.
        adjacency: 'sparse' (a ``SparseTensor``, normalised once so that the layers need not), 'csr' (the same as a
            torch CSR tensor) or 'edge-index' (as in PyG's example; each layer normalises it in each call).
        l2: lambda_reg of its BPR loss.
    """

    def __init__(
        self, data: Interactions, *, dim: int, num_layers: int, adjacency: str = "sparse", l2: float = 1e-4
    ) -> None:
        super().__init__()
        from torch_geometric.nn.models import LightGCN

        self.num_users, self.l2 = data.num_users, l2
        once = adjacency != "edge-index"
        self.model = LightGCN(data.num_users + data.num_items, dim, num_layers, normalize=not once)
        self.adjacency: Any
        if once:
            self.adjacency = normalized_adjacency(data.train, data.num_users, data.num_items).matrix
            if adjacency == "csr" and WITH_TORCH_SPARSE:
                pointers, col, value, shape = csr_parts(self.adjacency)
                self.adjacency = torch.sparse_csr_tensor(pointers, col, value, size=shape, check_invariants=False)
        else:
            edges = torch.stack([data.train[0], data.train[1] + data.num_users])
            # Both directions: along user-to-item edges alone nothing would reach the users.
            self.adjacency = torch.cat([edges, edges.flip(0)], dim=1)

    def loss(self, batch: Batch, generator: torch.Generator | None = None) -> dict[str, Tensor]:
        positives, negatives = batch.positives + self.num_users, batch.negatives + self.num_users
        pairs = torch.stack([batch.users.repeat(2), torch.cat([positives, negatives])])
        positive, negative = self.model(self.adjacency, pairs).chunk(2)
        nodes = torch.cat([batch.users, positives, negatives])
        return {"bpr": self.model.recommendation_loss(positive, negative, nodes, self.l2)}

    @torch.no_grad()
    def scorer(self) -> Scorer:
        nodes = self.model.get_embedding(self.adjacency)
        return dot_scorer(nodes[: self.num_users], nodes[self.num_users :])


@dataclass(frozen=True)
class Settings:
    """What all models share."""

    data: str
    batch_size: int
    dim: int
    layers: int
    threads: int

    def load(self) -> Interactions:
        return power_law_graph() if self.data == "generated" else load_interactions(self.data)


@dataclass
class Contestant:
    """One model ready to train, and what it took to get there."""

    name: str
    model: Model
    sampler: BatchSampler
    optimizer: torch.optim.Optimizer
    preparation: dict[str, float]
    epochs: list[float] = field(default_factory=list)
    steps_measured: int = 0

    def epoch(self, limit: float) -> None:
        """Train one epoch, or as many of its steps as fit into ``limit`` seconds, and note the time of an epoch.

        Only PyG's models are cut, whose steps all cost the same.
        """
        if self.name not in PYG:
            start = time.perf_counter()
            train_epoch(self.model, self.sampler, self.optimizer, self.sampler.generator)
            self.epochs.append(time.perf_counter() - start)
            self.steps_measured += len(self.sampler)
            return
        start, steps = time.perf_counter(), 0
        for batch in self.sampler:
            self.optimizer.zero_grad(set_to_none=True)
            torch.stack(list(self.model.loss(batch).values())).sum().backward()
            self.optimizer.step()
            steps += 1
            if time.perf_counter() - start > limit:
                break
        self.epochs.append((time.perf_counter() - start) * len(self.sampler) / steps)
        self.steps_measured += steps


def config_of(name: str) -> Config:
    """The library's default settings of a contestant."""
    if name == "infodcl-two":
        return configure("infodcl", channels="both")
    return configure(*STARTED.get(name, (name,)))


def prepare(name: str, data: Interactions, settings: Settings, config: Config | None = None) -> Contestant:
    """Build a contestant; ``config`` instead of the shared number of layers and sizes."""
    torch.manual_seed(0)
    seconds: dict[str, float] = {}
    training = TrainOptions()
    model: Model
    start = time.perf_counter()
    if name in PYG:
        model = PyGLightGCN(data, dim=settings.dim, num_layers=settings.layers, adjacency=PYG[name])
        seconds["model"] = time.perf_counter() - start
    else:
        if config is None:
            config = config_of(name).changed(dim=settings.dim, num_layers=settings.layers)
        prepared = experiment.prepare(data, config)
        model, seconds, training = prepared.model, prepared.seconds, config.training
    start = time.perf_counter()
    sampler, optimizer = set_up(model, data, replace(training, batch_size=settings.batch_size))
    seconds["model"] += time.perf_counter() - start
    return Contestant(name, model, sampler, optimizer, seconds)


def _resident(field_name: str) -> int:
    """Bytes of a memory field of this process, such as VmRSS and its peak VmHWM (Linux)."""
    text = Path("/proc/self/status").read_text()
    return next(int(line.split()[1]) * 1024 for line in text.splitlines() if line.startswith(field_name))


def extra_memory(name: str, settings: Settings) -> int:
    """Bytes that preparation and an epoch of training add at their peak to a process that has loaded the data."""
    torch.set_num_threads(settings.threads)
    data = settings.load()
    # Reading the files may have taken more than the training will: the peak starts anew.
    Path("/proc/self/clear_refs").write_text("5")
    before = _resident("VmRSS")
    prepare(name, data, settings).epoch(limit=5.0)
    return _resident("VmHWM") - before


def measure(names: list[str], settings: Settings, rounds: int, limit: float, memory: bool) -> pd.DataFrame:
    """Interleaved rounds; one row a model."""
    data = settings.load()
    contestants = [prepare(name, data, settings) for name in names]
    for contestant in contestants:
        contestant.epoch(limit)
        print(f"warm-up: {contestant.name} {contestant.epochs[-1]:.2f} s", flush=True)
        contestant.epochs.clear()
        contestant.steps_measured = 0
    for number in range(rounds):
        for contestant in contestants:
            contestant.epoch(limit)
        shown = ", ".join(f"{one.name} {one.epochs[-1]:.2f} s" for one in contestants)
        print(f"round {number + 1} of {rounds}: {shown}", flush=True)
    medians = {one.name: statistics.median(one.epochs) for one in contestants}
    fastest = min((one for one in contestants if one.name in PYG), key=lambda one: medians[one.name], default=None)
    simgcl = next((one for one in contestants if one.name == "simgcl"), None)
    rows = []
    for one in contestants:
        row: dict[str, Any] = {
            "model": one.name,
            "seconds_per_epoch": medians[one.name],
            "fastest_epoch": min(one.epochs),
            "slowest_epoch": max(one.epochs),
        }
        for title, other in (("pyg_lightgcn", fastest), ("simgcl", simgcl)):
            if other is not None:
                ratios = [mine / its for mine, its in zip(one.epochs, other.epochs, strict=True)]
                row[f"ratio_to_{title}"] = statistics.median(ratios)
        if memory and Path("/proc/self/clear_refs").exists():
            context = multiprocessing.get_context("spawn")
            with context.Pool(1) as pool:
                row["extra_peak_mib"] = pool.apply(extra_memory, (one.name, settings)) / 2**20
        row |= {f"once_{name}_seconds": value for name, value in one.preparation.items()}
        row |= {"rounds": rounds, "steps": len(one.sampler), "steps_measured": one.steps_measured}
        row |= {"data": data.name, "users": data.num_users, "items": data.num_items, "train": data.train.size(1)}
        row |= {"batch_size": settings.batch_size, "dim": settings.dim, "layers": settings.layers}
        row |= {"threads": torch.get_num_threads(), "torch": torch.__version__, "machine": platform.machine()}
        rows.append(row)
    return pd.DataFrame(rows)


def time_to_quality(names: list[str], settings: Settings, limits: dict[str, int]) -> pd.DataFrame:
    """Train each model with its own settings until validation stops it; one row for each validated epoch."""
    data = settings.load()
    rows = []
    for name in names:
        config = config_of(name)
        config = config.changed(**limits, batch_size=settings.batch_size, monitor="recall@20")
        start = time.perf_counter()
        model = prepare(name, data, settings, config).model
        once = time.perf_counter() - start
        result = train(model, data, config.training, ks=(20,))
        test = rank(data, model.scorer(), "test", ks=(20,)).mean()
        rows += [
            {
                "model": name,
                "epoch": int(point["epoch"]),
                "seconds": once + point["seconds"],
                "once_seconds": once,
                "recall@20": point["recall@20"],
                "ndcg@20": point["ndcg@20"],
                "best": int(point["epoch"]) == result.best_epoch,
                "test recall@20": test["recall@20"] if int(point["epoch"]) == result.best_epoch else None,
            }
            for point in result.history
            if "ndcg@20" in point
        ]
        reached = once + next(p["seconds"] for p in result.history if p["epoch"] == result.best_epoch)
        print(f"{name}: {reached:.1f} s to epoch {result.best_epoch}, validation {result.validation}", flush=True)
    return pd.DataFrame(rows)


def draw(times: pd.DataFrame, quality: pd.DataFrame, path: Path) -> None:
    """Time per epoch against Recall@20 on test, and Recall@20 on validation over time."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.2), layout="constrained")
    seconds = times.set_index("model")["seconds_per_epoch"]
    for name, curve in quality.groupby("model", sort=False):
        best = curve[curve["best"]].iloc[0]
        (line,) = right.plot(curve["seconds"], curve["recall@20"], label=name)
        right.plot(best["seconds"], best["recall@20"], "o", color=line.get_color())
        timed = STARTED[str(name)][0] if name in STARTED else name  # another start changes no epoch's time
        if timed in seconds:
            point = (seconds[timed], best["test recall@20"])
            left.plot(*point, "o", color=line.get_color())
            offset = (6, -12) if name in STARTED else (6, 4)
            left.annotate(str(name), point, xytext=offset, textcoords="offset points")
    left.set(xscale="log", xlabel="seconds per epoch", ylabel="Recall@20 (test)")
    left.margins(x=0.25, y=0.15)
    right.set(xscale="log", xlabel="seconds since the start, everything included", ylabel="Recall@20 (validation)")
    figure.legend(*right.get_legend_handles_labels(), loc="outside lower center", ncols=7)
    for axis in (left, right):
        axis.grid(alpha=0.3)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="generated", help="data set in any format the library reads, or 'generated'")
    parser.add_argument(
        "--models",
        default="infodcl,infodcl-two,mf,lightgcn,simgcl,xsimgcl,pyg-lightgcn,pyg-lightgcn-csr,pyg-lightgcn-edge-index",
        help=f"names with commas between: {', '.join((*TRAINED, *STARTED, *PYG))}",
    )
    parser.add_argument("--out", type=Path, required=True, help="CSV file, one row a model")
    parser.add_argument(
        "--rounds",
        type=int,
        default=5,
        help="epochs of each model, after one to warm up; 0 reads --out of an earlier run",
    )
    parser.add_argument("--batch-size", type=int, default=2048)
    parser.add_argument("--dim", type=int, default=64)
    parser.add_argument("--layers", type=int, default=3, help="propagation layers of all models")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--limit", type=float, default=15.0, help="seconds after which a round cuts PyG's epochs")
    parser.add_argument("--no-memory", action="store_true", help="do not measure peak memory, in a process of its own")
    parser.add_argument("--quality", type=Path, help="CSV file for the time to quality")
    parser.add_argument("--quality-models", default=None, help="for --quality, where not all of --models that train")
    parser.add_argument("--epochs", type=int, default=300, help="for --quality")
    parser.add_argument("--eval-every", type=int, default=5, help="for --quality")
    parser.add_argument("--patience", type=int, default=50, help="for --quality, epochs without a better validation")
    parser.add_argument("--figure", type=Path, help="PNG file; needs --quality")
    options = parser.parse_args()
    names = options.models.split(",")
    unknown = [name for name in names if name not in (*TRAINED, *STARTED, *PYG)]
    if unknown:
        parser.error(f"unknown models {', '.join(unknown)}; there are {', '.join((*TRAINED, *STARTED, *PYG))}")
    torch.set_num_threads(options.threads)
    settings = Settings(options.data, options.batch_size, options.dim, options.layers, options.threads)

    if options.rounds:
        times = measure(names, settings, options.rounds, options.limit, not options.no_memory)
        options.out.parent.mkdir(parents=True, exist_ok=True)
        times.to_csv(options.out, index=False)
    else:
        times = pd.read_csv(options.out)
    ratios = [name for name in ("ratio_to_pyg_lightgcn", "ratio_to_simgcl") if name in times]
    shown = times[["model", "seconds_per_epoch", "fastest_epoch", "slowest_epoch", *ratios]]
    print(tabulate(shown, headers="keys", tablefmt="github", floatfmt=".3f", showindex=False))
    if options.quality:
        chosen = options.quality_models.split(",") if options.quality_models else [n for n in names if n not in PYG]
        limits = {"epochs": options.epochs, "eval_every": options.eval_every, "patience": options.patience}
        quality = time_to_quality(chosen, settings, limits)
        quality.to_csv(options.quality, index=False)
        if options.figure:
            draw(times, quality, options.figure)


if __name__ == "__main__":
    main()
