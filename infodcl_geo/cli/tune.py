"""``infodcl-geo tune``: search the options of models on the validation split."""

from __future__ import annotations

import csv
import io
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

from ..configuration import TRAINING, Config
from ..data.ids import one_line
from ..environment import device_of
from ..errors import FileError, InfodclGeoError, OptionError
from ..files import file_error, locked, make_folder, read_file, write_atomically
from ..models import RECIPES, Recipe, find_recipe
from ..settings import read_settings
from ..tuning import Budget, Search, failed_row, trial_rows
from . import parsing
from .parsing import Parser
from .train import parsed

_LARGEST = 1 << 28  # bytes of a table of trials

DESCRIPTION = (
    "Search the options of models on the validation split; the test split is not read. The objective is NDCG@20 + "
    "Recall@20 / 2 of the epoch that validation selects. Each search begins with the model's defaults for each of its "
    "starts, so it never ends below them. The file that --out names maps each model to the best options found, for "
    "compare --settings; beside it lies a CSV of all trials. Options given here hold for every trial, are not searched "
    "and not written: give them to compare as well. With --journal a search is resumed, and shared by processes."
)


def make_parser(recipe: Recipe | None = None, defaults: Mapping[str, Any] = {}) -> Parser:
    parser = Parser("tune", DESCRIPTION)
    parser.add_list("models", [r.name for r in RECIPES if r.search is not None], "models to search")
    parser.add("trials", int | None, None, "budget of each model in trials; 40 where no minutes are given")
    parser.add("minutes", float | None, None, "budget of each model in minutes of wall-clock")
    parser.add("out", str | None, None, "settings file (YAML)")
    parser.add("begin", str | None, None, "settings file whose options are tried first")
    parser.add("search_seed", int, 1, "of the search; the models train with --seed")
    parser.add("journal", str | None, None, "file that keeps the trials")
    parser.add("device", str | None, None, "'cpu' or 'cuda'; CUDA where there is one")
    parser.add("threads", int | None, None, "CPU threads")
    parsing.add_data(parser)
    if recipe is not None:
        parser.add("model", str, recipe.name, "the model")
        parsing.add_model(parser, recipe, defaults)
    return parser


def main(argv: Sequence[str]) -> int:
    from .compare import divided, words_for

    words = parsing.words_of(argv)
    shared, of_models = divided(words)
    parser = make_parser()
    options = parser.parse_args(parsing.with_flags(shared, parser))
    recipes = [find_recipe(name) for name in parsing.listed(options.models)]
    trials = 40 if options.trials is None and options.minutes is None else options.trials
    device_of(options.device)
    budget = Budget(trials, options.minutes)
    if options.out is None:
        raise OptionError("tune keeps what it finds: give --out FILE.yaml")
    out = Path(options.out)
    if out.suffix not in (".yaml", ".yml"):
        raise OptionError(f"{out}: the settings file is YAML: give it the ending .yaml")
    make_folder(out.parent)
    begin = read_settings(options.begin) if options.begin else {}
    if out.exists():
        read_settings(out)  # a file of something else stops here, not after hours
    _trials(out.with_suffix(".csv"))
    makers = {}
    for recipe in recipes:
        own = words_for(recipe, of_models)
        makers[recipe.name] = partial(_config, recipe, [*shared, *own])
        makers[recipe.name]({})  # a wrong word stops here, not after hours
    search = Search(parsing.data_of(options).load(), device=options.device)
    fixed = [word[2:].partition("=")[0].rpartition(".")[2] for word in of_models if word.startswith("--")]
    storage = _storage(options.journal)
    failed = 0
    for recipe in recipes:
        start = time.perf_counter()
        try:
            study = search.run(
                makers[recipe.name],
                budget,
                fixed=[name for name in fixed if name in {*recipe.option_names, *TRAINING}],
                storage=storage,
                seed=options.search_seed,
                begin=begin.get(recipe.name),
                checkpoints=None if options.journal is None else Path(f"{options.journal}.checkpoints"),
            )
        except OSError as error:
            raise file_error("write", options.journal or out, error) from None
        except FileError:
            raise
        except InfodclGeoError as error:
            # What one model cannot do is no reason to keep the others waiting.
            failed += 1
            print(f"{recipe.name}: failed: {error}")
            _keep(out, None, recipe.name, [failed_row(recipe.name, str(error))])
            continue
        done = [trial for trial in study.trials if trial.values]
        if not done:
            failed += 1
            print(f"{recipe.name}: no trial was completed")
            _keep(out, None, recipe.name, trial_rows(study))
            continue
        best = study.best_trial
        _keep(out, best.user_attrs["options"], recipe.name, trial_rows(study))
        found, minutes = best.user_attrs["validation"], (time.perf_counter() - start) / 60
        numbers = ", ".join(f"{name} {found[name]:.4f}" for name in ("recall@20", "ndcg@20"))
        print(
            f"{recipe.name}: {numbers} on validation, trial {best.number} of {len(study.trials)}, {minutes:.1f} minutes"
        )
        print(f"    {best.user_attrs['options']}", flush=True)
    print(f"saved in {out} and {out.with_suffix('.csv')}")
    return 1 if failed else 0


def _config(recipe: Recipe, words: Sequence[str], options: Mapping[str, Any]) -> Config:
    # What is fixed comes last: it holds for every trial.
    return parsed([*parsing.option_words(options), *words], recipe, make_parser)[1]


def _storage(journal: str | None) -> Any:
    if journal is None:
        return None
    import optuna
    from optuna.storages.journal import JournalFileBackend

    make_folder(Path(journal).parent)
    _mend(Path(journal))
    try:
        lock: Any = _Lock(journal)
        return optuna.storages.JournalStorage(JournalFileBackend(journal, lock_obj=lock))
    except Exception as error:  # whatever Optuna meets in the lines of another program
        if isinstance(error, InfodclGeoError):
            raise
        reason = " ".join(str(error).split())[:160] or type(error).__name__
        raise OptionError(f"{journal}: no journal of a search ({reason}); give another file") from None


class _Lock:
    """Optuna's lock of a journal that ends with its process; its own makes the next one wait for half a minute.

    Args:
        journal: the file.
    """

    def __init__(self, journal: str) -> None:
        self._journal = journal
        self._held = ExitStack()

    def acquire(self) -> bool:
        self._held.enter_context(locked(self._journal))
        return True

    def release(self) -> None:
        self._held.close()


def _mend(journal: Path) -> None:
    """Cut off the line that a killed process did not finish: what is written after it would be lost with it."""
    if not journal.exists():
        return
    with locked(journal):
        content = read_file(journal)
        whole = content.rfind(b"\n") + 1
        if whole < len(content):
            write_atomically(journal, content[:whole])


def _trials(path: Path) -> list[dict[str, Any]]:
    """The rows of a table of trials, none where there is no file.

    Raises:
        FileError: if it is no such table: what another program wrote there is not overwritten.
    """
    if not path.exists():
        return []
    try:
        reader = csv.DictReader(io.StringIO(read_file(path, limit=_LARGEST).decode(), newline=""), strict=True)
        rows = list(reader)
    except (UnicodeDecodeError, csv.Error) as error:
        raise FileError(f"{path}: no table of trials ({one_line(error)}); move it away") from None
    if rows and not {"model", "trial", "options"} <= set(reader.fieldnames or ()):
        raise FileError(f"{path}: is there already, and is no table of trials; move it away")
    wrong = next((line for line, row in enumerate(rows, 2) if None in row or None in row.values()), None)
    if wrong is not None:
        raise FileError(f"{path}:{wrong}: not as many cells as the header has; was it cut short? move it away")
    return rows


def _keep(out: Path, options: Mapping[str, Any] | None, model: str, rows: Sequence[Mapping[str, Any]]) -> None:
    """Put the best options of a model, if there are any, into the settings file, its trials into the CSV beside it."""
    import yaml

    with locked(out):
        if options is not None:
            settings = read_settings(out) if out.exists() else {}
            settings[model] = dict(options)
            write_atomically(out, yaml.safe_dump(settings, sort_keys=True).encode())
        trials = out.with_suffix(".csv")
        old = [row for row in _trials(trials) if row.get("model") != model]
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, list(rows[0]), extrasaction="ignore", restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows([*old, *rows])
        write_atomically(trials, text.getvalue().encode())
