"""The command line: train, evaluate, recommend, inspect, compare."""

from __future__ import annotations

import json
import sys
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal

import torch
from jsonargparse import ArgumentParser, Namespace
from tabulate import tabulate

from . import __version__
from .channels.diagnostics import inspect_channel
from .comparison import TableFile, compare, read_settings, summary
from .comparison import Test as PairedTest
from .data.generated import demo
from .data.ids import InteractionWarning
from .data.interactions import Interactions, Split, load_interactions
from .data.named import NAMED, load_named
from .data.text_files import Format
from .evaluation.groups import by_item_degree, by_user_degree
from .experiment import (
    CLOSED_FORMS,
    Config,
    ModelName,
    ModelOptions,
    Run,
    build_channels,
    default_config,
    pretrain,
    run,
)
from .recommender import CheckpointError, Recommender
from .training.loop import TrainOptions

GENERATED_NOTE = "The data are generated, with planted tastes: the numbers say that the program works, nothing more."


@dataclass(frozen=True)
class DataOptions:
    """Where the interactions come from.

    Args:
        data: a folder with train/valid/test files or one file of interactions; 'demo' is the
            generated data set; 'amazon-office' and other public sets are downloaded once (see the README).
        format: how to read the files; told from their names and content by default.
        split: how to split what is not split yet: 'ratio' (of each user), 'leave-one-out' or 'temporal'.
        valid_share: share of the interactions for validation, where the library splits.
        test_share: share of the interactions for test, where the library splits.
        split_seed: of the random split; kept apart from --seed, so that seeds are compared on one split.
        min_rating: keep only rows with at least this rating.
        k_core: keep only users and items with at least this many interactions.
        user_column: header name of the user column, where it is not one of the usual names.
        item_column: the same for items.
        rating_column: the same for ratings.
        time_column: the same for times.
    """

    data: str = "demo"
    format: Format | None = None
    split: Literal["ratio", "leave-one-out", "temporal"] = "ratio"
    valid_share: float = 0.1
    test_share: float = 0.2
    split_seed: int = 0
    min_rating: float | None = None
    k_core: int = 0
    user_column: str | None = None
    item_column: str | None = None
    rating_column: str | None = None
    time_column: str | None = None

    def load(self) -> Interactions:
        """Read the data set."""
        if self.data == "demo":
            return demo().interactions
        split = Split(self.split, self.valid_share, self.test_share)
        if self.data in NAMED and not Path(self.data).exists():
            return load_named(
                self.data, split=split, min_rating=self.min_rating, k_core=self.k_core, seed=self.split_seed
            )
        return load_interactions(
            self.data,
            format=self.format,
            split=split,
            min_rating=self.min_rating,
            k_core=self.k_core,
            user_column=self.user_column,
            item_column=self.item_column,
            rating_column=self.rating_column,
            time_column=self.time_column,
            seed=self.split_seed,
        )


def _add_evaluation(parser: ArgumentParser) -> None:
    parser.add_argument("--ks", type=tuple[int, ...], default=(10, 20, 50), help="cut-offs K of the metrics")
    parser.add_argument(
        "--mask_validation", type=bool, default=False, help="leave validation items out of the test ranking too"
    )


def _add_run(parser: ArgumentParser) -> None:
    parser.add_argument("--config", action="config", help="YAML or JSON file with any of these options")
    parser.add_class_arguments(DataOptions, as_group=True)
    parser.add_class_arguments(ModelOptions, as_group=True)
    parser.add_class_arguments(TrainOptions, as_group=True)
    for name, kind in _model_parts().items():
        parser.add_class_arguments(kind, name, as_group=True)
    _add_evaluation(parser)
    parser.add_argument(
        "--settings",
        type=str | None,
        default=None,
        help="YAML or JSON file that maps models to their options, such as benchmarks/tune.py writes; they come "
        "after the model's defaults and before the options given here",
    )
    parser.add_argument("--device", type=str | None, default=None, help="'cpu' or 'cuda'; CUDA where there is one")
    parser.add_argument("--progress", type=bool, default=True, help="show progress bars")
    parser.add_argument("--threads", type=int | None, default=None, help="CPU threads; torch's own choice by default")


def make_parser() -> ArgumentParser:
    """The parser of ``infodcl-geo``."""
    parser = ArgumentParser(
        prog="infodcl-geo",
        description="Train, evaluate and query InfoDCL and its baselines on user-item interactions.",
        version=__version__,
    )
    commands = parser.add_subcommands()

    training = ArgumentParser(
        description="Train a model, choose its epoch on validation, score the test split once. "
        "The defaults shown are those of InfoDCL; each model has its own."
    )
    _add_run(training)
    training.add_argument(
        "--out",
        type=str | None,
        default=None,
        help="folder for metrics.json and the checkpoint; without it nothing is kept",
    )
    commands.add_subcommand("train", training, help="train a model and save it")

    comparison = ArgumentParser(
        description="Train several models with several seeds on the same data and print one table of test metrics. "
        "With --out each run is kept as soon as it is done, and not repeated as long as its data and its settings stay "
        "the same: a comparison that was stopped goes on where it was, and one with more models or seeds only adds "
        "theirs. Closed forms (ease, gfcf, popularity) do not depend on the seed and run once. The columns of "
        "significance compare every model with the best baseline, which is the model other than infodcl, simdiff and "
        "diffcl of the highest mean NDCG on validation: the mean over the users of the difference, each user's metric "
        "averaged over the seeds, and the p-value of the paired two-sided test over the users, adjusted by Holm's "
        "method for the number of models compared."
    )
    _add_run(comparison)
    comparison.add_argument(
        "--models",
        type=list[ModelName],
        default=["popularity", "lightgcn", "infodcl"],
        help="in the table's order",
    )
    comparison.add_argument("--seeds", type=list[int], default=[0], help="seeds; each model is trained once with each")
    comparison.add_argument(
        "--out",
        type=str | None,
        default=None,
        help="CSV file for the table's runs, with their settings; the metrics of each user go into an .npz beside it",
    )
    comparison.add_argument(
        "--significance",
        type=bool | None,
        default=None,
        help="add the columns of significance; by default where there are several seeds",
    )
    comparison.add_argument(
        "--test", type=PairedTest, default="t", help="paired test: Student's 't', or 'wilcoxon', the signed ranks"
    )
    commands.add_subcommand("compare", comparison, help="train several models and print a table")

    evaluation = ArgumentParser(description="Score a saved model on a held-out split.")
    evaluation.add_argument("--checkpoint", type=str, required=True, help="folder that train wrote")
    evaluation.add_class_arguments(DataOptions, as_group=True)
    evaluation.add_argument("--on", type=Literal["valid", "test"], default="test", help="split to score")
    _add_evaluation(evaluation)
    evaluation.add_argument(
        "--groups", action="store_true", help="also by the number of training interactions of users and of items"
    )
    commands.add_subcommand("evaluate", evaluation, help="score a saved model")

    recommendation = ArgumentParser(description="Recommend items to users of a saved model.")
    recommendation.add_argument("--checkpoint", type=str, required=True, help="folder that train wrote")
    recommendation.add_argument("--users", type=str, nargs="+", required=True, help="raw user ids, such as: 3 17")
    recommendation.add_argument("--k", type=int, default=10, help="items for each user")
    recommendation.add_argument("--include_seen", type=bool, default=False, help="also items the user already has")
    recommendation.add_argument("--json", type=bool, default=False, help="print JSON instead of a table")
    commands.add_subcommand("recommend", recommendation, help="recommend items to users of a saved model")

    inspection = ArgumentParser(
        description="Read a data set and print what it holds; of metadata channels, what they know: coverage, degrees, "
        "how much better than random their neighbours predict validation items, and how loud they are. Channels made "
        "from the training interactions agree with the validation ones as a matter of course."
    )
    inspection.add_class_arguments(DataOptions, as_group=True)
    inspection.add_class_arguments(ModelOptions, as_group=True, skip={"channels", *_NOT_OF_CHANNELS})
    inspection.add_argument(
        "--channels",
        type=str,
        default="",
        help="channels to measure, as in train; by default those whose files are given, without files none",
    )
    commands.add_subcommand("inspect", inspection, help="print the numbers of a data set")
    return parser


_NOT_OF_CHANNELS = ("model", "num_layers", "penalty", "init_std")
"""Fields of ModelOptions that no channel depends on."""


def _pick(namespace: Namespace, kind: type) -> Any:
    return kind(**{part.name: namespace[part.name] for part in fields(kind)})


def _model_parts() -> dict[str, type]:
    """The option groups of single models, by the field of Config and of the command line that holds them."""
    shared = ("model", "training")
    return {part.name: part.default_factory for part in fields(Config) if part.name not in shared}  # type: ignore[misc]


def _flat(config: Config) -> dict[str, Any]:
    nested = {
        f"{part}.{name}": value for part in _model_parts() for name, value in asdict(getattr(config, part)).items()
    }
    return {**asdict(config.model), **asdict(config.training), **nested}


def _config(namespace: Namespace) -> Config:
    parts = {name: _pick(namespace[name], kind) for name, kind in _model_parts().items()}
    return Config(_pick(namespace, ModelOptions), _pick(namespace, TrainOptions), **parts)


def config_of(model: ModelName, argv: Sequence[str], settings: str | None = None) -> Config:
    """The options of ``argv`` over those of the file ``settings`` over the defaults of ``model``.

    The defaults are those for the start that the options choose, see :func:`~infodcl_geo.experiment.default_config`.

    Args:
        model: name of the model, whatever ``argv`` says.
        argv: words of the command line, the command first: ``["train", "--lr", "0.01"]``.
        settings: see :func:`~infodcl_geo.comparison.read_settings`.

    Raises:
        ValueError: if an option, alone or beside others, cannot be; or one of ``settings`` is unknown.
        SystemExit: if ``argv`` cannot be parsed.
    """
    parser = make_parser()
    command = argv[0]
    defaults = _flat(default_config(model))
    chosen: list[str] = []
    if settings is not None:
        options = read_settings(settings).get(model, {})
        unknown = [name for name in options if name not in defaults or name in ("model", "seed")]
        if unknown:
            raise ValueError(f"{settings}: {model} has no option {', '.join(unknown)}")
        # As words before the others, so that they are checked like them and give way to them.
        chosen = [f"--{name}={v if isinstance(v, str) else json.dumps(v)}" for name, v in options.items()]

    def parsed(defaults: Mapping[str, Any]) -> Config:
        parser.set_defaults({f"{command}.{name}": value for name, value in defaults.items()})
        return _config(parser.parse_args([command, *chosen, *argv[1:], "--model", model])[command])

    config = parsed(defaults)
    if config.model.init != defaults["init"]:
        config = parsed(_flat(default_config(model, config.model.init)))
    return config


def _shown(metrics: dict[str, float], names: Sequence[str]) -> list[str]:
    return [f"{metrics[name]:.4f}" if name in metrics else "-" for name in names]


def _headline(ks: Sequence[int]) -> list[str]:
    k = 20 if 20 in ks else max(ks)
    return [f"recall@{k}", f"ndcg@{k}"]


def _run(data: Interactions, config: Config, options: Namespace) -> Run:
    return run(
        data,
        config,
        ks=tuple(options.ks),
        mask_validation=options.mask_validation,
        device=options.device,
        progress=options.progress,
    )


def _train(options: Namespace, argv: Sequence[str]) -> None:
    data = _pick(options, DataOptions).load()
    config = config_of(options.model, argv, options.settings)
    outcome = _run(data, config, options)
    rows = [
        ["validation", *_shown(outcome.result.validation, _headline(options.ks))],
        ["test", *_shown(outcome.test, _headline(options.ks))],
    ]
    print(f"\n{config.model.model} on {data.name}, best epoch {outcome.result.best_epoch}")
    print(tabulate(rows, headers=["split", *_headline(options.ks)], tablefmt="github", disable_numparse=True))
    if data.generated:
        print(GENERATED_NOTE)
    if options.out:
        folder = Path(options.out)
        Recommender.from_run(outcome, data).save(folder)
        content = {**outcome.metrics(), "data": data.name, "generated": data.generated}
        (folder / "metrics.json").write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
        print(f"saved in {folder}")


def _compare(options: Namespace, argv: Sequence[str]) -> None:
    data = _pick(options, DataOptions).load()
    headline = _headline(options.ks)
    configs = [
        config_of(model, [*argv, "--seed", str(seed)], options.settings)
        for model in options.models
        for seed in (options.seeds[:1] if model in CLOSED_FORMS else options.seeds)
    ]
    table = TableFile(options.out) if options.out else None
    entries = compare(
        data,
        configs,
        lambda config: _run(data, config, options),
        metrics=headline,
        ks=options.ks,
        mask_validation=options.mask_validation,
        table=table,
    )
    significance = len(options.seeds) > 1 if options.significance is None else options.significance
    headers, rows = summary(entries, headline, significance=significance, test=options.test)
    print(f"\n{data!r}")
    print(tabulate(rows, headers=headers, tablefmt="github", disable_numparse=True))
    if data.generated:
        print(GENERATED_NOTE)
    if table is not None:
        print(f"saved in {table.path} and {table.arrays}")


def _evaluate(options: Namespace) -> None:
    recommender = Recommender.load(options.checkpoint)
    data = _pick(options, DataOptions).load()
    ranking, train, unknown = recommender.ranking(
        data, options.on, ks=tuple(options.ks), mask_validation=options.mask_validation
    )
    metrics = ranking.mean()
    if unknown:
        print(f"{unknown} held-out interactions of users or items the model does not know are left out")
    rows = [
        [metric, *(f"{metrics[f'{metric}@{k}']:.4f}" for k in options.ks)]
        for metric in ("recall", "ndcg", "precision", "mrr", "hit")
    ]
    headers = [options.on, *(f"@{k}" for k in options.ks)]
    print(tabulate(rows, headers=headers, tablefmt="github", disable_numparse=True))
    if options.groups:
        user_degree = torch.bincount(train[0], minlength=len(recommender.user_ids))
        item_degree = torch.bincount(train[1], minlength=len(recommender.item_ids))
        _print_groups("user", by_user_degree(ranking, user_degree), ["users"], _headline(options.ks))
        recalls = [f"recall@{k}" for k in options.ks]
        _print_groups("item", by_item_degree(ranking, item_degree), ["items", "pairs"], recalls)


def _print_groups(who: str, groups: dict[str, dict[str, float]], counts: Sequence[str], names: Sequence[str]) -> None:
    """One row for each group of users or items by their number of training interactions."""
    rows = [
        [name, *(str(int(group[count])) for count in counts), *_shown(group, names)] for name, group in groups.items()
    ]
    headers = [f"training interactions of the {who}", *counts, *names]
    print()
    print(tabulate(rows, headers=headers, tablefmt="github", disable_numparse=True))


def _inspect(options: Namespace) -> None:
    data = _pick(options, DataOptions).load()
    print(data.summary())
    files = {"social": options.social, "knowledge": options.knowledge, "modal": options.features}
    names = options.channels or ",".join(name for name, file in files.items() if file is not None)
    if not names:
        return
    given = {part.name: options[part.name] for part in fields(ModelOptions) if part.name in options}
    config = Config(ModelOptions(**{**given, "channels": names}))
    vectors = pretrain(data, config, device=torch.device("cpu"), progress=False)
    for channel in build_channels(data, config, vectors):
        print(f"\n{inspect_channel(data, channel).summary()}")


def _recommend(options: Namespace) -> None:
    recommender = Recommender.load(options.checkpoint)
    answers = recommender.recommend(options.users, options.k, exclude_seen=not options.include_seen)
    if options.json:
        rows = [
            {"user": answer.user, "items": answer.items.tolist(), "scores": answer.scores.tolist()}
            for answer in answers
        ]
        print(json.dumps(rows))
        return
    lines = [
        [answer.user, place, item, f"{score:.4f}"]
        for answer in answers
        for place, (item, score) in enumerate(zip(answer.items, answer.scores, strict=True), 1)
    ]
    print(tabulate(lines, headers=["user", "rank", "item", "score"], tablefmt="github", disable_numparse=True))


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of ``infodcl-geo``; 0 on success, 1 on an error that the user can mend, 2 on wrong usage."""
    argv = [_with_underscores(word) for word in (sys.argv[1:] if argv is None else argv)]
    parser = make_parser()
    options = parser.parse_args(argv)
    command = options.subcommand
    chosen = options[command]
    if getattr(chosen, "threads", None):
        torch.set_num_threads(chosen.threads)
    # torch announces on the first product that its CSR layout is young.
    warnings.filterwarnings("ignore", message="Sparse CSR tensor support is in beta")
    warnings.showwarning = _show_warning
    try:
        if command == "train":
            _train(chosen, argv)
        elif command == "compare":
            _compare(chosen, argv)
        elif command == "evaluate":
            _evaluate(chosen)
        elif command == "recommend":
            _recommend(chosen)
        else:
            _inspect(chosen)
    except (ValueError, CheckpointError, FloatingPointError, OSError) as error:
        print(f"infodcl-geo: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("infodcl-geo: interrupted", file=sys.stderr)
        return 130
    return 0


def _with_underscores(word: str) -> str:
    """``--batch-size`` as well as ``--batch_size``."""
    if not word.startswith("--"):
        return word
    name, equals, value = word[2:].partition("=")
    return f"--{name.replace('-', '_')}{equals}{value}"


def _show_warning(message: Warning | str, category: type[Warning], *rest: Any, **named: Any) -> None:
    kind = "" if issubclass(category, InteractionWarning) else f"{category.__name__}: "
    print(f"warning: {kind}{message}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
