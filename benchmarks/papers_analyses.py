"""What the figures of the papers look into: signal-to-noise, maps of items, losses, singular vectors, change."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from papers_plan import Side, authors, from_random, simdiff
from papers_runs import Budget, CpuLimit
from torch import Tensor

from infodcl_geo import Config, InfodclGeoError, Interactions
from infodcl_geo.errors import OptionError
from infodcl_geo.experiment import fit
from infodcl_geo.outcome import Run
from infodcl_geo.training.callbacks import Callback
from infodcl_geo.training.state import TrainState

Rows = list[dict[str, Any]]


@dataclass
class Trainings:
    """Models that several figures look into, each trained once.

    Args:
        data: the interactions.
        side: their side information.
        changes: options of training, for all.
        budget: of time.
    """

    data: Interactions
    side: Side
    changes: Mapping[str, Any]
    budget: Budget
    known: dict[str, Run] = field(default_factory=dict)

    def fit(self, config: Config, *watch: Callback) -> Run:
        """The trained model; kept unless something watches it.

        Raises:
            InfodclGeoError: if no time is left.
        """
        config = config.changed(**self.changes)
        key = "" if watch else str(config)
        if key in self.known:
            return self.known[key]
        if self.budget.left <= 0:
            raise InfodclGeoError(f"the {self.budget.minutes:g} minutes were used up before {config.name} was trained")
        callbacks = [*watch, CpuLimit(self.budget.run_minutes)]
        run = fit(self.data, config, device="cpu", progress=False, callbacks=callbacks)
        if key:
            self.known[key] = run
        return run


def snr(x: Tensor) -> dict[str, float]:
    """Eq. 17, mean squared over variance: of all entries together, and of each column, averaged.

    Args:
        x: ``[N, d]``.
    """
    return {
        "all entries": float(x.mean() ** 2 / x.var()),
        "mean over dimensions": float((x.mean(0) ** 2 / x.var(0)).mean()),
    }


def noised(model: Any, t: int, informative: bool, seed: int = 0) -> tuple[Tensor, Tensor]:
    """All items after t steps of an InfoDCL model's first channel, and the noise that they got, ``[N, d]`` each."""
    channel = next(iter(model.channels.values()))
    e = model.item_embedding.weight.detach()
    items = torch.arange(len(e))
    noise = torch.randn(e.shape, generator=torch.Generator().manual_seed(seed))
    when = torch.full((len(e),), t)
    with torch.no_grad():
        if informative:
            noise, z = channel.psnet.diffuse(noise, channel.metadata[items], e, model.diffusion.alpha_bar[when - 1])
            return z, noise
        return model.diffusion(e, noise, when), noise


def identity(model: Any, t: int, informative: bool, draws: int = 8) -> float:
    """Variance of items' means over variance between draws: whether items are told apart; pure noise has 1 / draws."""
    z = torch.stack([noised(model, t, informative, seed)[0] for seed in range(draws)])
    return float(z.mean(0).var(0).sum() / z.var(0).mean(0).sum())


def figure4(trainings: Trainings) -> Rows:
    """Eq. 17 over the steps for both noises on the same items, and how well the noised items are told apart."""
    model = trainings.fit(authors()).model
    rows = []
    steps = model.diffusion.steps  # type: ignore[union-attr]
    for t in [1, *range(steps // 20, steps + 1, steps // 20)]:
        for informative, name in ((True, "informative"), (False, "Gaussian")):
            for how, value in snr(noised(model, t, informative)[0]).items():  # type: ignore[arg-type]
                rows.append({"line": f"{name}, {how}", "x": t, "y": value})
            value = identity(model, t, informative)  # type: ignore[arg-type]
            rows.append({"line": f"{name}, items told apart", "x": t, "y": value})
    return _named(rows, "step t", "signal to noise", "log")


def _named(rows: Rows, across: str, up: str, scale: str = "linear") -> Rows:
    rows.sort(key=lambda row: str(row["line"]))
    return [{**row, "axes": f"{across}|{up}|{scale}"} for row in rows]


def spread(x: Tensor) -> dict[str, float]:
    """How evenly vectors lie: mean cosine with the nearest other, and log mean exp(-2 |x - y|^2) of unit vectors."""
    unit = F.normalize(x)
    cosine = unit @ unit.T
    cosine.fill_diagonal_(-1)
    pairs = torch.triu_indices(len(x), len(x), 1)
    uniformity = torch.log(torch.exp(-2 * (2 - 2 * cosine[pairs[0], pairs[1]])).mean())
    return {"nearest cosine": float(cosine.max(1).values.mean()), "uniformity": float(uniformity)}


def figure5(trainings: Trainings, most: int = 1500) -> Rows:
    """t-SNE of the item embeddings after training with either noise; the rows also say how evenly they lie."""
    try:
        from sklearn.manifold import TSNE
    except ImportError:
        raise OptionError("the map of items needs scikit-learn: pip install 'infodcl-geo[papers]'") from None
    rows = []
    for name, config in (("informative noise", authors()), ("Gaussian noise", authors(psnet=False))):
        table = trainings.fit(config).model.item_embedding.weight.detach()  # type: ignore[union-attr, operator]
        chosen = torch.randperm(len(table), generator=torch.Generator().manual_seed(0))[:most]
        found = spread(table[chosen])  # type: ignore[index]
        places = TSNE(init="pca", random_state=0, max_iter=500).fit_transform(table[chosen].numpy())  # type: ignore[index]
        label = f"{name}: {found['nearest cosine']:.3f} to the nearest"
        rows += [{"line": label, "x": float(x), "y": float(y), **found} for x, y in places]
    return rows


def loss_rows(run: Run, name: str) -> Rows:
    """Reconstruction and BPR of each epoch, without their weights."""
    weight = run.config.flat()["reconstruction"]
    found = []
    for row in run.result.history:
        for term, of in (("recon", weight), ("bpr", 1 - weight)):
            if term in row:
                found.append({"line": f"{term}, {name}", "x": row["epoch"], "y": row[term] / of})
    return found


def figure6(trainings: Trainings) -> Rows:
    """InfoDCL's losses with the balance loss of its authors, with a heavy one (eq. 13), and without."""
    rows = []
    for name, config in (
        ("balance 5e-5", authors()),
        ("no balance", authors(balance=0.0)),
        ("norm of eq. 13, weight 1", authors(balance=1.0, balance_kind="norm")),
    ):
        rows += loss_rows(trainings.fit(config), name)
    return _named(rows, "epoch", "loss", "log")


def simdiff_figure6(trainings: Trainings) -> Rows:
    """SimDiff's losses with and without the collaboration loss."""
    rows = []
    for name, changes in (("with CTO", {}), ("w/o CTO", {"collaboration": 0.0})):
        rows += loss_rows(trainings.fit(simdiff(trainings.side, **changes)), name)
    return _named(rows, "epoch", "loss", "log")


def cosines(one: Tensor, other: Tensor) -> Tensor:
    """The absolute cosine of each pair of right singular vectors of two matrices ``[N, d]``, in the order of values."""
    bases = [torch.linalg.svd(x, full_matrices=False).Vh for x in (one, other)]
    return (bases[0] * bases[1]).sum(1).abs()


def figure7(trainings: Trainings) -> Rows:
    """Singular vectors of the diffusion's input at the last step and of its output; and what chance would give."""
    model: Any = trainings.fit(authors()).model
    last = model.diffusion.steps
    channel = next(iter(model.channels.values()))
    rows = []
    for t in (1, last // 2, last):
        z = noised(model, t, informative=True)[0]
        with torch.no_grad():
            out = channel.denoiser(z, torch.full((len(z),), t))
        rows += [{"line": f"step {t}", "x": k, "y": float(y)} for k, y in enumerate(cosines(z, out), 1)]
    random = torch.randn(2, *z.shape, generator=torch.Generator().manual_seed(0))
    rows += [{"line": "two random matrices", "x": k, "y": float(y)} for k, y in enumerate(cosines(*random), 1)]
    return _named(rows, "singular vector", "absolute cosine of input and output")


class Change(Callback):
    """The mean relative change of some users' scores from epoch to epoch (SimDiff eq. 1), median over the scores.

    The mean of the paper is ruled by scores near 0, whose relative change has no bound; it is kept beside the median.
    """

    def __init__(self, users: Tensor, num_items: int) -> None:
        self.users, self.items, self.rows = users, slice(0, num_items), []
        self._before: Tensor | None = None

    users: Tensor
    rows: list[tuple[int, float, float]]

    def on_epoch(self, state: TrainState) -> None:
        now = state.model.scorer()(self.users, self.items).detach().clone()
        if self._before is not None:
            change = (now - self._before).abs() / self._before.abs().clamp(min=1e-12)
            self.rows.append((state.epoch, float(change.mean()), float(change.median())))
        self._before = now


def simdiff_figure3(trainings: Trainings) -> Rows:
    """How much what is generated changes from epoch to epoch, in diffusion models."""
    rows: Rows = []
    users = trainings.data.train[0].unique()[:100]
    for name, config in (("SimDiff", simdiff(trainings.side)), *((n, from_random(n)) for n in ("diffrec", "ddrm"))):
        watch = Change(users, trainings.data.num_items)
        trainings.fit(config, watch)
        for epoch, mean, median in watch.rows:
            rows.append({"line": name, "x": epoch, "y": median, "mean": mean})
    return _named(rows, "epoch", "median relative change of scores", "log")


class Latents(Callback):
    """log of eq. 22 of SimDiff's latent variables each epoch, and of the same items with noise added instead."""

    def __init__(self) -> None:
        self.rows: Rows = []

    @torch.no_grad()
    def on_epoch(self, state: TrainState) -> None:
        model: Any = state.model
        e = model.item_embedding.weight
        signal = model.signal(torch.arange(len(e)))
        noise = torch.randn(e.shape, generator=torch.Generator().manual_seed(0))
        share = model.options.injection
        for name, x in (("signal", share * e + (1 - share) * signal), ("noise", share * e + (1 - share) * noise)):
            for how, value in snr(x).items():
                self.rows.append({"line": f"{name}, {how}", "x": state.epoch, "y": value})


def simdiff_figure5(trainings: Trainings) -> Rows:
    """SNR of SimDiff's latent variables over the epochs."""
    watch = Latents()
    trainings.fit(simdiff(trainings.side), watch)
    return _named(watch.rows, "epoch", "signal to noise", "log")


@dataclass(frozen=True)
class Figure:
    """A figure: what it shows, how it is drawn, and what makes its rows."""

    title: str
    kind: str
    make: Callable[[Trainings], Rows]


FIGURES: dict[str, Figure] = {
    "infodcl-figure4": Figure("InfoDCL, Figures 4 and 8: signal to noise", "lines", figure4),
    "infodcl-figure5": Figure("InfoDCL, Figure 5: t-SNE of the items", "points", figure5),
    "infodcl-figure6": Figure("InfoDCL, Figure 6: losses", "lines", figure6),
    "infodcl-figure7": Figure("InfoDCL, Figure 7: singular vectors", "lines", figure7),
    "simdiff-figure3": Figure("SimDiff, Figure 3: change by epoch", "lines", simdiff_figure3),
    "simdiff-figure5": Figure("SimDiff, Figure 5: signal to noise", "lines", simdiff_figure5),
    "simdiff-figure6": Figure("SimDiff, Figure 6: losses", "lines", simdiff_figure6),
}
