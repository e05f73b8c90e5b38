"""Kill and starve the command line at random moments and at every file operation, and see what is left.

    python benchmarks/studies/faults/kills.py --kills 50
    python benchmarks/studies/faults/kills.py --commands train --kills 5 --stride 10

Each trial starts from an earlier result, stops one command (SIGKILL at a random moment; SIGKILL before the k-th file
operation, also with the file under way cut in half; a disk that is full from the k-th operation on), looks at what is
left, and repeats the command as its messages say until it ends. Nothing earlier may be lost, nothing mixed, and the
numbers must be those of a run that nobody stopped. It prints one row a command with the counts, and ends with status 1
if a trial fell.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import json
import random
import shutil
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))

from process import Ended, Runner, conclude, scratch

from infodcl_geo.files import read_folder
from infodcl_geo.recommender import Recommender
from infodcl_geo.settings import read_settings

WAYS = ("moment", "operation", "torn", "full")
"""Killed at a random moment; before a file operation; the same with the file under way cut; a disk that gets full."""


def write_data(folder: Path) -> Path:
    """A small data set that trains in milliseconds."""
    folder.mkdir(parents=True)
    rng = random.Random(0)
    pairs = sorted({(user, min(rng.randrange(30), rng.randrange(30))) for user in range(25) for _ in range(14)})
    (folder / "ratings.csv").write_text("user,item\n" + "".join(f"u{user},i{item}\n" for user, item in pairs))
    return folder


def require(good: bool, what: str) -> None:
    if not good:
        raise AssertionError(what)


def one_line(ended: Ended) -> None:
    """Whatever went wrong was said in one line, or in lines of warnings."""
    lines = [line for line in ended.err.splitlines() if line.strip()]
    require(ended.code in (0, 1), f"ended with {ended.code}: {ended.err[-300:]!r}")
    require(all(line.startswith(("infodcl-geo: ", "warning: ")) for line in lines), f"said {ended.err[-800:]}")
    require(sum(line.startswith("infodcl-geo: ") for line in lines) == ended.code, f"said {ended.err[-800:]}")


class Train:
    """``train --out``, over an earlier result of another seed where ``earlier``."""

    def __init__(self, data: Path, model: str, *, earlier: bool, options: Sequence[object] = ()) -> None:
        self.name = f"train {model}{' over an earlier result' if earlier else ''}"
        self.words = ["train", "--data", data, "--model", model, "--ks", 5, 20, "--progress=false", *options]
        self.earlier = earlier
        self.trained = model not in ("ease", "popularity", "gfcf")

    def command(self, place: Path) -> list[object]:
        seed = ["--seed", 3] if self.trained else []
        return [*self.words, *seed, "--out", place / "run", *(["--overwrite"] if self.earlier else [])]

    def prepare(self, runner: Runner, place: Path) -> None:
        if self.earlier:
            seed = ["--seed", 9] if self.trained else ["--l2", 7]
            ended = runner.run([*self.words, *seed, "--out", place / "run"])
            require(ended.code == 0, ended.err)

    def numbers(self, place: Path) -> dict[str, Any]:
        folder = place / "run"
        metrics = json.loads((folder / "metrics.json").read_text())
        kept = {name: metrics[name] for name in ("test", "validation", "config") if name in metrics}
        return {"weights": self._weights(folder), "record": kept, "history": self._history(folder)}

    @staticmethod
    def _weights(folder: Path) -> str:
        files = read_folder(folder, index="model.json").files
        return hashlib.sha256(files["model.safetensors"]).hexdigest()

    @staticmethod
    def _history(folder: Path) -> list[dict[str, str]]:
        if not (folder / "history.csv").exists():
            return []
        with (folder / "history.csv").open(newline="") as file:
            return [{k: v for k, v in row.items() if k != "seconds"} for row in csv.DictReader(file)]

    def left(self, place: Path, earlier: dict[str, Any], whole: dict[str, Any]) -> None:
        """The earlier model or the new one, whole, and numbers that are its own."""
        folder = place / "run"
        if not self.earlier and not (folder / "model.json").exists():
            require(not (folder / "metrics.json").exists(), "numbers without a model")
            return
        recommender = Recommender.load(folder)
        require(len(recommender.recommend(["u1"], 3)[0].items) == 3, "a model that recommends nothing")
        known = [numbers["weights"] for numbers in (earlier, whole) if numbers]
        require(self._weights(folder) in known, "a model that is neither the earlier nor the new one")
        if (folder / "metrics.json").exists():
            metrics = json.loads((folder / "metrics.json").read_text())
            for split in ("test", "validation"):
                of_model = json.loads(json.dumps(recommender.record.metrics.get(split)))
                require(of_model == metrics.get(split), f"{split} metrics of another model")

    def again(self, runner: Runner, place: Path) -> None:
        """Repeat it as the messages say."""
        words = [word for word in self.command(place) if word != "--overwrite"]
        more: list[object] = []
        for _ in range(4):
            ended = runner.run([*words, *more])
            if ended.code == 0:
                return
            one_line(ended)
            if "--resume goes on" in ended.err:
                more = ["--resume"]
            elif "leave --resume out" in ended.err:
                more = []
            elif "--overwrite" in ended.err:
                more = ["--overwrite"]
            else:
                break
        raise AssertionError(f"cannot be gone on with: {ended.err[-800:]}")

    def same(self, found: dict[str, Any], whole: dict[str, Any]) -> None:
        for part, value in whole.items():
            require(found[part] == value, f"{part} differ from those of a run that nobody stopped")


class Compare:
    """``compare --out``, to whose table another comparison added runs before."""

    name = "compare"

    def __init__(self, data: Path) -> None:
        shared = [
            "--data",
            data,
            "--ks",
            5,
            20,
            "--progress=false",
            "--dim",
            8,
            "--epochs",
            2,
            "--checkpoint_epochs",
            1,
        ]
        self.before = ["compare", *shared, "--models", "popularity", "lightgcn"]
        self.words = ["compare", *shared, "--models", "popularity", "ease", "mf", "--seeds", 0, 1]

    def command(self, place: Path) -> list[object]:
        return [*self.words, "--out", place / "table.csv"]

    def prepare(self, runner: Runner, place: Path) -> None:
        ended = runner.run([*self.before, "--out", place / "table.csv"])
        require(ended.code == 0, ended.err)

    def numbers(self, place: Path) -> dict[str, Any]:
        """Metrics of each run, and of its users, by its key."""
        with (place / "table.csv").open(newline="") as file:
            rows = {row["key"]: row for row in csv.DictReader(file)}
        with np.load(place / "table.npz", allow_pickle=False) as arrays:
            users = {name: arrays[name].tolist() for name in arrays.files}
        found = {}
        for key, row in rows.items():
            metrics = {name: value for name, value in row.items() if name.startswith(("test ", "valid ", "seed"))}
            of_users = {name: values for name, values in users.items() if name.startswith(key)}
            require(len(of_users) >= 2, f"the run of {row['label']} has no metrics of its users")
            found[key] = {"model": row["model"], **metrics, **of_users}
        return found

    def left(self, place: Path, earlier: dict[str, Any], whole: dict[str, Any]) -> None:
        found = self.numbers(place)
        require(earlier.items() <= found.items(), "an earlier run is lost or changed")
        require(found.items() <= whole.items(), "a run that is not the one that was asked for")

    def again(self, runner: Runner, place: Path) -> None:
        ended = runner.run(self.command(place))
        require(ended.code == 0, f"cannot be gone on with: {ended.err[-800:]}")

    def same(self, found: dict[str, Any], whole: dict[str, Any]) -> None:
        require(
            {k: v for k, v in found.items() if k != "place"} == whole,
            "the runs differ from those of a comparison that nobody stopped",
        )


class Tune:
    """``tune --out --journal``, into a file of settings that holds another model's."""

    name = "tune"
    TRIALS = 4

    def __init__(self, data: Path) -> None:
        self.words = ["tune", "--data", data, "--models", "svd", "--trials", self.TRIALS]
        self.before = ["tune", "--data", data, "--models", "ease", "--trials", 2]

    def command(self, place: Path) -> list[object]:
        return [*self.words, "--out", place / "found.yaml", "--journal", place / "journal"]

    def prepare(self, runner: Runner, place: Path) -> None:
        files = ["--out", place / "found.yaml", "--journal", place / "journal"]
        ended = runner.run([*self.before, *files])
        require(ended.code == 0, ended.err)

    def numbers(self, place: Path) -> dict[str, Any]:
        return {"settings": read_settings(place / "found.yaml"), "trials": self._trials(place)}

    @staticmethod
    def _trials(place: Path) -> dict[str, dict[str, float]]:
        """The value of each finished trial by its options, of each model."""
        import optuna
        from optuna.storages.journal import JournalFileBackend

        optuna.logging.set_verbosity(optuna.logging.ERROR)
        shutil.copyfile(place / "journal", place / "copy")
        storage = optuna.storages.JournalStorage(JournalFileBackend(str(place / "copy")))
        return {
            study.study_name: {
                f"{trial.number}": trial.value
                for trial in study.trials
                if trial.state.is_finished() and trial.value is not None
            }
            for study in (optuna.load_study(study_name=name, storage=storage) for name in storage_names(storage))
        }

    def left(self, place: Path, earlier: dict[str, Any], whole: dict[str, Any]) -> None:
        found = self.numbers(place)
        settings = found["settings"]
        require(settings["ease"] == earlier["settings"]["ease"], "the settings of an earlier search are lost")
        require(found["trials"]["ease"] == earlier["trials"]["ease"], "trials of an earlier search are lost")
        self.known = len(found["trials"].get("svd", {}))

    def again(self, runner: Runner, place: Path) -> None:
        ended = runner.run(self.command(place))
        require(ended.code == 0, f"cannot be gone on with: {ended.err[-800:]}")
        require(ended.seconds < 25, f"waited {ended.seconds:.0f} s for a lock of the dead")

    def same(self, found: dict[str, Any], whole: dict[str, Any]) -> None:
        trials = found["trials"]["svd"]
        require(len(trials) >= self.TRIALS, f"{len(trials)} trials of {self.TRIALS}")
        first = min(trials, key=int)
        require(trials[first] == whole["trials"]["svd"]["0"], "the first trial, of the defaults, has another value")
        require(max(trials.values()) >= trials[first], "the best is below the defaults")
        with (found["place"] / "found.csv").open(newline="") as file:
            listed = [row for row in csv.DictReader(file) if row["model"] == "svd" and row["state"] == "complete"]
        require(len(listed) == len(trials), "the table of trials lacks some")
        best = max(listed, key=lambda row: float(row["valid ndcg@20"]) + float(row["valid recall@20"]) / 2)
        require(found["settings"]["svd"] == json.loads(best["options"]), "the settings are not those of the best trial")


def storage_names(storage: Any) -> list[str]:
    """Names of the studies that a storage holds."""
    return [study.study_name for study in storage.get_all_studies()]


def campaigns(data: Path) -> dict[str, list[Any]]:
    """What each command is tried with."""
    small = ["--epochs", 4, "--eval_every", 2, "--dim", 8, "--batch_size", 64, "--checkpoint_epochs", 1]
    return {
        "train": [
            Train(data, "lightgcn", earlier=False, options=small),
            Train(data, "lightgcn", earlier=True, options=small),
            Train(data, "ease", earlier=True),
        ],
        "compare": [Compare(data)],
        "tune": [Tune(data)],
    }


class Campaign:
    """Trials of one command.

    Args:
        of: the command.
        runner: where it runs.
        place: a folder for its files.
    """

    def __init__(self, of: Any, runner: Runner, place: Path) -> None:
        self.of, self.runner, self.place = of, runner, place
        self.counts: Counter[str] = Counter()
        self.fallen: list[str] = []
        self.start = place / "start"
        self.start.mkdir(parents=True)
        of.prepare(runner, self.start)
        self.earlier = of.numbers(self.start) if any(self.start.iterdir()) else {}
        straight = place / "straight"
        shutil.copytree(self.start, straight)
        ended = runner.run(of.command(straight), counted=True)
        require(ended.code == 0, ended.err)
        self.operations, self.seconds = ended.operations, ended.seconds
        self.whole = of.numbers(straight)

    def trial(self, way: str, at: float) -> None:
        """Stop one run at a moment (seconds) or at a file operation, look, and go on."""
        place = self.place / "trial"
        shutil.rmtree(place, ignore_errors=True)
        shutil.copytree(self.start, place)
        how: dict[str, Any] = {
            "moment": lambda: {"kill_after": at},
            "operation": lambda: {"kill_at": int(at)},
            "torn": lambda: {"kill_at": int(at), "torn": True},
            "full": lambda: {"fail_at": int(at)},
        }[way]()
        ended = self.runner.run(self.of.command(place), **how)
        self.counts[way] += 1
        try:
            if way == "full":
                one_line(ended)
            self.counts["stopped"] += ended.code != 0
            self.of.left(place, self.earlier, self.whole)
            self.of.again(self.runner, place)
            self.of.same({**self.of.numbers(place), "place": place}, self.whole)
            leftovers = [path.name for path in place.rglob("*.tmp-*")]
            require(not leftovers, f"leaves {leftovers}")
        except Exception as error:
            self.fallen.append(f"{self.of.name}, {way} {at:g}: {type(error).__name__}: {error}")

    def trials(self, kills: int, stride: int, seed: int, ways: Sequence[str] = WAYS) -> Iterator[tuple[str, float]]:
        """Random moments, and every ``stride``-th file operation, from one drawn by ``seed``."""
        rng = random.Random(f"{self.of.name} {seed}")
        if "moment" in ways:
            yield from (("moment", rng.uniform(0.0, self.seconds)) for _ in range(kills))
        for way in ways:
            if way != "moment":
                yield from ((way, float(k)) for k in range(rng.randrange(stride), self.operations, stride))


def run(
    commands: Sequence[str],
    kills: int,
    stride: int,
    seed: int,
    ways: Sequence[str],
    say: Callable[[str], None] = print,
    runner: Runner | None = None,
) -> list[Campaign]:
    """All trials of some commands, run by ``runner`` or one of its own."""
    done = []
    with scratch() as name:
        folder = Path(name)
        data = write_data(folder / "data")
        with Runner(folder / "runner") if runner is None else nullcontext(runner) as runner:
            for command in commands:
                for number, of in enumerate(campaigns(data)[command]):
                    campaign = Campaign(of, runner, folder / f"{command}{number}")
                    # Ctrl-C shows what was counted until then.
                    with suppress(KeyboardInterrupt):
                        for way, at in campaign.trials(kills, stride, seed, ways):
                            campaign.trial(way, at)
                    counts = ", ".join(f"{way} {campaign.counts[way]}" for way in ways)
                    say(
                        f"{of.name}: {sum(campaign.counts[way] for way in ways)} trials ({counts}), "
                        f"{campaign.counts['stopped']} stopped, {campaign.operations} file operations, "
                        f"{len(campaign.fallen)} fell"
                    )
                    for line in campaign.fallen:
                        say(f"    {line}")
                    done.append(campaign)
    return done


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--commands", nargs="+", default=["train", "compare", "tune"])
    parser.add_argument("--kills", type=int, default=50, help="random moments of each command")
    parser.add_argument("--stride", type=int, default=1, help="every so many file operations")
    parser.add_argument("--ways", nargs="+", default=list(WAYS), choices=WAYS)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    done = run(options.commands, options.kills, options.stride, options.seed, options.ways)
    fallen = sum(len(campaign.fallen) for campaign in done)
    total = sum(sum(campaign.counts[way] for way in options.ways) for campaign in done)
    return conclude(total, fallen)


if __name__ == "__main__":
    sys.exit(main())
