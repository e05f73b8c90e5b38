"""``infodcl-geo compare``: several models and seeds on the same data, one table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from jsonargparse import Namespace

from ..comparison import Failure, Planned, TableFile, compare, summary
from ..configuration import TRAINING, Config
from ..data.options import DataOptions
from ..environment import device_of
from ..errors import OptionError
from ..evaluation.significance import Test
from ..experiment import fit, score
from ..models import COMPARED, RECIPES, Recipe, find_recipe
from ..outcome import Run
from ..preset import can_choose, fit_preset
from ..settings import read_variants
from . import parsing
from .parsing import Parser
from .show import GENERATED_NOTE, headline, print_without_training, table
from .train import add_run, parsed

DESCRIPTION = (
    "Train several models with several seeds on the same data and print one table of test metrics. Options of training "
    "hold for all models that are trained, options of a model for those that have it. With --out each run is kept as "
    "soon as it is done, and not repeated as long as its data and its settings stay the same: a comparison that was "
    "stopped goes on where it was, in the midst of a training too, and one with more models or seeds only adds theirs. "
    "A model that fails is named in the table, and the others go on. Closed forms run once. Columns of significance "
    "compare every model with the best baseline on validation (among variants of one model with the first): the mean "
    "over the users of the difference, and the p-value of the paired two-sided test over the users, adjusted by Holm's "
    "method."
)


def make_parser(recipe: Recipe | None = None, defaults: Mapping[str, Any] = {}) -> Parser:
    """The parser; for one of the models with its options as well."""
    parser = Parser("compare", DESCRIPTION)
    parser.add_list("models", COMPARED, "models, in the table's order: names, or file.py:recipe")
    parser.add(
        "variants", str | None, None, "YAML file of labels, each with a model and its options; instead of models"
    )
    parser.add_list("seeds", (0,), "seeds; each model is trained once with each")
    parser.add("out", str | None, None, "CSV file of the runs; the metrics of each user go into an .npz beside it")
    parser.add("significance", bool | None, None, "columns of significance; where there are several seeds by default")
    parser.add("test", Test, "t", "paired test: Student's 't', or 'wilcoxon', the signed ranks")
    add_run(parser)
    parsing.add_data(parser)
    if recipe is not None:
        parser.add("model", str, recipe.name, "the model")
        parsing.add_model(parser, recipe, defaults)
    return parser


def main(argv: Sequence[str]) -> int:
    words = parsing.words_of(argv)
    shared, of_models = divided(words)
    parser = make_parser()
    options = parser.parse_args(parsing.with_flags(shared, parser))
    ks = parsing.whole_numbers("ks", options.ks)
    seeds = parsing.whole_numbers("seeds", options.seeds, least=0)
    data_options = parsing.data_of(options)
    plan = _plan(options, shared, of_models, seeds)
    if options.print_config:
        return _print(plan, data_options)
    device_of(options.device)  # one that is not there stops all of them
    kept = TableFile(options.out) if options.out else None
    data = data_options.load()
    failures: list[Failure] = []
    preset = options.preset == "auto"

    def execute(config: Config, **checkpoints: Any) -> Run:
        train = fit_preset if preset and can_choose(config.recipe) else fit
        found = train(data, config, ks=ks, device=options.device, progress=options.progress, **checkpoints)
        if found.result.interrupted:
            return found
        return score(data, found, ks=ks, mask_validation=options.mask_validation, device=options.device)

    entries = compare(
        data,
        plan,
        execute,
        metrics=headline(ks),
        ks=ks,
        mask_validation=options.mask_validation,
        table=kept,
        more={"preset": "auto"} if preset else {},
        failures=failures,
        every=(options.checkpoint_minutes, options.checkpoint_epochs),
    )
    significance = len(seeds) > 1 if options.significance is None else options.significance
    headers, rows = summary(entries, headline(ks), significance=significance, test=options.test, failures=failures)
    print(f"\n{data!r}")
    print(table(rows, headers))
    print_without_training(data)
    if data.generated:
        print(GENERATED_NOTE)
    if kept is not None:
        print(f"saved in {kept.path} and {kept.arrays}")
    return 1 if failures else 0


def divided(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """The words that all models share, and those of options of models or of training."""
    names = {name for recipe in RECIPES for name in recipe.option_names} | set(TRAINING)
    shared: list[str] = []
    of_models: list[str] = []
    current = shared
    for word in words:
        if word.startswith("--"):
            name = word[2:].partition("=")[0]
            current = of_models if name in names or "." in name else shared
        current.append(word)
    return shared, of_models


def words_for(recipe: Recipe, of_models: Sequence[str]) -> list[str]:
    """Those of the words that concern the model."""
    known = {*recipe.option_names, *(() if recipe.closed_form else TRAINING)}
    found: list[str] = []
    kept = False
    for word in of_models:
        if word.startswith("--"):
            owner, dot, option = word[2:].partition("=")[0].rpartition(".")
            kept = option in known and (not dot or owner == recipe.name)
            word = word.replace(f"{owner}.", "", 1) if kept and dot else word
        if kept:
            found.append(word)
    return found


def _plan(options: Namespace, shared: Sequence[str], of_models: Sequence[str], seeds: Sequence[int]) -> list[Planned]:
    if options.variants is not None:
        variants = read_variants(options.variants)
        chosen = [(label, find_recipe(name), parsing.option_words(given)) for label, (name, given) in variants.items()]
    else:
        chosen = [(recipe.name, recipe, []) for recipe in map(find_recipe, parsing.listed(options.models))]
    if len({label for label, _, _ in chosen}) < len(chosen):
        raise OptionError("a model stands twice in --models: give variants of it labels with --variants FILE")
    used = {
        name for _, recipe, _ in chosen for name in (*recipe.option_names, *(() if recipe.closed_form else TRAINING))
    }
    for word in of_models:
        name = word[2:].partition("=")[0].rpartition(".")[2]
        if word.startswith("--") and name not in used:
            raise OptionError(f"none of these models has the option {name}")
    plan = []
    for label, recipe, own in chosen:
        for seed in seeds[:1] if recipe.closed_form else seeds:
            words = [*words_for(recipe, of_models), *own, *([] if recipe.closed_form else [f"--seed={seed}"])]
            plan.append(Planned(_config([*shared, *words], recipe), label))
    return plan


def _config(words: Sequence[str], recipe: Recipe) -> Config:
    return parsed(words, recipe, make_parser)[1]


def _print(plan: Sequence[Planned], data: DataOptions) -> int:
    import yaml

    content = {f"{p.label}, seed {p.config.training.seed}": parsing.configuration(data, p.config) for p in plan}
    print(yaml.safe_dump(content, sort_keys=False), end="")
    return 0
