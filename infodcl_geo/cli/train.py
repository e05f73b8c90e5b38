"""``infodcl-geo train``: train a model, choose its epoch on validation, score the test split once, save."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from jsonargparse import Namespace

from ..configuration import Config
from ..models import RECIPES, Recipe
from . import parsing
from .parsing import Parser

DESCRIPTION = (
    "Train a model, choose its epoch on validation, score the test split once. The options and defaults shown are those "
    "of the model that --model names."
)


def make_parser(recipe: Recipe, defaults: Mapping[str, Any], command: str = "train") -> Parser:
    """The parser for one model."""
    parser = Parser(command, DESCRIPTION)
    parser.add("model", str, RECIPES[0].name, f"{', '.join(r.name for r in RECIPES)}, or file.py:recipe")
    add_run(parser)
    parser.add("out", str | None, None, "folder for the model and metrics.json; without it nothing is kept")
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

    from ..experiment import fit, score
    from ..recommender import Recommender
    from .show import GENERATED_NOTE, headline, json_text, shown, table

    options, config = parsed(argv)
    data_options = parsing.data_of(options)
    if options.print_config:
        print(yaml.safe_dump(parsing.configuration(data_options, config), sort_keys=False), end="")
        return 0
    ks = parsing.whole_numbers("ks", options.ks)
    data = data_options.load()
    outcome = fit(data, config, ks=ks, device=options.device, progress=options.progress)
    outcome = score(data, outcome, ks=ks, mask_validation=options.mask_validation, device=options.device)
    if options.out:
        folder = Path(options.out)
        Recommender.from_run(outcome, data, data_options).save(folder)
        content = {**outcome.metrics(data_options), "data": data.name, "generated": data.generated}
        (folder / "metrics.json").write_text(json_text(content), encoding="utf-8")
    names = headline(ks)
    rows = [["validation", *shown(outcome.result.validation, names)], ["test", *shown(outcome.test, names)]]
    print(f"\n{config.name} on {data.name}, best epoch {outcome.result.best_epoch}")
    print(table(rows, ["split", *names]))
    if data.generated:
        print(GENERATED_NOTE)
    if options.out:
        print(f"saved in {options.out}")
    return 0
