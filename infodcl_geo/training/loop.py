"""The training loop: epochs of batches, selection on validation, and an end that keeps what was best."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import torch

from ..data.interactions import Interactions
from ..environment import keep_freed_memory
from ..errors import OptionError, TrainingError
from ..evaluation.ranking import Ranking, evaluate
from ..models.base import BprRows, Model
from ..models.scoring import Scorer
from .callbacks import Callback, EarlyStopping, ProgressBar
from .checkpoint import Checkpoint, restore
from .finite import FiniteWatch
from .interrupt import Interruption, stoppable
from .optim import LazyAdam
from .options import CheckpointOptions, TrainOptions
from .row_adam import RowAdam, runs_compiled
from .sampling import BatchSampler
from .state import EpochProgress, StopTraining, TrainResult, TrainState

DEFAULT_OPTIONS = TrainOptions()


class OneProcess:
    """What training leaves to whoever runs it, as one process does it; several override all of it."""

    def set_up(
        self, model: Model, data: Interactions, options: TrainOptions
    ) -> tuple[BatchSampler, torch.optim.Optimizer]:
        """Batches and the optimizer."""
        return set_up(model, data, options)

    def goes_on(self, state: TrainState, interruption: Interruption) -> bool:
        """Whether training goes on, asked after each step and each epoch."""
        return state.stopped is None and not interruption

    def totals(self, terms: dict[str, float]) -> dict[str, float]:
        """Loss terms of all processes from those of this one."""
        return terms

    def has_validation(self, data: Interactions) -> bool:
        """Whether there is a validation split to choose the epoch on."""
        return bool(data.valid.size(1))

    def validate(self, state: TrainState, data: Interactions, ks: tuple[int, ...]) -> dict[str, float]:
        """Metrics of the validation split."""
        device = next(state.model.parameters()).device
        return rank(data, state.model.scorer(), "valid", ks=ks, device=device, name=state.name).mean()

    def checkpoint(self, options: CheckpointOptions) -> Callback:
        """What writes checkpoints."""
        return Checkpoint(options)

    def restore(self, state: TrainState, folder: str | Path) -> None:
        """Go on from the newest checkpoint."""
        restore(state, folder)


ONE_PROCESS = OneProcess()

FUSED_ROWS = 25_000
"""Users and items from which on ``adam='auto'`` makes plain steps in one operation."""
_WINDOW = 32
"""Plain steps made at once, after which an interruption is seen."""
LAZY_ROWS = 200_000
"""Users and items from which on ``adam='auto'`` updates only the rows of a step."""


def make_optimizer(
    model: torch.nn.Module, lr: float, *, adam: Literal["auto", "dense", "lazy", "fused"] = "dense", anchors: int = 0
) -> torch.optim.Optimizer:
    """Adam, in its fused implementation, which updates each table in one pass, or lazily.

    Args:
        model: what to train; its own ``row_tables`` say whether and which tables can be updated lazily.
        lr: learning rate.
        adam: see :class:`~infodcl_geo.training.options.TrainOptions`.
        anchors: of a batch, at most.

    Raises:
        OptionError: for 'lazy', if a step of the model reads whole tables; for 'fused', if none is BPR alone.
    """
    rows = model.bpr_rows() if isinstance(model, Model) and adam in ("auto", "fused") else None
    if adam == "fused" and rows is None:
        raise OptionError(f"no step of {type(model).__name__} is BPR on rows alone: adam='fused' needs some")
    if rows is not None and (adam == "fused" or _pays(rows)):
        tables_of_rows = {rows.users.weight, rows.items.weight}
        others = (weight for weight in model.parameters() if weight not in tables_of_rows)
        return RowAdam(rows.users, rows.items, others, lr=lr, bpr_weight=rows.bpr_weight, l2=rows.l2)
    tables = model.row_tables(anchors) if isinstance(model, Model) and adam != "dense" else []
    if adam == "lazy" and not tables:
        raise OptionError(f"a step of this {type(model).__name__} reads whole tables: adam='lazy' needs one of rows")
    if adam == "lazy" or (tables and sum(table.num_embeddings for table in tables) >= LAZY_ROWS):
        lazy = {table.weight for table in tables}
        return LazyAdam(tables, (weight for weight in model.parameters() if weight not in lazy), lr=lr)
    return torch.optim.Adam(model.parameters(), lr=lr, fused=True)


def _pays(rows: BprRows) -> bool:
    """Whether plain steps in one operation are worth the passes over whole tables before the other steps."""
    size = rows.users.num_embeddings + rows.items.num_embeddings
    # On a GPU a plain step is three launches in the place of sixty.
    large = size >= FUSED_ROWS or rows.users.weight.is_cuda
    return large and (rows.always or size < LAZY_ROWS) and runs_compiled(rows.users.weight)


@contextmanager
def matmul_precision(precision: Literal["highest", "high", "medium"]) -> Iterator[None]:
    """``torch.set_float32_matmul_precision`` for a while."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(precision)
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def set_up(model: Model, data: Interactions, options: TrainOptions) -> tuple[BatchSampler, torch.optim.Optimizer]:
    """Batches of the training split, on the model's device and from the seed of ``options``, and the optimizer.

    The model's attributes ``anchors`` and ``anchor_batch`` say which items its batches diffuse.
    """
    device = next(model.parameters()).device
    sampler = BatchSampler(
        data.train.to(device),
        data.num_users,
        data.num_items,
        batch_size=options.batch_size,
        anchors=model.anchors,
        anchor_batch=model.anchor_batch,
        generator=torch.Generator(device).manual_seed(options.seed),
    )
    by_item = max(model.anchor_batch, -(-data.num_items // len(sampler)))
    anchors = by_item if model.anchors == "items" else options.batch_size
    return sampler, make_optimizer(model, options.lr, adam=options.adam, anchors=anchors)


def train(
    model: Model,
    data: Interactions,
    options: TrainOptions = DEFAULT_OPTIONS,
    *,
    ks: tuple[int, ...] = (10, 20, 50),
    name: str | None = None,
    callbacks: Sequence[Callback] = (),
    progress: bool = True,
    resume: str | Path | None = None,
    checkpoint: CheckpointOptions | None = None,
    identity: str = "",
    processes: OneProcess = ONE_PROCESS,
) -> TrainResult:
    """Train ``model`` and leave it with the weights of its best epoch on validation.

    The test split is never looked at. Without validation interactions the last epoch counts as the best.

    Ctrl-C and SIGTERM end training after the step under way (a second one at once): the result then says
    ``interrupted``, and the model has the weights of its best epoch so far, or of the last step if none was validated.

    Args:
        model: on the device where training happens, newly built; its ``anchors`` and ``anchor_batch`` say which items
            a batch diffuses.
        data: its training and validation splits are used.
        options: see :class:`~infodcl_geo.training.options.TrainOptions`.
        ks: cut-offs of the validation metrics.
        name: what the user calls the model, for messages; the name of its class if missing.
        callbacks: see :class:`~infodcl_geo.training.callbacks.Callback`; called before those that the other
            arguments ask for. Early stopping by the options' patience is always among them.
        progress: show (on a terminal) a progress bar.
        resume: folder of the checkpoints of a run to go on from; ``model``, ``data`` and ``options`` must be those of
            that run, but for ``epochs`` and ``patience``. On a CPU with as many threads the result is bit for bit that
            of a run without the interruption. Unless ``checkpoint`` says otherwise it goes on writing there.
        checkpoint: where and how often to write checkpoints; none if missing.
        identity: of the run: what else must be the same for a checkpoint to be gone on from, such as all settings and
            a fingerprint of the data; JSON, so that a refusal can name what differs, or any text.
        processes: what several processes that train together do in their own way.

    Raises:
        OptionError: if ``options.monitor`` is not among the metrics.
        TrainingError: if a loss term, a gradient or a weight is not finite; the best epoch's weights are loaded first,
            and the error has the ``result`` so far and the ``batch``.
        CheckpointError: if there is no whole checkpoint to go on from, or it is another run's.
        FileError: if the folder of checkpoints cannot be written or another process uses it.
    """
    keep_freed_memory()
    sampler, optimizer = processes.set_up(model, data, options)
    called = name or type(model).__name__
    state = TrainState(called, model, optimizer, sampler, options, FiniteWatch(model), identity)
    hooks = [*callbacks, EarlyStopping(options.patience)]
    if checkpoint is None and resume is not None:
        checkpoint = CheckpointOptions(resume)
    if checkpoint is not None:
        hooks.append(processes.checkpoint(checkpoint))
    if progress:
        hooks.append(ProgressBar())
    if resume is not None:
        processes.restore(state, resume)
    state.started = time.perf_counter()
    with stoppable() as interruption:
        try:
            _run(state, data, ks, hooks, interruption, processes)
        finally:
            if isinstance(optimizer, LazyAdam | RowAdam):
                optimizer.flush()
            if state.best_weights is not None:
                model.load_state_dict(state.best_weights)
    return state.result


def _run(
    state: TrainState,
    data: Interactions,
    ks: tuple[int, ...],
    hooks: Sequence[Callback],
    interruption: Interruption,
    processes: OneProcess,
) -> None:
    """Start the callbacks, train, and end the callbacks, whatever ended training."""
    started: list[Callback] = []
    try:
        for hook in hooks:
            started.append(hook)
            hook.on_start(state)
        _epochs(state, data, ks, hooks, interruption, processes)
    except StopTraining as reason:
        state.stop(str(reason) or "stopped by a callback")
    except KeyboardInterrupt as error:
        # In the midst of a step, whose state is no checkpoint.
        state.error = error
        interruption.signal = interruption.signal or "Ctrl-C"
    except BaseException as error:
        state.error = error
        state.result.ended = f"failed in epoch {state.epoch + 1}: {type(error).__name__}"
        if isinstance(error, TrainingError):
            state.result.ended = f"diverged: {error.term} is not finite in epoch {error.epoch}"
        raise
    finally:
        _say_why(state, processes.has_validation(data), interruption)
        _end(state, started)


def _say_why(state: TrainState, chosen: bool, interruption: Interruption) -> None:
    result = state.result
    if result.ended:
        return
    if interruption and state.stopped is None and state.epoch < state.options.epochs:
        result.interrupted = True
        under_way = state.epoch + (state.progress is not None)
        result.ended = f"interrupted by {interruption.signal} in epoch {under_way}"
    elif state.stopped is not None:
        result.ended = state.stopped
    else:
        improving = chosen and result.best_epoch == state.epoch
        result.ended = "epochs used up, still improving" if improving else "epochs used up"


def _end(state: TrainState, hooks: Sequence[Callback]) -> None:
    """Call ``on_end`` of all; the first error of theirs is raised when all were called."""
    failed: Exception | None = None
    for hook in hooks:
        try:
            hook.on_end(state)
        except Exception as error:
            failed = failed or error
    if failed is not None and (state.error is None or isinstance(state.error, KeyboardInterrupt)):
        raise failed


def _epochs(
    state: TrainState,
    data: Interactions,
    ks: tuple[int, ...],
    hooks: Sequence[Callback],
    interruption: Interruption,
    processes: OneProcess,
) -> None:
    options, result, generator = state.options, state.result, state.sampler.generator
    while state.epoch < options.epochs and processes.goes_on(state, interruption):
        begun = time.perf_counter()
        if state.progress is None:
            start = torch.get_rng_state() if generator is None else generator.get_state()
            state.progress = EpochProgress(start, state.sampler.draw())
            state.watch.restart()
        progress = state.progress
        begun -= progress.seconds
        with matmul_precision(options.matmul_precision):
            try:
                _steps(
                    state.model,
                    state.optimizer,
                    progress,
                    generator,
                    state.watch,
                    _after_step(state, hooks, interruption, begun, processes),
                )
            except (RuntimeError, ValueError, ArithmeticError):
                # Operations refuse what is not finite in words of their own.
                state.verify()
                raise
            if progress.step < len(progress.plan):
                return
            terms = processes.totals(_end_epoch(state.optimizer, progress))
        seconds = time.perf_counter() - begun
        state.verify()
        result.epoch_seconds.append(seconds)
        state.epoch, state.progress = state.epoch + 1, None
        result.history.append({"epoch": state.epoch, "seconds": state.seconds, **terms})
        if state.epoch % options.eval_every == 0 or state.epoch == options.epochs:
            _validate(state, data, ks, processes)
            for hook in hooks:
                hook.on_validation(state)
        for hook in hooks:
            hook.on_epoch(state)


def _after_step(
    state: TrainState, hooks: Sequence[Callback], interruption: Interruption, begun: float, processes: OneProcess
) -> Callable[[], bool]:
    """What is called after each step, and says whether training goes on."""
    watching = [hook for hook in hooks if type(hook).on_step is not Callback.on_step]

    def after_step() -> bool:
        assert state.progress is not None
        state.progress.seconds = time.perf_counter() - begun
        for hook in watching:
            hook.on_step(state)
        return processes.goes_on(state, interruption)

    return after_step


def _validate(state: TrainState, data: Interactions, ks: tuple[int, ...], processes: OneProcess) -> None:
    model, result, monitor = state.model, state.result, state.options.monitor
    metrics = {monitor: float(state.epoch)}
    chosen = processes.has_validation(data)
    if chosen:
        metrics = processes.validate(state, data, ks)
        if monitor not in metrics:
            raise OptionError(f"monitor must be one of {', '.join(metrics)}, not {monitor!r}")
    state.history[-1] |= {"seconds": state.seconds, **metrics}
    if metrics[monitor] > state.best:
        state.best, result.best_epoch = metrics[monitor], state.epoch
        result.validation = metrics if chosen else {}
        state.best_weights = {name: value.detach().clone() for name, value in model.state_dict().items()}


def train_epoch(
    model: Model,
    sampler: BatchSampler,
    optimizer: torch.optim.Optimizer,
    generator: torch.Generator | None = None,
) -> dict[str, float]:
    """One pass over the sampler's batches; the mean of each loss term."""
    progress = EpochProgress(torch.empty(0), sampler.draw())
    _steps(model, optimizer, progress, generator)
    return _end_epoch(optimizer, progress)


def _steps(
    model: Model,
    optimizer: torch.optim.Optimizer,
    progress: EpochProgress,
    generator: torch.Generator | None,
    watch: FiniteWatch | None = None,
    after_step: Callable[[], bool] | None = None,
) -> None:
    """The steps that are left of an epoch, or those until ``after_step`` says no."""
    sums, plan = progress.sums, progress.plan
    fused = optimizer if isinstance(optimizer, RowAdam) else None
    while progress.step < len(plan):
        optimizer.zero_grad(set_to_none=True)
        if fused is not None:
            stop = progress.step
            while stop < min(len(plan), progress.step + _WINDOW) and model.is_plain(plan[stop]):
                stop += 1
            if stop > progress.step:
                values = fused.run(plan, progress.step, stop)
                terms = dict(zip(("bpr", "reg"), values, strict=True))
                if watch is not None:
                    watch.note(terms, values, stop - progress.step)
                for name, value in terms.items():
                    sums[name] = sums[name] + value if name in sums else value
                progress.step = stop
                if after_step is not None and not after_step():
                    return
                continue
            fused.flush()
        terms = model.loss(plan[progress.step], generator)
        values = torch.stack(list(terms.values()))
        values.sum().backward()
        if watch is not None:
            watch.note(terms, values)
        optimizer.step()
        for name, value in terms.items():
            # Summed as tensors: reading a value each step would wait for the device.
            sums[name] = sums[name] + value.detach() if name in sums else value.detach()
        progress.step += 1
        if after_step is not None and not after_step():
            return


def _end_epoch(optimizer: torch.optim.Optimizer, progress: EpochProgress) -> dict[str, float]:
    """Bring all weights up to date; the mean of each loss term."""
    # What comes next reads whole tables, and the gradients only take its memory.
    optimizer.zero_grad(set_to_none=True)
    if isinstance(optimizer, LazyAdam | RowAdam):
        optimizer.flush()
    return {name: float(value) / len(progress.plan) for name, value in progress.sums.items()}


def rank(
    data: Interactions,
    scorer: Scorer,
    split: Literal["valid", "test"],
    *,
    ks: tuple[int, ...] = (10, 20, 50),
    mask_validation: bool = False,
    device: torch.device | str = "cpu",
    name: str = "the model",
) -> Ranking:
    """Each user's metrics on a held-out split, training items left out of the ranking.

    Args:
        device: where ``scorer`` expects its users.
        mask_validation: in test, leave the validation items out of the ranking as well.
        name: what the user calls the model, for messages.
    """
    seen = [data.train] if split == "valid" or not mask_validation else [data.train, data.valid]
    return evaluate(
        scorer,
        getattr(data, split).to(device),
        num_users=data.num_users,
        num_items=data.num_items,
        seen=[pairs.to(device) for pairs in seen],
        ks=ks,
        train=data.train.to(device),
        item_counts=torch.bincount(data.train[1], minlength=data.num_items).to(device),
        name=name,
    )
