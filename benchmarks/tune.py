"""Search a model's settings on the validation split; every model gets the same budget and the same shared ranges.

    python benchmarks/tune.py --data ../shared/data/office --model infodcl --trials 40 --journal runs/tune.log

Needs the extra ``tune`` (Optuna). The test split is not looked at. With ``--journal`` a search can be resumed, and
shared by several processes. The objective is NDCG@20 + Recall@20 / 2 of the best epoch.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import optuna
import torch
from torch import Tensor

from infodcl_geo.channels import Channel
from infodcl_geo.experiment import Config, build_channels, build_model, default_config, pretrain
from infodcl_geo.interactions import load_interactions
from infodcl_geo.training import train


def suggest(trial: optuna.Trial, model: str, epochs: int) -> Config:
    """Settings of one trial."""
    config = default_config(model)  # type: ignore[arg-type]
    shared = replace(
        config.model,
        penalty=trial.suggest_float("penalty", 5e-4, 4e-2, log=True),
        num_layers=trial.suggest_int("num_layers", 1, 3),
        init_std=trial.suggest_float("init_std", 0.003, 0.1, log=True),
    )
    training = replace(config.training, lr=trial.suggest_float("lr", 2e-3, 1.5e-2, log=True), epochs=epochs)
    if model != "infodcl":
        return replace(config, model=shared, training=training)
    infodcl = replace(
        config.infodcl,
        reconstruction=trial.suggest_float("reconstruction", 1e-3, 0.6, log=True),
        contrast=trial.suggest_float("contrast", 1e-3, 0.3, log=True),
        temperature=trial.suggest_float("temperature", 0.1, 1.0, log=True),
        metadata_scale=trial.suggest_float("metadata_scale", 0.3, 10, log=True),
        schedule=trial.suggest_categorical("schedule", ["exp", "linear", "cosine", "sqrt"]),
    )
    channels = trial.suggest_categorical("channels", ["item", "user", "both"])
    return Config(replace(shared, channels=channels), training, infodcl)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="data set, in any format the library reads")
    parser.add_argument("--model", default="infodcl", choices=["infodcl", "lightgcn", "mf"])
    parser.add_argument("--trials", type=int, default=40)
    parser.add_argument("--epochs", type=int, default=300)
    parser.add_argument("--seed", type=int, default=1, help="of the search; the models train with seed 0")
    parser.add_argument("--journal", type=Path, help="file that keeps the trials")
    options = parser.parse_args()
    data = load_interactions(options.data)
    vectors: list[tuple[Tensor, Tensor]] = []

    def objective(trial: optuna.Trial) -> float:
        config = suggest(trial, options.model, options.epochs)
        channels: list[Channel] = []
        if options.model == "infodcl":
            if not vectors:
                vectors.append(pretrain(data, config, device=torch.device("cpu"), progress=False))
            channels = build_channels(data, config, *vectors[0])
        best = 0.0

        def report(epoch: int, metrics: dict[str, float]) -> None:
            nonlocal best
            best = max(best, metrics["ndcg@20"] + metrics["recall@20"] / 2)
            trial.report(best, epoch)
            if trial.should_prune():
                raise optuna.TrialPruned

        result = train(
            build_model(data, config, channels), data, config.training, ks=(20,), progress=False, on_evaluation=report
        )
        trial.set_user_attr("validation", result.validation)
        trial.set_user_attr("best_epoch", result.best_epoch)
        return best

    storage = None
    if options.journal:
        options.journal.parent.mkdir(parents=True, exist_ok=True)
        backend = optuna.storages.journal.JournalFileBackend(str(options.journal))
        storage = optuna.storages.JournalStorage(backend)
    study = optuna.create_study(
        study_name=options.model,
        storage=storage,
        load_if_exists=True,
        direction="maximize",
        sampler=optuna.samplers.TPESampler(seed=options.seed, multivariate=True),
        pruner=optuna.pruners.MedianPruner(n_startup_trials=8, n_warmup_steps=50),
    )
    study.optimize(objective, n_trials=options.trials, show_progress_bar=True)
    print(study.best_value, study.best_params, study.best_trial.user_attrs)


if __name__ == "__main__":
    main()
