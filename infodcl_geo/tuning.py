"""A search of a model's options on the validation split, by Optuna (the extra ``tune``)."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from .channels.base import Channel, PretrainedVectors
from .channels.build import ChannelOptions, channel_builders
from .configuration import Config
from .data.interactions import Interactions
from .errors import NO_MEMORY, InfodclGeoError, OptionError, is_own_fault
from .experiment import fit
from .models import Recipe
from .pretraining import best_num_layers, pretrain, spectral_vectors
from .resuming import Unfinished, forget, is_left
from .training.callbacks import OnValidation

try:
    import optuna
except ImportError:  # pragma: no cover
    optuna = None  # type: ignore[assignment]

_CHANNEL_OPTIONS = tuple(part.name for part in fields(ChannelOptions))
MOST_TRIALS_OF_A_CLOSED_FORM = 100
"""One or two numbers are exhausted by then."""
MOST_FAILURES = 3
"""A search whose first so many trials all fail ends: its model does not fit the data or the options."""


def quality(validation: Mapping[str, float]) -> float:
    """What a search maximises: NDCG@20 + Recall@20 / 2 of the epoch that validation selects."""
    return validation["ndcg@20"] + validation["recall@20"] / 2


@dataclass(frozen=True)
class Budget:
    """When a search ends.

    Args:
        trials: finished trials, pruned ones included.
        minutes: of wall-clock. The first trial of each start is always finished.
    """

    trials: int | None = 40
    minutes: float | None = None

    def __post_init__(self) -> None:
        if self.trials is None and self.minutes is None:
            raise OptionError("a search needs a budget: trials, minutes, or both")
        if self.trials is not None and self.trials < 1:
            raise OptionError(f"trials must be at least 1, not {self.trials}")
        if self.minutes is not None and not self.minutes > 0:
            raise OptionError(f"minutes must be positive, not {self.minutes}")


class _Names:
    """A :class:`~infodcl_geo.models.recipe.Space` that only lists what is asked."""

    def __init__(self) -> None:
        self.names: list[str] = []

    def number(self, name: str, low: float, high: float, *, log: bool = True) -> None:
        self.names.append(name)

    def whole(self, name: str, low: int, high: int, *, log: bool = False) -> None:
        self.names.append(name)

    def choice(self, name: str, choices: Sequence[Any]) -> None:
        self.names.append(name)


class _Trial:
    """A :class:`~infodcl_geo.models.recipe.Space` that an Optuna trial answers, but for what is fixed."""

    def __init__(self, trial: Any, fixed: Sequence[str]) -> None:
        self.trial, self.fixed = trial, set(fixed)
        self.options: dict[str, Any] = {}

    def number(self, name: str, low: float, high: float, *, log: bool = True) -> None:
        if name not in self.fixed:
            # Rounded before use, so that a file of settings holds exactly what was tried.
            self.options[name] = float(f"{self.trial.suggest_float(name, low, high, log=log and low > 0):.3g}")

    def whole(self, name: str, low: int, high: int, *, log: bool = False) -> None:
        if name not in self.fixed:
            self.options[name] = self.trial.suggest_int(name, low, high, log=log)

    def choice(self, name: str, choices: Sequence[Any]) -> None:
        if name not in self.fixed:
            self.options[name] = self.trial.suggest_categorical(name, choices)


def searched(recipe: Recipe) -> list[str]:
    """Names of the options that the search of a model varies."""
    names = _Names()
    if recipe.search is not None:
        recipe.search(names)
    return names.names


class Search:
    """The searches on one data set.

    Args:
        data: interactions with a validation split; the test split is not read.
        device: where models are trained.

    Raises:
        OptionError: without a validation split, or without Optuna.
    """

    def __init__(self, data: Interactions, *, device: torch.device | str | None = None) -> None:
        if optuna is None:
            raise OptionError("a search needs Optuna: pip install 'infodcl-geo[tune]'")
        if not data.valid.size(1):
            raise OptionError(f"{data.name} has no validation split to search on")
        optuna.logging.set_verbosity(optuna.logging.CRITICAL)  # a failed trial would be a traceback
        self.data, self.device = data, device
        self._vectors: dict[str, PretrainedVectors] = {}
        self._channels: dict[str, list[Channel]] = {}

    def _prepared(self, config: Config) -> dict[str, Any]:
        """Pretrained vectors and channels of the trial, made once for all trials that share their options."""
        if not config.uses_vectors or config.recipe.closed_form:
            return {}
        options: Any = config.options
        of_vectors = (options.pretraining, options.smoothing, options.power, options.dim, config.training.seed)
        key = json.dumps(of_vectors)
        if key not in self._vectors:
            self._vectors[key] = pretrain(self.data, options, seed=config.training.seed)[1]
        vectors = self._vectors[key]
        if not config.recipe.reads_channels:
            return {"vectors": vectors}
        of_channels = {name: value for name, value in vars(options).items() if name in _CHANNEL_OPTIONS}
        channel_key = key + json.dumps(of_channels, sort_keys=True)
        if channel_key not in self._channels:
            builders = channel_builders(options, self.data)
            self._channels[channel_key] = [build(self.data, vectors) for build in builders]
        return {"vectors": vectors, "channels": self._channels[channel_key]}

    def run(
        self,
        make: Callable[[Mapping[str, Any]], Config],
        budget: Budget,
        *,
        fixed: Sequence[str] = (),
        storage: Any = None,
        seed: int = 1,
        begin: Mapping[str, Any] | None = None,
        say: Callable[[str], None] = print,
        checkpoints: Path | None = None,
    ) -> Any:
        """Search one model until its budget is spent.

        Each search begins with the model's own defaults, then with those of its other starts (of ``begin`` before
        them), so it never ends below them; it goes on by Optuna's TPE with median pruning.

        Args:
            make: the configuration with the given options over the defaults; its model is searched.
            budget: when to stop. It is never cut to less than one finished trial of each start, and that is said.
            fixed: names of options that ``make`` fixes; they are not searched.
            storage: an Optuna storage, so that a search can be resumed and shared.
            seed: of the search; the models train with the seed of ``make``.
            begin: options to try first, such as those found on another data set.
            say: told what does not fit the budget.
            checkpoints: folder for the checkpoints of trials that are not done; with it, and a ``storage``, a search
                that was stopped goes on in the midst of its trial.

        Returns:
            The Optuna study; each trial has ``options``, ``validation`` and ``best_epoch`` among its attributes, and
            one that failed its ``error``.
        """
        recipe = make({}).recipe
        if recipe.search is None:
            raise OptionError(f"{recipe.name} has nothing to search")
        if not 0 <= seed < 2**32:
            raise OptionError(f"the seed of a search must be a whole number from 0 to 2^32 - 1, not {seed}")
        study = optuna.create_study(
            study_name=recipe.name,
            storage=storage,
            load_if_exists=True,
            direction="maximize",
            sampler=optuna.samplers.TPESampler(seed=seed, multivariate=True),
            pruner=optuna.pruners.MedianPruner(n_startup_trials=8, n_warmup_steps=50),
        )
        starts = self.starts(make, fixed, begin)
        trials = budget.trials
        if recipe.closed_form:
            trials = min(trials or MOST_TRIALS_OF_A_CLOSED_FORM, MOST_TRIALS_OF_A_CLOSED_FORM)
        spent = sum((t.duration.total_seconds() for t in study.trials if t.duration is not None), 0.0)
        deadline = float("inf") if budget.minutes is None else time.monotonic() + 60 * budget.minutes - spent
        work = partial(self._attempt, study, make, fixed, deadline, say, None if recipe.closed_form else checkpoints)
        try:
            for trial in _left(study, checkpoints):
                work(trial)
            # A start whose trial a killed process left unfinished, or never asked for, is asked for again.
            asked = {t.user_attrs.get("start") for t in study.trials if _ended(t) or t.state.name == "WAITING"}
            for number, start in enumerate(starts):
                if number not in asked:
                    study.enqueue_trial(start, user_attrs={"start": number})
            said = False
            while True:
                ended = [t for t in study.trials if _ended(t)]
                failed = sum(t.state.name == "FAIL" for t in ended)
                if failed == len(ended) >= max(MOST_FAILURES, len(starts)):
                    break
                over = time.monotonic() > deadline or (trials is not None and len(ended) >= trials)
                if over and len({t.user_attrs.get("start") for t in ended} - {None}) >= len(starts):
                    break
                if over and not said:
                    said = True
                    say(
                        f"{recipe.name}: the budget is over, but each start gets one finished trial "
                        f"({len(starts)} in all)"
                    )
                work(study.ask())
        except AssertionError as error:  # what Optuna makes of a storage that cannot be written
            raise _storage_error(error) from None
        return study

    def _attempt(
        self,
        study: Any,
        make: Callable[[Mapping[str, Any]], Config],
        fixed: Sequence[str],
        deadline: float,
        say: Callable[[str], None],
        checkpoints: Path | None,
        trial: Any,
    ) -> None:
        """Do one trial and tell the study; one that is interrupted stays unfinished."""
        place = None if checkpoints is None else Unfinished(_folder(checkpoints, study, trial.number))
        with nullcontext() if place is None else place:
            try:
                value = self._trial(trial, make, fixed, deadline, place)
            except optuna.TrialPruned:
                study.tell(trial, state=optuna.trial.TrialState.PRUNED)
            except (FloatingPointError, InfodclGeoError, MemoryError, RuntimeError) as error:
                if not isinstance(error, FloatingPointError) and not is_own_fault(error):
                    raise
                reason = NO_MEMORY if isinstance(error, MemoryError | RuntimeError) else str(error)
                say(f"{study.study_name}: trial {trial.number} failed: {reason}")
                trial.set_user_attr("error", reason)
                study.tell(trial, state=optuna.trial.TrialState.FAIL)
            else:
                study.tell(trial, value)

    def starts(
        self, make: Callable[[Mapping[str, Any]], Config], fixed: Sequence[str], begin: Mapping[str, Any] | None
    ) -> list[dict[str, Any]]:
        """What is tried first: ``begin``, then the defaults of each start of the model, as values to be searched."""
        recipe = make({}).recipe
        names = [name for name in searched(recipe) if name not in fixed]
        own = make({})
        configs = [own]
        init = getattr(own.options, "init", None)
        if init is not None and "init" not in fixed:
            configs += [make({"init": other}) for other in ("normal", "pretrained") if other != init]
        starts = []
        for config in configs:
            values = self._with_what_is_chosen(config).flat()
            starts.append({name: values[name] for name in names if values.get(name) is not None})
        if begin:
            chosen = {name: begin[name] for name in names if name in begin}
            values = make(chosen).flat()  # says what cannot be, and makes numbers of their words
            starts.insert(0, {**starts[0], **{name: values[name] for name in chosen if values[name] is not None}})
        return starts

    def _with_what_is_chosen(self, config: Config) -> Config:
        """The smoothing and the number of layers as numbers, where a run would choose them."""
        options: Any = config.options
        if getattr(options, "num_layers", 1) is not None:
            return config
        options, vectors = spectral_vectors(self.data, options)
        return replace(config, options=replace(options, num_layers=best_num_layers(self.data, vectors)))

    def _trial(
        self,
        trial: Any,
        make: Callable[[Mapping[str, Any]], Config],
        fixed: Sequence[str],
        deadline: float,
        unfinished: Unfinished | None,
    ) -> float:
        is_start = "start" in trial.user_attrs
        space = _Trial(trial, fixed)
        config = make({})
        assert config.recipe.search is not None
        config.recipe.search(space)
        trial.set_user_attr("options", space.options)
        config = make(space.options)
        # What a trial that is gone on with has reported already.
        told = dict(trial.study.get_trials(deepcopy=False)[trial.number].intermediate_values)
        best = 0.0

        def report(epoch: int, metrics: Mapping[str, float]) -> None:
            nonlocal best
            best = max(best, quality(metrics), *(value for at, value in told.items() if at <= epoch))
            if epoch not in told:
                trial.report(best, epoch)
            if not is_start and (trial.should_prune() or time.monotonic() > deadline):
                raise optuna.TrialPruned

        training = partial(
            fit,
            self.data,
            config,
            **self._prepared(config),
            ks=(20,),
            device=self.device,
            progress=False,
            callbacks=[OnValidation(report)],
        )
        outcome = training() if unfinished is None else unfinished.run(training)
        if outcome.result.interrupted:
            raise KeyboardInterrupt
        trial.set_user_attr("validation", outcome.result.validation)
        trial.set_user_attr("best_epoch", outcome.result.best_epoch)
        return quality(outcome.result.validation)


def _folder(checkpoints: Path, study: Any, number: int) -> Path:
    """Of the checkpoints of a trial."""
    return checkpoints / f"{re.sub(r'[^A-Za-z0-9_.-]', '_', study.study_name)}-{number}"


def _left(study: Any, checkpoints: Path | None) -> Iterator[Any]:
    """The trials that a process that is gone left with checkpoints to go on from."""
    if checkpoints is None or not checkpoints.is_dir():
        return
    for frozen in study.get_trials(deepcopy=False):
        folder = _folder(checkpoints, study, frozen.number)
        if frozen.state.is_finished():
            forget(folder)
        elif frozen.state.name == "RUNNING" and folder.is_dir() and is_left(folder):
            yield optuna.trial.Trial(study, frozen._trial_id)


def _storage_error(error: BaseException) -> BaseException:
    """The error of the operating system that another came of, or else that other."""
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, OSError):
        cause = cause.__context__
    return cause or error


def _ended(trial: Any) -> bool:
    """Whether a trial came to its own end."""
    return trial.state.is_finished() and not trial.user_attrs.get("interrupted", False)


def trial_rows(study: Any) -> list[dict[str, Any]]:
    """The trials of a study as rows of a table."""
    return [
        {
            "model": study.study_name,
            "trial": trial.number,
            "state": trial.state.name.lower(),
            "seconds": round(trial.duration.total_seconds(), 1) if trial.duration else "",
            "best_epoch": trial.user_attrs.get("best_epoch", ""),
            "valid ndcg@20": trial.user_attrs.get("validation", {}).get("ndcg@20", ""),
            "valid recall@20": trial.user_attrs.get("validation", {}).get("recall@20", ""),
            "options": json.dumps(trial.user_attrs.get("options", {})),
            "error": trial.user_attrs.get("error", ""),
        }
        for trial in study.trials
    ]


def failed_row(model: str, error: str) -> dict[str, Any]:
    """The row of a model that could not be searched at all, in the table of :func:`trial_rows`."""
    names = ("trial", "seconds", "best_epoch", "valid ndcg@20", "valid recall@20", "options")
    return {"model": model, "state": "fail", **dict.fromkeys(names, ""), "error": error}
