"""``infodcl-geo train``: train a model, choose its epoch on validation, score the test split once, save."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from jsonargparse import Namespace

from ..configuration import Config
from ..environment import is_one_of_several
from ..errors import OptionError
from ..files import make_folder, write_atomically
from ..models import RECIPES, Recipe
from ..recommender import Recommender
from ..text import escape, json_ready
from ..training.callbacks import Callback, HistoryCsv, TensorBoard, WandB
from ..training.checkpoint import checkpoints, remove_checkpoints
from ..training.options import CheckpointOptions
from . import parsing
from .parsing import Parser
from .show import GENERATED_NOTE, headline, print_without_training, shown, table

if TYPE_CHECKING:
    from ..data.interactions import Interactions
    from ..data.options import DataOptions
    from ..distributed.group import Group
    from ..distributed.input import OwnInteractions
    from ..outcome import Run

DESCRIPTION = (
    "Train a model, choose its epoch on validation, score the test split once. The options and defaults shown are "
    "those of the model that --model names."
)

PRESET = (
    "'auto' chooses dim, channels, contrast, reconstruction and item_term on validation (successive halving over short "
    "trainings), in at most three times the epochs of one training"
)

TABLES = "of several processes (torchrun): 'sharded' tables lie in parts, 'whole' each has all, 'auto' goes by size"


def make_parser(recipe: Recipe, defaults: Mapping[str, Any], command: str = "train") -> Parser:
    """The parser for one model."""
    parser = Parser(command, DESCRIPTION)
    parser.add("model", str, RECIPES[0].name, f"{', '.join(r.name for r in RECIPES)}, or file.py:recipe")
    add_run(parser)
    parser.add("out", str | None, None, "folder for the model, metrics.json and checkpoints")
    parser.add("resume", bool, False, "go on with the training that --out holds")
    parser.add("overwrite", bool, False, "begin anew in a folder that holds a result")
    parser.add("tensorboard", str | None, None, "folder for TensorBoard (extra tensorboard)")
    parser.add("tables", Literal["auto", "sharded", "whole"], "auto", TABLES)
    parser.add("wandb", str | None, None, "project of Weights & Biases to log to (extra wandb)")
    parsing.add_data(parser)
    parsing.add_model(parser, recipe, defaults)
    return parser


def add_run(parser: Parser) -> None:
    """Options of every command that trains."""
    parser.add("config", str | None, None, "YAML or JSON file of options: a printed configuration, or a metrics.json")
    parser.add("print_config", bool, False, "print the configuration that would run, and stop")
    parser.add("settings", str | None, None, "file that maps models to options, such as tune writes")
    parser.add_list("ks", (10, 20, 50), "cut-offs K of the metrics")
    parser.add("mask_validation", bool, False, "leave validation items out of the test ranking too")
    parser.add("preset", Literal["none", "auto"], "none", PRESET)
    parser.add("checkpoint_minutes", float | None, 10.0, "minutes from one checkpoint to the next")
    parser.add("checkpoint_epochs", int | None, None, "epochs from one checkpoint to the next")
    parser.add("device", str | None, None, "'cpu' or 'cuda'; CUDA where there is one")
    parser.add("threads", int | None, None, "CPU threads")
    parser.add("progress", bool, True, "show progress bars")


def parsed(
    argv: Sequence[str],
    recipe: Recipe | None = None,
    make: Callable[[Recipe, Mapping[str, Any]], Parser] = make_parser,
) -> tuple[Namespace, Config]:
    """The options of ``argv`` over those of its files over the defaults of the model, for the start they choose.

    Args:
        argv: words behind the command.
        recipe: the model, whatever ``argv`` says.
        make: the command's parser for a model and its defaults.

    Raises:
        OptionError: if an option, alone or beside others, cannot be.
        SystemExit: if ``argv`` cannot be parsed, or asks for help.
    """
    words = parsing.words_of(argv)
    file = parsing.peek(words, "config")
    from_file = parsing.file_words(file) if file is not None else []
    recipe = recipe or parsing.model_of([*from_file, *words], RECIPES[0].name)
    settings = parsing.peek([*from_file, *words], "settings")
    of_model = [] if settings is None else settings_words(settings, recipe)
    words = parsing.words_of([*from_file, *of_model, *words], recipe)

    def attempt(defaults: Mapping[str, Any]) -> Namespace:
        parser = make(recipe, defaults)
        parsing.hide_idle(parser, words)
        return parser.parse_args(parsing.with_flags(words, parser))

    defaults = recipe.defaults()
    namespace = attempt(defaults)
    own = getattr(recipe.options(), "init", None)
    if own is not None and namespace.init != own:
        namespace = attempt(recipe.defaults(namespace.init))
    return namespace, parsing.config_of(namespace, recipe)


def settings_words(path: str, recipe: Recipe) -> list[str]:
    """The options that a settings file has for a model, as words."""
    from ..settings import read_settings

    return parsing.option_words(read_settings(path).get(recipe.name, {}))


def main(argv: Sequence[str]) -> int:
    import yaml

    from ..errors import TrainingError
    from ..experiment import fit, score
    from ..preset import fit_preset

    options, config = parsed(argv)
    data_options = parsing.data_of(options)
    if options.print_config:
        print(yaml.safe_dump(parsing.configuration(data_options, config), sort_keys=False), end="")
        return 0
    ks = parsing.whole_numbers("ks", options.ks)
    if is_one_of_several():
        from ..distributed.command import together

        return together(lambda group: _several(options, config, data_options, ks, group), options.device)
    out = _Folder(options.out, resume=options.resume, overwrite=options.overwrite) if options.out else None
    if out is None and options.resume:
        raise OptionError("--resume goes on with the training in a folder: give --out")
    checkpoint = None
    if out is not None and not config.recipe.closed_form:
        checkpoint = CheckpointOptions(out.checkpoints, options.checkpoint_minutes, options.checkpoint_epochs)
    data = data_options.load()
    try:
        outcome = (fit_preset if options.preset == "auto" else fit)(
            data,
            config,
            ks=ks,
            device=options.device,
            progress=options.progress,
            callbacks=_loggers(options, out),
            checkpoint=checkpoint,
            resume=out.checkpoints if out is not None and options.resume else None,
        )
    except TrainingError as error:
        if out is None or error.run is None:
            raise
        out.save(error.run, data, data_options)
        epoch = error.run.result.best_epoch
        raise TrainingError(f"{error}; the model of epoch {epoch}, the best before, is saved in {out.path}") from error
    if not outcome.result.interrupted:
        outcome = score(data, outcome, ks=ks, mask_validation=options.mask_validation, device=options.device)
    _keep(outcome, data, data_options, ks, out)
    return 130 if outcome.result.interrupted else 0


def _several(options: Namespace, config: Config, data_options: DataOptions, ks: tuple[int, ...], group: Group) -> int:
    """A rank's part of the command; rank 0 shows, logs and saves."""
    from ..distributed.input import OwnInteractions, collected, is_sharded, load_sharded
    from ..distributed.run import run_several

    if options.preset != "none":
        raise OptionError("--preset auto is chosen by one process; give the options that it chose")
    if options.resume and not options.out:
        raise OptionError("--resume goes on with the training in a folder: give --out")
    out = None
    if group.first and options.out:
        out = _Folder(options.out, resume=options.resume, overwrite=options.overwrite)
    folder = Path(options.out) / "checkpoints" if options.out else None
    checkpoint = None
    if folder is not None:
        checkpoint = CheckpointOptions(folder, options.checkpoint_minutes, options.checkpoint_epochs)
    data: Interactions | OwnInteractions
    if options.tables == "sharded" and is_sharded(data_options.data):
        data = load_sharded(data_options, group)
    else:
        data = data_options.load()
    outcome = run_several(
        data,
        config,
        group,
        tables=options.tables,
        ks=ks,
        mask_validation=options.mask_validation,
        progress=options.progress,
        callbacks=_loggers(options, out) if group.first else (),
        checkpoint=checkpoint,
        resume=folder if options.resume else None,
    )
    whole = collected(data, group) if isinstance(data, OwnInteractions) else data
    if whole is not None and group.first:
        _keep(outcome, whole, data_options, ks, out)
    return 130 if outcome.result.interrupted else 0


def _keep(outcome: Run, data: Interactions, data_options: DataOptions, ks: Sequence[int], out: _Folder | None) -> None:
    """Save a run, show it, and say how to go on with one that was interrupted."""
    # What took long is kept before anything can go wrong with showing it.
    saved = out is not None and out.save(outcome, data, data_options)
    _show(outcome, data, ks)
    if out is not None and saved:
        print(f"saved in {out.path}")
    if outcome.result.interrupted:
        hint = f"; --resume --out {out.path} goes on" if out is not None else "; nothing is kept without --out"
        print(f"infodcl-geo: {outcome.result.ended}{hint}", file=sys.stderr)


def _show(outcome: Run, data: Interactions, ks: Sequence[int]) -> None:
    names, result = headline(ks), outcome.result
    rows = [["validation", *shown(result.validation, names)], ["test", *shown(outcome.test, names)]]
    chosen = "" if outcome.config.recipe.closed_form else f", best epoch {result.best_epoch}"
    print(f"\n{outcome.config.name} on {escape(data.name)}{chosen}")
    print(table(rows, ["split", *names]))
    print_without_training(data)
    if result.ended:
        print(f"training ended: {result.ended}")
    if data.generated:
        print(GENERATED_NOTE)


def _loggers(options: Namespace, out: _Folder | None) -> list[Callback]:
    loggers: list[Callback] = []
    if out is not None:
        loggers.append(HistoryCsv(out.path / "history.csv"))
    if options.tensorboard:
        loggers.append(TensorBoard(options.tensorboard))
    if options.wandb:
        loggers.append(WandB(options.wandb))
    return loggers


class _Folder:
    """The folder of a run: made and looked at before training, so that no result is lost or written over.

    Args:
        path: the folder.
        resume: go on with the training whose checkpoints it holds.
        overwrite: a result that is there gives way.

    Raises:
        OptionError: if there is a result, or a training to go on with, and neither was asked for.
        FileError: if nothing can be written there.
    """

    def __init__(self, path: str, *, resume: bool, overwrite: bool) -> None:
        self.path = make_folder(path)
        self.checkpoints = self.path / "checkpoints"
        unfinished = self.checkpoints.is_dir() and bool(checkpoints(self.checkpoints) or self._of_several())
        if resume and not unfinished:
            raise OptionError(f"{path}: has no training to go on with; leave --resume out")
        finished = not unfinished and any((self.path / name).exists() for name in ("metrics.json", "model.json"))
        if overwrite:
            self._remove_checkpoints()
        elif finished:
            raise OptionError(f"{path}: has a result already; give another folder, or --overwrite")
        elif unfinished and not resume:
            raise OptionError(f"{path}: has an unfinished training; --resume goes on with it, --overwrite begins anew")

    def save(self, outcome: Run, data: Interactions, options: DataOptions) -> bool:
        """Keep the model and its numbers, if an epoch was validated; the checkpoints of a finished training go."""
        result = outcome.result
        if not outcome.config.recipe.closed_form and result.best_epoch == 0:
            return False
        content = {**outcome.metrics(options), "data": data.name, "generated": data.generated}
        text = json.dumps(json_ready(content), indent=2, allow_nan=False) + "\n"
        numbers, aside = self.path / "metrics.json", self.path / ".metrics.json.before"
        # Numbers never lie beside a model that they are not of; until the new ones do, the model's record has its own.
        with suppress(FileNotFoundError):
            os.replace(numbers, aside)
        try:
            Recommender.from_run(outcome, data, options).save(self.path)
        except BaseException:
            with suppress(OSError):
                os.replace(aside, numbers)
            raise
        write_atomically(numbers, text.encode())
        aside.unlink(missing_ok=True)
        if not result.interrupted:
            self._remove_checkpoints()
        return True

    def _of_several(self) -> list[Path]:
        """Checkpoints that several processes wrote, which are folders."""
        return [path.parent for path in self.checkpoints.glob("checkpoint-*/run.json")]

    def _remove_checkpoints(self) -> None:
        remove_checkpoints(self.checkpoints)
        for path in self._of_several():
            shutil.rmtree(path, ignore_errors=True)
