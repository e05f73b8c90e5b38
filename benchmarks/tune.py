"""Search models' settings on the validation split, every model with the same budget and the same shared ranges.

    python benchmarks/tune.py --data ../shared/data/office --trials 40 --out settings/office.yaml
    python benchmarks/tune.py --data ../shared/data/office --minutes 20 --models mf infodcl --out settings/office.yaml

Needs the extra ``tune`` (Optuna). The test split is not looked at. The objective is NDCG@20 + Recall@20 / 2 of the
epoch that validation selects. Each search begins with the model's own defaults (those of ``--init`` where that is
fixed), so it never ends below them, and goes on by Optuna's TPE with median pruning. With ``--begin`` the settings
of a file, say those found on another data set, are tried before the defaults. The budget is ``--trials``,
``--minutes`` of wall-clock, or both, whichever ends first; a closed form, which a search of one or two numbers
exhausts, gets 100 trials at most.

``--out`` is what ``infodcl-geo compare --settings`` reads; models that are not searched now keep their entries. Beside
it lies a CSV of all trials. With ``--journal`` a search can be resumed, and shared by several processes. Options that
are not listed below are those of ``infodcl-geo train`` (``--epochs``, ``--patience``, ``--channels`` ...): they hold
for every trial, are not searched and not written, so give them to ``compare`` as well.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, get_args

import optuna
import pandas as pd
import torch
import yaml  # type: ignore[import-untyped]
from optuna.storages.journal import JournalFileBackend
from optuna.trial import BaseTrial, TrialState

from infodcl_geo.channels.base import Channel, PretrainedVectors
from infodcl_geo.cli import config_of
from infodcl_geo.comparison import read_settings
from infodcl_geo.data.interactions import Interactions, load_interactions
from infodcl_geo.experiment import (
    CLOSED_FORMS,
    WITH_CHANNELS,
    Config,
    ModelName,
    best_num_layers,
    build_channels,
    default_config,
    fit,
    pretrain,
    spectral_vectors,
)
from infodcl_geo.training.callbacks import OnValidation

MODELS = tuple(model for model in get_args(ModelName) if model != "popularity")


def suggest(trial: BaseTrial, model: str) -> dict[str, Any]:
    """Options of one trial, by their names on the command line."""
    options: dict[str, Any] = {}

    def number(name: str, low: float, high: float, *, log: bool = True) -> None:
        # Rounded before use, so that the file holds exactly what was tried.
        options[name] = float(f"{trial.suggest_float(name, low, high, log=log):.3g}")

    def whole(name: str, low: int, high: int, *, log: bool = False) -> None:
        options[name] = trial.suggest_int(name, low, high, log=log)

    def contrastive(low: float = 1e-3, high: float = 0.5) -> None:
        number(f"{model}.contrast", low, high)
        number(f"{model}.temperature", 0.1, 1.0)

    if model == "ease":
        number("ease.l2", 1, 5000)
        return options
    if model == "gfcf":
        whole("gfcf.components", 8, 512, log=True)
        number("gfcf.alpha", 0.01, 3)
        return options
    if model == "svd":
        number("svd.smoothing", 0.01, 3)
        number("svd.power", 0.25, 3, log=False)
        whole("num_layers", 0, 3)
        return options
    if model == "diffrec":
        number("lr", 2e-4, 5e-3)
        whole("diffrec.hidden", 50, 800, log=True)
        number("diffrec.dropout", 0.1, 0.8, log=False)
        number("diffrec.noise_scale", 1e-4, 0.1)
        return options

    number("lr", 2e-4, 1.5e-2)
    number("penalty", 1e-4, 4e-2)
    options["init"] = trial.suggest_categorical("init", ["normal", "pretrained"])
    number("init_std", 0.003, 0.6)
    whole("num_layers", 2 if model == "ncl" else 1, 3)  # NCL contrasts the second layer
    if model in ("simgcl", "xsimgcl"):
        contrastive()
        number(f"{model}.noise", 0.01, 0.5)
    elif model == "sgl":
        contrastive()
        number("sgl.drop", 0.05, 0.5)
    elif model == "lightgcl":
        contrastive()
        number("lightgcl.dropout", 0.0, 0.5, log=False)
    elif model == "ncl":
        number("ncl.structure", 1e-4, 0.1)
        number("ncl.prototype", 1e-5, 1e-2)
        number("ncl.temperature", 0.05, 0.5)
    elif model == "infodcl":
        contrastive(1e-3, 1.0)
        number("infodcl.reconstruction", 1e-3, 0.6)
        number("infodcl.metadata_scale", 0.3, 10)
        options["infodcl.schedule"] = trial.suggest_categorical("infodcl.schedule", ["exp", "linear", "cosine", "sqrt"])
        options["channels"] = trial.suggest_categorical("channels", ["item", "user", "both"])
    elif model == "simdiff":
        number("simdiff.injection", 0.1, 0.99, log=False)
        number("simdiff.reconstruction", 0.01, 0.9)
        number("simdiff.collaboration", 1e-4, 1)
        number("simdiff.guidance", 0, 3, log=False)
    elif model == "diffcl":
        contrastive()
        number("diffcl.align", 1e-3, 1)
        number("diffcl.noise_scale", 0.01, 1)
    return options


def quality(validation: dict[str, float]) -> float:
    """What the search maximises."""
    return validation["ndcg@20"] + validation["recall@20"] / 2


class Search:
    """The searches on one data set.

    Args:
        data: interactions; the test split is not read.
        fixed: words of the command line that hold for every trial.
        device: where models are trained.
    """

    def __init__(self, data: Interactions, fixed: Sequence[str], device: torch.device) -> None:
        self.data, self.fixed, self.device = data, list(fixed), device
        self.names = {word[2:].partition("=")[0].replace("-", "_") for word in fixed if word.startswith("--")}
        self.channels: dict[str, list[Channel]] = {}
        self.vectors: PretrainedVectors | None = None

    def options(self, trial: BaseTrial, model: str) -> dict[str, Any]:
        """What is searched and not fixed."""
        return {name: value for name, value in suggest(trial, model).items() if name not in self.names}

    def config(self, model: ModelName, options: dict[str, Any]) -> Config:
        words = [f"--{name}={value}" for name, value in options.items()]
        return config_of(model, ["train", *words, *self.fixed])

    def _prepared(self, config: Config) -> dict[str, Any]:
        """Pretrained vectors and channels of the trial, made once: nothing that is searched changes them."""
        if not config.uses_vectors or config.model.model in CLOSED_FORMS:
            return {}
        if self.vectors is None:
            self.vectors = pretrain(self.data, config, device=self.device, progress=False)
        if config.model.model not in WITH_CHANNELS:
            return {"vectors": self.vectors}
        name = config.model.channels
        if name not in self.channels:
            self.channels[name] = build_channels(self.data, config, self.vectors)
        return {"vectors": self.vectors, "channels": self.channels[name]}

    def trial(self, trial: optuna.Trial, model: ModelName, deadline: float) -> float:
        """Quality of one trial; one that is still running at the deadline is dropped, unless it is the first."""
        options = self.options(trial, model)
        trial.set_user_attr("options", options)
        config = self.config(model, options)
        best = 0.0

        def report(epoch: int, metrics: dict[str, float]) -> None:
            nonlocal best
            best = max(best, quality(metrics))
            trial.report(best, epoch)
            if trial.should_prune() or (trial.number > 0 and time.monotonic() > deadline):
                raise optuna.TrialPruned

        outcome = fit(
            self.data,
            config,
            **self._prepared(config),
            ks=(20,),
            device=self.device,
            progress=False,
            callbacks=[OnValidation(report)],
        )
        trial.set_user_attr("validation", outcome.result.validation)
        trial.set_user_attr("best_epoch", outcome.result.best_epoch)
        return quality(outcome.result.validation)

    def run(
        self,
        model: ModelName,
        trials: int | None,
        minutes: float | None,
        storage: Any,
        seed: int,
        begin: Mapping[str, Any] | None = None,
    ) -> optuna.study.Study:
        """Search ``model`` from the options ``begin`` and the defaults until its budget is spent."""
        study = optuna.create_study(
            study_name=model,
            storage=storage,
            load_if_exists=True,
            direction="maximize",
            sampler=optuna.samplers.TPESampler(seed=seed, multivariate=True),
            pruner=optuna.pruners.MedianPruner(n_startup_trials=8, n_warmup_steps=50),
        )
        if not study.trials:
            defaults = self._defaults(model)
            if begin:
                study.enqueue_trial({name: begin.get(name, value) for name, value in defaults.items()})
            study.enqueue_trial(defaults)
        if model in CLOSED_FORMS:
            trials = min(trials or 100, 100)
        left = None if trials is None else max(0, trials - sum(t.state.is_finished() for t in study.trials))
        spent = sum((t.duration.total_seconds() for t in study.trials if t.duration is not None), 0.0)
        seconds = None if minutes is None else max(0.0, 60 * minutes - spent)
        deadline = time.monotonic() + seconds if seconds is not None else float("inf")
        if left != 0 and seconds != 0:
            study.optimize(
                lambda trial: self.trial(trial, model, deadline),
                n_trials=left,
                timeout=seconds,
                catch=(FloatingPointError,),
            )
        return study

    def _defaults(self, model: ModelName) -> dict[str, Any]:
        # A start that is fixed brings its own scale and learning rate, as in training.
        chosen = default_config(model, self.config(model, {}).model.init if "init" in self.names else None)
        config = asdict(chosen)
        flat = {**config["model"], **config["training"]}
        for part, values in config.items():
            flat |= {f"{part}.{name}": value for name, value in values.items()}
        wanted = suggest(_Names(), model)
        if flat["num_layers"] is None:  # chosen with the pretrained vectors; a search needs the numbers
            chosen, vectors = spectral_vectors(self.data, chosen)
            flat |= {"svd.smoothing": chosen.svd.smoothing, "num_layers": best_num_layers(self.data, vectors)}
        return {name: flat[name] for name in wanted}


class _Names(optuna.trial.FixedTrial):
    """A trial that is asked only for the names of its options."""

    def __init__(self) -> None:
        super().__init__({})

    def suggest_float(self, name: str, low: float, high: float, **_: Any) -> float:
        return high

    def suggest_int(self, name: str, low: int, high: int, **_: Any) -> int:  # type: ignore[override]
        return high

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:  # type: ignore[override]
        return choices[0]


def keep(out: Path, model: str, study: optuna.study.Study) -> None:
    """Put the best options of ``model`` into the settings file, and its trials into the CSV beside it."""
    settings: dict[str, Any] = dict(read_settings(out)) if out.exists() else {}
    settings[model] = study.best_trial.user_attrs["options"]
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(yaml.safe_dump(settings, sort_keys=True), encoding="utf-8")
    rows = [
        {
            "model": model,
            "trial": trial.number,
            "state": trial.state.name.lower(),
            "seconds": round(trial.duration.total_seconds(), 1) if trial.duration else None,
            "best_epoch": trial.user_attrs.get("best_epoch"),
            "valid ndcg@20": trial.user_attrs.get("validation", {}).get("ndcg@20"),
            "valid recall@20": trial.user_attrs.get("validation", {}).get("recall@20"),
            "options": json.dumps(trial.user_attrs.get("options", {})),
        }
        for trial in study.trials
    ]
    path = out.with_suffix(".csv")
    table = pd.DataFrame(rows)
    if path.exists():
        old = pd.read_csv(path)
        old = old[old["model"] != model]
        table = table if old.empty else pd.concat([old, table], ignore_index=True)
    table.to_csv(path, index=False)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="data set, in any format the library reads")
    parser.add_argument("--models", nargs="+", default=list(MODELS), choices=MODELS, metavar="MODEL")
    parser.add_argument("--trials", type=int, help="budget of each model in trials; 40 where no minutes are given")
    parser.add_argument("--minutes", type=float, help="budget of each model in minutes of wall-clock")
    parser.add_argument("--out", type=Path, required=True, help="settings file (YAML)")
    parser.add_argument("--begin", type=Path, help="settings file whose options are tried first")
    parser.add_argument("--seed", type=int, default=1, help="of the search; the models train with seed 0")
    parser.add_argument("--journal", type=Path, help="file that keeps the trials")
    parser.add_argument("--device", help="'cpu' or 'cuda'; CUDA where there is one")
    options, fixed = parser.parse_known_args(argv)
    trials = 40 if options.trials is None and options.minutes is None else options.trials
    device = torch.device(options.device or ("cuda" if torch.cuda.is_available() else "cpu"))
    data = load_interactions(options.data)
    if not data.valid.size(1):
        parser.error(f"{options.data} has no validation split")
    search = Search(data, fixed, device)
    for model in options.models:
        search.config(model, {})  # a wrong word among the fixed ones stops here, not after hours
    begin = read_settings(options.begin) if options.begin else {}
    storage = None
    if options.journal:
        options.journal.parent.mkdir(parents=True, exist_ok=True)
        backend = JournalFileBackend(str(options.journal))
        storage = optuna.storages.JournalStorage(backend)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    for model in options.models:
        start = time.perf_counter()
        study = search.run(model, trials, options.minutes, storage, options.seed, begin.get(model))
        if not any(trial.state == TrialState.COMPLETE for trial in study.trials):
            print(f"{model}: no trial was completed")
            continue
        keep(options.out, model, study)
        best, minutes = study.best_trial, (time.perf_counter() - start) / 60
        found = best.user_attrs["validation"]
        validation = ", ".join(f"{name} {found[name]:.4f}" for name in ("recall@20", "ndcg@20"))
        print(f"{model}: {validation} on validation, trial {best.number} of {len(study.trials)}, {minutes:.1f} minutes")
        print(f"    {best.user_attrs['options']}", flush=True)


if __name__ == "__main__":
    main()
