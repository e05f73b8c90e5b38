"""Peak memory and bytes sent of running ranks beside the formulas of the plan, on generated graphs.

    python benchmarks/studies/distributed/measure.py --scales 1 10 --out benchmarks/studies/distributed/measured.csv

Each rank reads its part of parquet files, builds its part of a model and trains some steps; then it ranks all items for
a sample of users. ``memory`` is the largest resident memory from the end of reading to the last step, over what was
resident before; the ranking's is apart, with the state of training in memory. The graph of scale 1 has the sizes of the
paper's Amazon-Electronics.
"""

from __future__ import annotations

import argparse
import csv
import multiprocessing as mp
import os
import pickle
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

USERS, ITEMS, INTERACTIONS = 32_886, 52_974, 337_837
MODELS = ("mf", "lightgcn", "simgcl", "infodcl")
STEPS, JUDGES = 4, 512
COLUMNS = [
    "scale", "model", "ranks", "sent_measured", "sent_planned", "memory_measured", "memory_planned",
    "ranking_measured", "ranking_planned",
]  # fmt: skip


def write_parts(folder: Path, scale: float, parts: int) -> None:
    """A generated graph as files of all ranks' shares."""
    import polars as pl

    from infodcl_geo.data.generated import power_law_graph

    data = power_law_graph(int(USERS * scale), int(ITEMS * scale), int(INTERACTIONS * scale))
    for name in ("train", "valid", "test"):
        place = folder / name
        place.mkdir(parents=True)
        frame = pl.DataFrame(dict(zip(("user", "item"), getattr(data, name).numpy(), strict=True)))
        for number in range(parts):
            frame[number::parts].write_parquet(place / f"part-{number}.parquet")


def resident() -> tuple[int, int]:
    """Resident bytes now and at most since the last :func:`forget`."""
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return tuple(int(lines[name].split()[0]) * 1024 for name in ("VmRSS", "VmHWM"))  # type: ignore[return-value]


def forget() -> None:
    Path("/proc/self/clear_refs").write_text("5")


def of_rank(rank: int, size: int, place: str, model_name: str) -> None:
    import ctypes
    import gc

    import torch

    from infodcl_geo import configure
    from infodcl_geo.data.options import DataOptions
    from infodcl_geo.distributed.build import build_part
    from infodcl_geo.distributed.evaluation import mean_metrics
    from infodcl_geo.distributed.group import start, stop
    from infodcl_geo.distributed.input import load_sharded
    from infodcl_geo.distributed.plan import Shape, bytes_of_step, memory_of_rank
    from infodcl_geo.distributed.workers import Workers
    from infodcl_geo.training.callbacks import Callback
    from infodcl_geo.training.loop import train

    torch.set_num_threads(1)
    os.environ["INFODCL_GEO_TIMEOUT"] = "3000"
    group = start(rank=rank, size=size, url=f"file://{place}/meet-{model_name}")
    data: Any = load_sharded(DataOptions(f"{place}/data"), group)
    config = configure(
        model_name, "normal", num_layers=2, dim=64, **({"candidates": 0} if model_name == "infodcl" else {})
    )

    class Watch(Callback):
        """Ends after some steps; what is sent once an epoch is apart."""

        def __init__(self) -> None:
            self.before: dict[str, int] = {}
            self.sent: list[int] = []
            self.anchors: list[bool] = []
            self.optimizer: Any = None  # its moments are there while a training ranks

        def on_step(self, state: Any) -> None:
            now = sum(group.sent.values())
            if self.before:
                self.sent.append(now - self.before["all"])
                self.anchors.append(state.progress.plan[state.progress.step - 1].anchors.numel() > 0)
            self.before, self.optimizer = {"all": now}, state.optimizer
            if state.progress.step >= STEPS and (model_name != "infodcl" or any(self.anchors)):
                state.stop("measured")

    def session(data: Any, config: Any) -> tuple[Any, Any, Any]:
        if model_name == "infodcl":
            model = informative(data, config, group)
        else:
            config, model = build_part(data, config, group)
        shape = Shape.of(data, model, config, group, sharded=True)
        workers = Workers(group, data.part, sharded=True, recipe=config.recipe, options=config.options)
        watch = Watch()
        train(model, data, config.training, progress=False, callbacks=[watch], processes=workers)
        return shape, model, watch

    # The first of all steps pays for what PyTorch loads with it, so a small graph goes before.
    small: Any = load_sharded(DataOptions(f"{place}/small"), group)
    _, model, _ = session(small, config.changed(dim=64, batch_size=64))
    mean_metrics(model, small, "valid", small.part, group, sharded=True, ks=(20,))
    del model, small
    group.sent.clear()
    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    forget()
    base, _ = resident()
    shape, model, watch = session(data, config)
    _, peak = resident()
    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    forget()
    judges = data.valid[0].unique()[:JUDGES]
    chosen = data.valid[:, torch.isin(data.valid[0], judges)]
    mean_metrics(model, replace(data, valid=chosen), "valid", data.part, group, sharded=True, ks=(20,))
    _, ranking = resident()
    mean = average(watch, shape, model_name)
    planned, memory = bytes_of_step(shape), memory_of_rank(replace(shape, keeps_best=False))  # none was validated
    found = [
        mean,
        sum(planned.values()),
        peak - base,
        memory["training"],
        ranking - base,
        memory["ranking"],
        dict(group.sent),
        planned,
        memory,
    ]
    Path(f"{place}/out-{model_name}-{rank}").write_bytes(pickle.dumps(found))
    stop()


def average(watch: Any, shape: Any, model_name: str) -> float:
    """Mean over an epoch of what a step sends, in which steps with anchors have their share."""
    plain = [sent for sent, has in zip(watch.sent, watch.anchors, strict=True) if not has]
    full = [sent for sent, has in zip(watch.sent, watch.anchors, strict=True) if has]
    if not full or model_name != "infodcl":
        return sum(plain) / len(plain)
    share = min(shape.steps, -(-shape.items // shape.anchor_batch)) / shape.steps
    return (1 - share) * (sum(plain) / len(plain) if plain else 0.0) + share * sum(full) / len(full)


def informative(data: Any, config: Any, group: Any) -> Any:
    """InfoDCL of a rank's rows with random metadata, which take the room and the way of any others."""
    import torch

    from infodcl_geo.distributed.graph import ShardedGraph
    from infodcl_geo.distributed.workers import join
    from infodcl_geo.models.infodcl import InfoDCL

    graph = ShardedGraph(data.train, data.part, group)
    users, items = data.part.sizes
    metadata = {"random": torch.randn(items, 64)}
    model = InfoDCL(graph, users, items, metadata, options=config.options)
    join(model, graph, data.part, group)
    return model


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--scales", nargs="+", type=float, default=[1.0, 10.0])
    parser.add_argument("--models", nargs="+", default=list(MODELS))
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--out", required=True)
    options = parser.parse_args()
    # Memory that is let go of goes back at once, so that what is resident is what is held.
    os.environ["MALLOC_MMAP_THRESHOLD_"] = os.environ["MALLOC_TRIM_THRESHOLD_"] = str(1 << 17)
    context = mp.get_context("forkserver")
    context.set_forkserver_preload(["torch", "polars", "infodcl_geo.distributed.build", "infodcl_geo.distributed.run"])
    rows = []
    for scale in options.scales:
        with tempfile.TemporaryDirectory() as place:
            for folder, size in (("small", 0.01), ("data", scale)):
                writer = context.Process(target=write_parts, args=(Path(place) / folder, size, 4))
                writer.start()
                writer.join()
            for name in options.models:
                started = [
                    context.Process(target=of_rank, args=(rank, options.ranks, place, name))
                    for rank in range(options.ranks)
                ]
                for process in started:
                    process.start()
                for process in started:
                    process.join()
                found = [
                    pickle.loads((Path(place) / f"out-{name}-{rank}").read_bytes()) for rank in range(options.ranks)
                ]
                means = [sum(float(of[column]) for of in found) / len(found) for column in range(6)]
                rows.append([f"{scale:g}", name, options.ranks, *(f"{value / 2**20:.3f}" for value in means)])
                print(rows[-1], [round(a / b, 3) for a, b in zip(means[::2], means[1::2], strict=True)], flush=True)
                print("   sent", {k: round(v / 2**20, 3) for k, v in found[0][6].items()}, flush=True)
                print(
                    "   plan", {k: round(v / 2**20, 3) for k, v in {**found[0][7], **found[0][8]}.items()}, flush=True
                )
    with open(options.out, "w", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows([COLUMNS, *rows])


if __name__ == "__main__":
    main()
