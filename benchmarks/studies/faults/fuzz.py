"""Fuzz everything that reads: only the library's own errors of one line, in bounded time and memory.

    python benchmarks/studies/faults/fuzz.py --inputs 200000
    python benchmarks/studies/faults/fuzz.py --targets checkpoint --first 1234 --inputs 1

Input number n is made from n alone: a valid file of one of the readers is mutated (bits, cuts, repeats, numbers at the
edges, pieces of other files) and read. Files with checksums are mutated also below them, with the sums set right.
What is read without an error must be used without one. It prints one row a reader, and the number and the error of each
input that fell. guided.py beside it lets coverage choose the mutations.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import gzip
import hashlib
import io
import json
import math
import random
import resource
import shutil
import signal
import sys
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import scipy.sparse as sp
import torch
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors

sys.path.insert(0, str(Path(__file__).parent))

from process import scratch

from infodcl_geo.channels.knowledge import load_knowledge
from infodcl_geo.channels.modal import load_features
from infodcl_geo.channels.social import load_social
from infodcl_geo.cli import main as command_line
from infodcl_geo.comparison import Entry, TableFile
from infodcl_geo.configuration import configure
from infodcl_geo.data.ids import IdMap
from infodcl_geo.data.interactions import Interactions, Split, load_interactions
from infodcl_geo.errors import InfodclGeoError
from infodcl_geo.evaluation.lists import read_lists
from infodcl_geo.experiment import run
from infodcl_geo.graph.graph import normalized_adjacency
from infodcl_geo.models.mf import MatrixFactorization
from infodcl_geo.recommender import Recommender
from infodcl_geo.settings import read_settings, read_variants
from infodcl_geo.training.checkpoint import checkpoints
from infodcl_geo.training.loop import train
from infodcl_geo.training.options import CheckpointOptions, TrainOptions

SECONDS = 20.0
"""Of the processor that one input may take; it may wait ten times as long, on a machine that does other work beside."""
ALLOWANCE, RATIO = 384 << 20, 250
"""Memory that one input may take: 384 MiB, and 250 times its size (a packed text may be 200 times as long unpacked)."""


REPORT = 10_000
"""Inputs after which it says how far it is."""


class Fell(Exception):
    """What no input may lead to."""


@dataclass
class Target:
    """One reader.

    Args:
        name: in the table.
        seeds: valid files by the name (whose ending matters) under which they are read; one is mutated at a time.
        read: reads the file; whatever it raises but the library's own errors, fell.
        folder: the seeds are the files of one folder, which is read.
        mend: sets right what a mutation broke, such as a checksum: half of the inputs go through it.
    """

    name: str
    seeds: dict[str, bytes]
    read: Callable[[Path], object]
    folder: bool = False
    mend: Callable[[str, bytes, random.Random], bytes] | None = None
    counts: Counter[str] = field(default_factory=Counter)
    slowest: float = 0.0
    largest: int = 0


# ---------------------------------------------------------------------------------------------------------------------
# Mutations


_PIECES = [
    b"", b"\0", b"\n", b"\r\n", b"\r", b"\t", b",", b"|", b'"', b"\\", b"=", b"-1", b"0", b"1", b"1e309", b"nan", b"inf",  # noqa: E501
    b"9223372036854775807", b"9223372036854775808", b"-9223372036854775809", b"99999999999999999999", b"\xff", b"\xfe",
    b"\xff\xff\xff\xff", b"\xff\xff\xff\x7f", b"\x00\x00\x00\x80", b"\xef\xbb\xbf", b"\xed\xa0\x80", b"\xf4\x90\x80\x80",  # noqa: E501
    b"\x1b[2J", b"\xe2\x80\xae", b"null", b"true", b"[]", b"{}", b"[[", b"&a", b"*a", b"!!python/object:os.system",
    b"%s%s%n", b"../../x", b"NaN", b"Infinity", b"#", b"::", b"u1", b"i1", b"\xf0\x9f\xa6\x8a",
]  # fmt: skip


def mutated(content: bytes, rng: random.Random, others: list[bytes]) -> bytes:
    """``content`` after one to six random changes."""
    data = bytearray(content)
    for _ in range(rng.choice((1, 1, 1, 2, 3, 6))):
        size = len(data)
        at = rng.randrange(size + 1)
        end = min(size, at + rng.choice((1, 1, 2, 4, 8, 32, 200)))
        kind = rng.randrange(10)
        if kind == 0 and size:
            data[rng.randrange(size)] ^= 1 << rng.randrange(8)
        elif kind == 1 and size:
            data[rng.randrange(size)] = rng.randrange(256)
        elif kind == 2:
            del data[at:end]
        elif kind == 3:
            data[at:at] = data[at:end] * rng.choice((1, 2, 50))
        elif kind == 4:
            data[at:at] = rng.choice(_PIECES)
        elif kind == 5:
            data[at:end] = rng.choice(_PIECES)
        elif kind == 6:
            del data[at:]
        elif kind == 7:
            other = rng.choice(others)
            start = rng.randrange(len(other) + 1)
            data[at:at] = other[start : start + rng.choice((4, 30, 300))]
        elif kind == 8:
            lines = bytes(data).split(b"\n")
            lines.insert(rng.randrange(len(lines) + 1), lines[rng.randrange(len(lines))])
            del lines[rng.randrange(len(lines))]
            data = bytearray(b"\n".join(lines))
        else:
            words = list(_numbers(data))
            if words:
                start, stop = rng.choice(words)
                data[start:stop] = rng.choice(_PIECES[10:22])
        if len(data) > 1 << 16:
            del data[1 << 16 :]
    return bytes(data)


def _numbers(data: bytearray) -> Iterator[tuple[int, int]]:
    import re

    return (match.span() for match in re.finditer(rb"-?\d+", bytes(data[: 1 << 14])))


# ---------------------------------------------------------------------------------------------------------------------
# Readers


def _pairs(count: int = 60) -> list[tuple[int, int]]:
    rng = random.Random(1)
    return sorted({(rng.randrange(12), rng.randrange(15)) for _ in range(count)})


def _interactions(path: Path) -> None:
    data = load_interactions(path, split=Split("ratio", 0.1, 0.2), min_rating=None)
    sizes = torch.tensor([[data.num_users], [data.num_items]])
    for part in (data.train, data.valid, data.test):
        if part.numel() and (bool((part < 0).any()) or bool((part >= sizes).any())):
            raise Fell("rows outside of the ids")
    data.summary()
    IdMap.from_json(data.user_ids.to_json())


def _saved(write: Callable[[io.BytesIO], object]) -> bytes:
    stream = io.BytesIO()
    write(stream)
    return stream.getvalue()


def _files() -> dict[str, bytes]:
    """Interactions in every format."""
    pairs = _pairs()
    array = np.array(pairs)
    frame = pl.DataFrame({
        "user_id": [f"u{u}" for u, _ in pairs], "item_id": [i for _, i in pairs],
        "rating": [float(1 + (u + i) % 5) for u, i in pairs], "timestamp": [1000 + 7 * u + i for u, i in pairs],
    })  # fmt: skip
    csv = frame.write_csv().encode()
    ones = sp.csr_matrix((np.ones(len(pairs)), tuple(array.T)))
    lists: dict[int, list[int]] = {}
    for user, item in pairs:
        lists.setdefault(user, []).append(item)
    rows = frame.to_dicts()
    dates = "user,item,date\n" + "".join(f"{u},{i},{1 + u:02}/{1 + i:02}/2020 10:00\n" for u, i in pairs)
    return {
        "a.csv": csv,
        "b.tsv": frame.write_csv(separator="\t").encode(),
        "c.inter": b"user_id:token\titem_id:token\trating:float\n" + b"".join(b"a%d\tb%d\t3\n" % pair for pair in pairs),  # noqa: E501
        "d.txt": b"".join(b"%d %d\n" % pair for pair in pairs),
        "e.txt": "".join(" ".join(map(str, [u, *items])) + "\n" for u, items in lists.items()).encode(),
        "f.dat": b"".join(b"%d::%d::4::97830%d\n" % (*pair, k) for k, pair in enumerate(pairs)),
        "g.csv.gz": gzip.compress(csv),
        "h.npy": _saved(lambda stream: np.save(stream, array)),
        "i.npz": _saved(lambda stream: sp.save_npz(stream, ones)),
        "j.parquet": _saved(frame.write_parquet),
        "k.jsonl": "".join(json.dumps(row) + "\n" for row in rows).encode(),
        "l.json": json.dumps(rows).encode(),
        "m.csv": dates.encode(),
        "n.csv": b'user,item\n' + b"".join(b'"u,%d","i ""%d"""\n' % pair for pair in pairs),
    }  # fmt: skip


def _data() -> Interactions:
    train = torch.tensor(_pairs()).T
    users, items = IdMap([f"u{k:02}" for k in range(12)]), IdMap(np.arange(15))
    none = torch.empty(2, 0, dtype=torch.long)
    return Interactions(
        train[:, :-8], train[:, -8:-4], train[:, -4:] if train.numel() else none, 12, 15, users, items, "d"
    )


def _config_file(path: Path) -> None:
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code = command_line(["train", "--config", str(path), "--print_config"])
        except SystemExit as error:
            code = int(error.code or 0)
    lines = [line for line in err.getvalue().splitlines() if line]
    if code not in (0, 1, 2) or (code != 0 and len(lines) != 1):
        raise Fell(f"ends with {code} and says {err.getvalue()[-300:]!r}")
    if code:
        raise InfodclGeoError(lines[0])


def _table(seeds: dict[str, bytes], kept: Entry) -> Callable[[Path], None]:
    def read(folder: Path) -> None:
        table = TableFile(folder / "table.csv")
        table.rows()
        table.find(kept.row["settings"], list(kept.per_user), "mf")
        table.others(kept)
        table.add(kept)
        if table.find(kept.row["settings"], list(kept.per_user), "mf") is None:
            raise Fell("a run that was added is not found")

    return read


def _signed_checkpoint(_: str, content: bytes, rng: random.Random) -> bytes:
    """A checkpoint of training of which the description or a tensor is another, with the right digest."""
    try:
        size = int.from_bytes(content[:8], "little")
        held = json.loads(content[8 : 8 + size])["__metadata__"]
        described, tensors = json.loads(held["infodcl_geo"]), load_tensors(content)
    except Exception:
        return content
    if rng.random() < 0.6:
        _damage_json(described, rng)
    else:
        _damage_tensors(tensors, rng)
    return _signed(described, tensors)


def _without_times(content: bytes) -> bytes:
    """A checkpoint of training without what it took: an input is made from its number alone."""
    size = int.from_bytes(content[:8], "little")
    described = json.loads(json.loads(content[8 : 8 + size])["__metadata__"]["infodcl_geo"])
    described["seconds"] = 1.0
    described["result"]["epoch_seconds"] = [1.0 for _ in described["result"]["epoch_seconds"]]
    for row in described["result"]["history"]:
        row["seconds"] = 1.0
    return _signed(described, load_tensors(content))


def _signed(described: Any, tensors: dict[str, torch.Tensor]) -> bytes:
    forged = bytearray(save_tensors(tensors, {"sha256": "0" * 64, "infodcl_geo": json.dumps(described)}))
    place = forged.index(b'"sha256":"') + 10
    forged[place : place + 64] = hashlib.sha256(forged).hexdigest().encode()
    return bytes(forged)


_VALUES: list[Any] = [
    None, True, 0, -1, 1, 2**31, 2**63, -(2**70), 1.5, 1e400, float("nan"), "", "x", "\x1b[0m", "a\nb", [], {}, [[]],
    [1, "a"], {"a": {"b": []}}, "9" * 400, "\ud800",
]  # fmt: skip


def _damage_json(value: Any, rng: random.Random) -> None:
    """Replace, remove or add something somewhere in nested lists and dictionaries."""
    spots: list[tuple[Any, Any]] = []

    def walk(inner: Any) -> None:
        if len(spots) < 5000 and isinstance(inner, dict | list):
            for key in list(inner) if isinstance(inner, dict) else range(len(inner)):
                spots.append((inner, key))
                walk(inner[key])

    walk(value)
    for _ in range(rng.choice((1, 1, 2))):
        if not spots:
            return
        owner, key = rng.choice(spots)
        with contextlib.suppress(KeyError, IndexError):
            if rng.random() < 0.2:
                del owner[key]
            else:
                owner[key] = rng.choice(_VALUES)


def _damage_tensors(tensors: dict[str, torch.Tensor], rng: random.Random) -> None:
    name = rng.choice(sorted(tensors))
    value = tensors[name]
    kind = rng.randrange(7)
    if kind == 0:
        del tensors[name]
    elif kind == 1:
        tensors[name] = value[: rng.randrange(len(value) + 1)].clone() if value.dim() else value.reshape(1)
    elif kind == 2:
        kinds = (torch.float16, torch.float64, torch.int32, torch.int64, torch.uint8, torch.bool)
        tensors[name] = value.to(rng.choice(kinds))
    elif kind == 3 and value.numel():
        changed = value.clone().reshape(-1)
        bad = (float("nan"), float("inf"), -1e30) if value.is_floating_point() else (-1, 2**31 - 1, 0)
        changed[rng.randrange(changed.numel())] = (
            rng.choice(bad) if value.dtype not in (torch.uint8, torch.bool) else 255
        )
        tensors[name] = changed.reshape(value.shape)
    elif kind == 4:
        tensors[name] = value.reshape(-1) if value.dim() != 1 else value.unsqueeze(0)
    elif kind == 5:
        tensors[name] = tensors[rng.choice(sorted(tensors))].clone()
    else:
        tensors[rng.choice(("x", "state.users", "train", "a\nb"))] = torch.zeros(rng.randrange(3), 2)


def _resign_model(name: str, content: bytes, rng: random.Random) -> bytes:
    """The index of a model with something else in it and the right hash of its content."""
    if name != "model.json":
        return content
    try:
        index = json.loads(content)
        _damage_json(index["about"]["content"] if rng.random() < 0.7 else index, rng)
        held = json.dumps(index["about"]["content"], sort_keys=True)
        index["about"]["sha256"] = hashlib.sha256(held.encode()).hexdigest()
        return json.dumps(index).encode()
    except Exception:
        return content


def _use_model(folder: Path) -> None:
    recommender = Recommender.load(folder)
    for answer in recommender.recommend([recommender.user_ids.raw[0]], 4):
        if not np.isfinite(answer.scores).all():
            raise Fell("scores that are not finite")


def _damaged_weights(name: str, content: bytes, rng: random.Random) -> bytes:
    with contextlib.suppress(Exception):
        tensors = load_tensors(content)
        _damage_tensors(tensors, rng)
        return save_tensors({key: value.contiguous() for key, value in tensors.items()})
    return content


def _with_hash(weights: str) -> Callable[[Path], None]:
    """Set the hash of the weights in the index right before the model is used."""

    def read(folder: Path) -> None:
        content = (folder / weights).read_bytes()
        entry = {"file": weights, "sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}
        with contextlib.suppress(ValueError, KeyError, TypeError, AttributeError):
            index = json.loads((folder / "model.json").read_bytes())
            index["files"]["model.safetensors"] = entry
            (folder / "model.json").write_text(json.dumps(index))
        _use_model(folder)

    return read


def _columns_of(frame: pl.DataFrame) -> dict[str, bytes]:
    text = frame.write_csv().encode()
    rows = "".join(json.dumps(row) + "\n" for row in frame.to_dicts())
    return {
        "a.csv": text,
        "b.parquet": _saved(frame.write_parquet),
        "c.csv.gz": gzip.compress(text),
        "d.jsonl": rows.encode(),
    }


def targets(work: Path) -> list[Target]:
    """All readers with their valid files.

    Args:
        work: a folder for files that some need.
    """
    data = _data()
    files = _files()
    folder = {"train.txt": files["d.txt"], "valid.txt": b"0 1\n1 2\n", "test.txt": b"2 3\n3 1\n"}
    edges = pl.DataFrame({"user": [f"u{k:02}" for k in range(10)], "friend": [f"u{k + 1:02}" for k in range(10)]})
    triples = pl.DataFrame({"head": list(range(14)), "relation": ["of"] * 14, "tail": [100 + k % 3 for k in range(14)]})
    features = np.arange(45, dtype=np.float32).reshape(15, 3) + 1
    table = pl.DataFrame({"item_id": list(range(15)), "a": features[:, 0].tolist(), "b": features[:, 1].tolist()})
    matrices = {
        "a.npy": _saved(lambda stream: np.save(stream, features)),
        "b.npz": _saved(lambda stream: np.savez_compressed(stream, features=features, ids=np.arange(15))),
        "c.safetensors": save_tensors({"features": torch.from_numpy(features), "ids": torch.arange(15)}),
        "d.parquet": _saved(table.write_parquet),
        "e.csv": table.write_csv().encode(),
        "f.npz": _saved(lambda stream: sp.save_npz(stream, sp.csr_matrix(features))),
    }
    lists = pl.DataFrame({"user": ["u00", "u00", "u01"], "item": [3, 4, 5], "rank": [1, 2, 1]})
    outcome = run(data, configure("mf", epochs=1, dim=4, eval_every=1), ks=(2, 20), progress=False)
    Recommender.from_run(outcome, data).save(work / "model")
    model = {
        path.name: path.read_bytes() for path in (work / "model").iterdir() if path.suffix in (".json", ".safetensors")
    }
    weights = next(name for name in model if name.endswith(".safetensors"))
    old = Path(__file__).resolve().parents[3] / "tests" / "data" / "checkpoint_v2"
    model_2 = {path.name: path.read_bytes() for path in old.iterdir()}
    metrics = {"config": outcome.config.to_dict(), "test": outcome.test, "data": "d"}

    def small() -> MatrixFactorization:
        torch.manual_seed(0)
        return MatrixFactorization(normalized_adjacency(data.train, 12, 15), 12, 15, dim=4)

    options = TrainOptions(epochs=2, batch_size=32, eval_every=1)
    train(small(), data, options, progress=False, checkpoint=CheckpointOptions(work / "training"))
    checkpoint = checkpoints(work / "training")[0]
    checkpoint.write_bytes(_without_times(checkpoint.read_bytes()))

    def resume(path: Path) -> None:
        longer = TrainOptions(epochs=3, batch_size=32, eval_every=1)
        place = path.parent / "resumed"
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir()
        shutil.copyfile(path, place / checkpoint.name)
        train(small(), data, longer, progress=False, resume=place)

    row = {"data": "d", "model": "mf", "label": "mf", "seed": 0, "test recall@2": 0.5, "seconds_per_epoch": 0.1}
    kept = Entry({**row, "key": "0" * 16, "settings": "s"}, {"recall@2": np.ones(3)}, "mf")
    kept.row["key"] = hashlib.sha256(b"s").hexdigest()[:16]
    TableFile(work / "table.csv").add(kept)
    other = Entry(
        {**row, "seed": 1, "key": hashlib.sha256(b"t").hexdigest()[:16], "settings": "t"}, kept.per_user, "mf"
    )
    TableFile(work / "table.csv").add(other)
    tables = {name: (work / name).read_bytes() for name in ("table.csv", "table.npz")}
    settings = b"mf: {num_layers: 1, l2: 0.011, lr: 0.005}\nease: {l2: 200}\n"
    ids = {"a.json": IdMap(np.arange(9)).to_json().encode(), "b.json": data.user_ids.to_json().encode()}
    return [
        Target("interactions", files, _interactions),
        Target("folders", folder, _interactions, folder=True),
        Target("social", _columns_of(edges), lambda path: load_social(path, data)),
        Target("knowledge", _columns_of(triples), lambda path: load_knowledge(path, data)),
        Target("features", matrices, lambda path: load_features(path, data)),
        Target("lists", _columns_of(lists), lambda path: read_lists(path, data)),
        Target("ids", ids, lambda path: IdMap.from_json(path.read_bytes().decode(errors="surrogateescape"))),
        Target("settings", {"a.yaml": settings, "b.json": b'{"mf": {"lr": 0.01}}'}, read_settings),
        Target("variants", {"a.yaml": b"one: {model: mf, lr: 0.1}\ntwo: {model: ease}\n"}, read_variants),
        Target(
            "configurations",
            {"metrics.json": json.dumps(metrics).encode(), "a.yaml": b"model: mf\nlr: 0.01\nks: [5, 10]\nseed: 3\n"},
            _config_file,
        ),
        Target("tables", tables, _table(tables, kept), folder=True),
        Target("training", {"a.safetensors": checkpoint.read_bytes()}, resume, mend=_signed_checkpoint),
        Target("models", model, _use_model, folder=True, mend=_resign_model),
        Target("weights", model, _with_hash(weights), folder=True, mend=_damaged_weights),
        Target("models of 0.2", model_2, _use_model, folder=True, mend=_resign_model_2),
    ]


def _resign_model_2(name: str, content: bytes, rng: random.Random) -> bytes:
    """Below the syntax: another value in the JSON, another tensor in the weights."""
    with contextlib.suppress(Exception):
        if name.endswith(".json"):
            value = json.loads(content)
            _damage_json(value, rng)
            return json.dumps(value).encode()
        tensors = load_tensors(content)
        _damage_tensors(tensors, rng)
        return save_tensors({key: value.contiguous() for key, value in tensors.items()})
    return content


# ---------------------------------------------------------------------------------------------------------------------
# One input


def _status(name: str) -> int:
    with open("/proc/self/status") as file:
        return next((int(line.split()[1]) << 10 for line in file if line.startswith(name)), 0)


@contextlib.contextmanager
def _bounded(size: int, target: Target) -> Iterator[None]:
    """Time and memory of what is inside."""

    def late(number: int, *_: object) -> None:
        waits = number == signal.SIGALRM
        raise Fell(f"waits for {10 * SECONDS:.0f} s" if waits else f"takes more than {SECONDS:.0f} s")

    timers = ((signal.ITIMER_PROF, signal.SIGPROF, SECONDS), (signal.ITIMER_REAL, signal.SIGALRM, 10 * SECONDS))
    before = [signal.signal(number, late) for _, number, _ in timers]
    for timer, _, seconds in timers:
        signal.setitimer(timer, seconds)
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
    start, resting = time.process_time(), _status("VmRSS")
    try:
        yield
    finally:
        for (timer, number, _), handler in zip(timers, before, strict=True):
            signal.setitimer(timer, 0)
            signal.signal(number, handler)
        target.slowest = max(target.slowest, time.process_time() - start)
        used = _status("VmHWM") - resting
        target.largest = max(target.largest, used)
        if used > ALLOWANCE + RATIO * size:
            raise Fell(f"takes {used >> 20} MiB for {size} bytes")


def attempt(target: Target, name: str, content: bytes, work: Path) -> None:
    """Read one content.

    Raises:
        Fell: if it led to anything but a result or an error of ours in one line.
    """
    place = work / "input"
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir()
    if target.folder:
        for other, unchanged in target.seeds.items():
            (place / other).write_bytes(unchanged)
    (place / name).write_bytes(content)
    target.counts["inputs"] += 1
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        try:
            with _bounded(len(content), target):
                target.read(place if target.folder else place / name)
            target.counts["read"] += 1
        except InfodclGeoError as error:
            if len(str(error).splitlines()) != 1:
                raise Fell(f"{type(error).__name__} of several lines: {error}") from error
        except Fell:
            raise
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt):
                raise
            raise Fell(f"{type(error).__name__}: {str(error)[:300]}") from error
    for warning in warned:
        strange = not warning.category.__module__.startswith("infodcl_geo")
        if strange and "Sparse CSR tensor support" not in str(warning.message):
            raise Fell(f"warns {warning.category.__name__}: {str(warning.message)[:200]}")


def made(target: Target, number: int, rng: random.Random | None = None) -> tuple[str, bytes]:
    """The name and the content of an input.

    Args:
        number: of the input.
        rng: what chooses; a generator of that number by default.
    """
    rng = rng or random.Random(f"{target.name} {number}")
    name = rng.choice(sorted(target.seeds))
    content = target.seeds[name]
    if target.mend is not None and rng.random() < 0.5:
        return name, target.mend(name, content, rng)
    return name, mutated(content, rng, list(target.seeds.values()))


def fuzz(
    inputs: int,
    first: int = 0,
    names: list[str] | None = None,
    most: int = 50,
    say: Callable[[str], None] = print,
    minutes: float = math.inf,
) -> tuple[list[Target], list[str]]:
    """Read so many inputs, or as many as there is time for, and return the targets with their counts, and what fell."""
    fallen: list[str] = []
    end = time.monotonic() + 60 * minutes
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (_status("VmSize") + (12 << 30), hard))
    try:
        with scratch() as folder:
            work = Path(folder)
            every = [target for target in targets(work) if names is None or target.name in names]
            for target in every:
                for name, content in target.seeds.items():
                    attempt(target, name, content, work)
                    if target.counts["read"] != target.counts["inputs"]:
                        raise SystemExit(f"{target.name}: {name} is refused as it is, so its mutations test nothing")
                target.counts.clear()
            # Ctrl-C shows what was counted until then.
            with contextlib.suppress(KeyboardInterrupt):
                for number in range(first, first + inputs):
                    if time.monotonic() > end:
                        break
                    if number > first and number % REPORT == 0:
                        say(f"{number - first} inputs, {sum(target.counts['fell'] for target in every)} fell")
                    target = every[number % len(every)]
                    name, content = made(target, number)
                    try:
                        attempt(target, name, content, work)
                    except Fell as error:
                        target.counts["fell"] += 1
                        if len(fallen) < most:
                            fallen.append(f"{target.name} {number} ({name}): {error}")
                            say(fallen[-1])
            for target in every:
                say(
                    f"{target.name}: {target.counts['inputs']} inputs, {target.counts['read']} read, "
                    f"{target.counts['fell']} fell, slowest {target.slowest:.2f} s, largest {target.largest >> 20} MiB"
                )
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
    return every, fallen


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inputs", type=int, default=200_000)
    parser.add_argument("--first", type=int, default=0, help="number of the first input")
    parser.add_argument("--minutes", type=float, default=math.inf, help="stop after so many")
    parser.add_argument("--targets", nargs="+", help="only these readers")
    options = parser.parse_args()
    torch.set_num_threads(1)
    say = functools.partial(print, flush=True)
    every, fallen = fuzz(options.inputs, options.first, options.targets, say=say, minutes=options.minutes)
    print(f"{sum(t.counts['inputs'] for t in every)} inputs, {sum(t.counts['fell'] for t in every)} fell")
    return 1 if fallen else 0


if __name__ == "__main__":
    sys.exit(main())
