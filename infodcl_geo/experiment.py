"""From interactions to a trained and scored model: pretraining, channels, model, training, test."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal, TypeAlias, get_args

import torch
from torch import Tensor

from .channels.agreement import row_agreement
from .channels.base import Channel, ChannelBuilder, Vectors
from .channels.knowledge import Knowledge, load_knowledge
from .channels.modal import Modal, load_features
from .channels.similarity import ItemSimilarity, UserSimilarity
from .channels.social import Social, load_social
from .data.interactions import Interactions
from .evaluation.groups import by_item_degree, by_user_degree
from .evaluation.ranking import Ranking, evaluate
from .graph.graph import normalized_adjacency, propagate
from .graph.spectral import DEFAULT_SMOOTHING, EXACT_NODES, SVDOptions, spectral_embeddings
from .models.base import EmbeddingModel, Model
from .models.diffcl import DiffCL, DiffCLOptions
from .models.diffrec import DiffRec, DiffRecOptions
from .models.ease import EASEOptions, ease_weights
from .models.gfcf import GFCFOptions, gfcf_factors, gfcf_scorer
from .models.infodcl import InfoDCL, InfoDCLOptions
from .models.lightgcl import LightGCL, LightGCLOptions
from .models.lightgcn import LightGCN
from .models.ncl import NCL, NCLOptions
from .models.popularity import popularity_embeddings
from .models.scoring import Scorer, UserRows, dot_scorer, item_scorer
from .models.sgl import SGL, SGLOptions
from .models.simdiff import SimDiff, SimDiffOptions
from .models.simgcl import SimGCL, SimGCLOptions, XSimGCL, XSimGCLOptions
from .training.loop import TrainOptions, TrainResult, rank, train

Channels: TypeAlias = Mapping[str, Tensor] | Sequence[Channel | ChannelBuilder]
"""Metadata ``[num_items, d]`` by name, or channels, ready or to be built."""

ModelName = Literal[
    "diffcl",
    "diffrec",
    "ease",
    "gfcf",
    "infodcl",
    "lightgcl",
    "lightgcn",
    "mf",
    "ncl",
    "popularity",
    "sgl",
    "simdiff",
    "simgcl",
    "svd",
    "xsimgcl",
]
Init = Literal["normal", "pretrained"]
"""Initial embeddings: random, or pretrained vectors."""

CLOSED_FORMS: frozenset[ModelName] = frozenset({"ease", "gfcf", "popularity", "svd"})
"""Models that are fitted at once: without epochs, the same whatever the seed."""

WITH_CHANNELS: frozenset[ModelName] = frozenset({"diffcl", "infodcl", "simdiff"})
"""Models that read what is known of the items beside the interactions."""

_PROPAGATED_AFTERWARDS: frozenset[ModelName] = frozenset({"infodcl", "mf", "simdiff"})
"""Models that are trained without propagation, which comes at inference."""


@dataclass(frozen=True)
class ModelOptions:
    """Which model is trained, and what it is built from.

    Args:
        model: name of the model; 'mf' is matrix factorisation with propagation at inference; 'ease', 'gfcf',
            'popularity' and 'svd' (the closed-form pretraining itself, propagated) are closed forms, which no option
            of training concerns.
        dim: embedding size.
        num_layers: propagation layers; where it is missing, as in the defaults of the closed-form pretraining and, from
            its vectors, of InfoDCL, matrix factorisation and SimDiff, :func:`best_num_layers` of the vectors.
        penalty: weight of the squared norms of the batch's embeddings.
        init_std: standard deviation, or root mean square, of the initial embeddings.
        init: initial embeddings: 'normal' (random) or 'pretrained' (the vectors of ``pretraining``, scaled).
        channels: metadata channels of the models that read them, separated by commas: 'item' (similar items), 'user'
            (similar users), 'social', 'knowledge', 'modal' (one for each file of features); 'both' is 'item,user'.
        similar_items: neighbours of each item in the item, knowledge and modal channels.
        social: file of edges between users, for the social channel.
        knowledge: file of triples, for the knowledge channel.
        links: file that says which entity each item is; see :func:`~infodcl_geo.channels.load_knowledge`.
        knowledge_method: how triples describe items: 'shared', 'propagate' or 'kge'.
        features: files of item features, separated by commas, for the modal channels.
        feature_metadata: what the modal channels hold: the reduced 'features', or pretrained vectors averaged over
            'neighbours' that look alike.
        pretraining: vectors that the channels aggregate and that ``init`` takes: 'svd' (closed form, seconds) or
            'lightgcn' (trained first).
    """

    model: ModelName = "infodcl"
    dim: int = 64
    num_layers: int | None = 1
    penalty: float = 0.01
    init_std: float = 0.02
    init: Init = "normal"
    channels: str = "user"
    similar_items: int = 20
    social: str | None = None
    knowledge: str | None = None
    links: str | None = None
    knowledge_method: Literal["shared", "propagate", "kge"] = "shared"
    features: str | None = None
    feature_metadata: Literal["features", "neighbours"] = "features"
    pretraining: Literal["svd", "lightgcn"] = "svd"

    def __post_init__(self) -> None:
        if self.model not in get_args(ModelName):
            raise ValueError(f"model must be one of {', '.join(get_args(ModelName))}, not {self.model!r}")
        for name in ("dim", "similar_items"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}")
        for name in ("num_layers", "penalty", "init_std"):
            if (getattr(self, name) or 0) < 0:
                raise ValueError(f"{name} cannot be negative: {getattr(self, name)}")
        chosen, needs = self.channel_names, {"social": "social", "knowledge": "knowledge", "modal": "features"}
        for name in chosen:
            if name not in ("item", "user", *needs):
                raise ValueError(f"channels are item, user, social, knowledge and modal, not {name!r}")
            if name in needs and getattr(self, needs[name]) is None:
                raise ValueError(f"the {name} channel needs a file: give {needs[name]}")
        for name, option in {**needs, "knowledge links": "links"}.items():
            if getattr(self, option) is not None and name.split()[0] not in chosen:
                raise ValueError(f"{option} is given, but channels={self.channels} has no {name.split()[0]!r}")

    @property
    def channel_names(self) -> list[str]:
        """The names in ``channels``, each once."""
        names = "item,user" if self.channels == "both" else self.channels
        return list(dict.fromkeys(name.strip() for name in names.split(",")))


@dataclass(frozen=True)
class Config:
    """Everything that, with the data, determines a run."""

    model: ModelOptions = field(default_factory=ModelOptions)
    training: TrainOptions = field(default_factory=TrainOptions)
    infodcl: InfoDCLOptions = field(default_factory=InfoDCLOptions)
    diffcl: DiffCLOptions = field(default_factory=DiffCLOptions)
    diffrec: DiffRecOptions = field(default_factory=DiffRecOptions)
    ease: EASEOptions = field(default_factory=EASEOptions)
    gfcf: GFCFOptions = field(default_factory=GFCFOptions)
    lightgcl: LightGCLOptions = field(default_factory=LightGCLOptions)
    ncl: NCLOptions = field(default_factory=NCLOptions)
    sgl: SGLOptions = field(default_factory=SGLOptions)
    simdiff: SimDiffOptions = field(default_factory=SimDiffOptions)
    simgcl: SimGCLOptions = field(default_factory=SimGCLOptions)
    svd: SVDOptions = field(default_factory=SVDOptions)
    xsimgcl: XSimGCLOptions = field(default_factory=XSimGCLOptions)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @property
    def uses_vectors(self) -> bool:
        """Whether pretrained vectors are the model, its start, or in its channels."""
        name = self.model.model
        started = self.model.init == "pretrained" and name not in CLOSED_FORMS
        return name == "svd" or name in WITH_CHANNELS or started

    def changed(self, **parts: Mapping[str, Any]) -> Config:
        """A copy with other fields in some parts: ``config.changed(model={"dim": 32}, training={"lr": 0.01})``."""
        return replace(self, **{part: replace(getattr(self, part), **fields) for part, fields in parts.items()})


def default_config(model: ModelName, init: Init | None = None, **training: Any) -> Config:
    """Settings that were best on the validation split of Amazon-Office.

    Those of InfoDCL, matrix factorisation and LightGCN are the best of 34, 40 and 27 trials of ``benchmarks/tune.py``;
    those of the other models were chosen from the authors' by a handful of runs each.

    Args:
        model: name of the model.
        init: initial embeddings, with the scale and the learning rate that suit them; ``None`` for the model's own,
            which are pretrained for InfoDCL and random for the others.
        training: fields of :class:`~infodcl_geo.training.loop.TrainOptions` to change, such as ``seed`` or ``epochs``.
    """
    config = Config(model=ModelOptions(model=model))
    if model == "infodcl":
        init = init or "pretrained"
        if init == "pretrained":
            config = config.changed(model={"penalty": 0.001})
        else:
            config = config.changed(infodcl={"contrast": 0.005})
    elif model == "lightgcn":
        config = replace(config, model=ModelOptions(model, num_layers=2, penalty=0.004, init_std=0.03))
    elif model == "diffcl":
        config = replace(config, model=ModelOptions(model, num_layers=2, penalty=0.001, init_std=0.03))
        config = replace(config, training=replace(config.training, lr=0.001))
    elif model == "diffrec":
        config = replace(config, training=replace(config.training, lr=0.001))
    elif model == "mf":
        config = replace(config, model=ModelOptions(model, num_layers=1, penalty=0.011, init_std=0.006))
    elif model == "lightgcl":
        config = replace(config, model=ModelOptions(model, num_layers=2, penalty=0.036, init_std=0.01))
    elif model == "simdiff":
        config = replace(config, model=ModelOptions(model, num_layers=1, penalty=0.01, init_std=0.1))
        config = replace(config, training=replace(config.training, lr=0.01))
    elif model in ("ncl", "sgl"):
        config = replace(config, model=ModelOptions(model, num_layers=2, penalty=0.004, init_std=0.03))
    elif model in ("simgcl", "xsimgcl"):
        shared = ModelOptions(model, num_layers=2, penalty=0.001, init_std=0.05)
        config = replace(config, model=shared, training=replace(config.training, lr=0.002))
    if init == "pretrained":
        # Small steps from a large start: the closed form ranks well already, and large steps lose what it found.
        config = config.changed(model={"init": init, "init_std": 0.2}, training={"lr": 0.0005})
    if model == "svd" or (init == "pretrained" and model in _PROPAGATED_AFTERWARDS):
        config = config.changed(model={"num_layers": None})
    return config.changed(training=training)


@dataclass
class Run:
    """A trained model with its numbers."""

    config: Config
    scorer: Scorer
    """what ranks"""
    result: TrainResult
    test: dict[str, float] = field(default_factory=dict)
    """metrics of the test split; empty where it was not scored"""
    preparation_seconds: dict[str, float] = field(default_factory=dict)
    """what happens once before training: pretraining, channels and model; the fit of closed forms"""
    embeddings: tuple[Tensor, Tensor] | None = None
    """user and item embeddings that rank, ``[M, d]`` and ``[N, d]``, of models that have them"""
    model: Model | None = None
    """``None`` for closed forms, which are not trained"""
    item_weights: Tensor | None = None
    """item-item weights ``[N, N]`` that rank by :func:`~infodcl_geo.models.scoring.item_scorer`, of models with such"""
    factors: dict[str, Tensor] = field(default_factory=dict)
    """what a closed form that ranks otherwise has fitted, by name"""
    ranking: Ranking | None = None
    """the test split user by user"""
    channels: list[Channel] = field(default_factory=list)
    """channels that were built or given ready"""
    test_by_user_degree: dict[str, dict[str, float]] = field(default_factory=dict)
    """see :func:`~infodcl_geo.evaluation.groups.by_user_degree`"""
    test_by_item_degree: dict[str, dict[str, float]] = field(default_factory=dict)
    """see :func:`~infodcl_geo.evaluation.groups.by_item_degree`"""

    def metrics(self) -> dict[str, Any]:
        """Content of ``metrics.json``."""
        return {
            "model": self.config.model.model,
            "seed": self.config.training.seed,
            "best_epoch": self.result.best_epoch,
            "epochs_run": len(self.result.epoch_seconds),
            "seconds_per_epoch": self.result.seconds_per_epoch,
            "preparation_seconds": self.preparation_seconds,
            "channels": {
                c.name: {"source": c.source, "coverage": c.coverage, **self._weight_of(c)} for c in self.channels
            },
            "validation": self.result.validation,
            "test": self.test,
            "test_by_user_degree": self.test_by_user_degree,
            "test_by_item_degree": self.test_by_item_degree,
            "config": self.config.to_dict(),
        }

    def _weight_of(self, channel: Channel) -> dict[str, float]:
        if not isinstance(self.model, InfoDCL):
            return {}
        index = list(self.model.channels).index(channel.name)
        rows = self.model.mean_row_weights()[channel.name]
        return {"weight": float(self.model.channel_weights()[index]), "mean_row_weight": rows}


def spectral_vectors(data: Interactions, config: Config) -> tuple[Config, Vectors]:
    """Closed-form pretraining (:func:`~infodcl_geo.channels.spectral_embeddings`), and ``config`` with its smoothing.

    A smoothing that is missing is that of 0.05, 0.25 and 0.75 whose vectors, propagated once, have the best NDCG@20 for
    up to 4,096 users of the validation split: dense interactions want much, those that fall into many small groups
    little. It is 0.75 without a validation split, and above 200,000 users and items together, where a decomposition is
    no small thing.
    """
    sizes = data.num_users, data.num_items

    def vectors_of(smoothing: float) -> Vectors:
        options = replace(config.svd, smoothing=smoothing)
        return Vectors(*spectral_embeddings(data.train, *sizes, config.model.dim, options))

    smoothing = config.svd.smoothing
    if smoothing is None and not _can_be_judged(data):
        smoothing = DEFAULT_SMOOTHING
    if smoothing is not None:
        return config.changed(svd={"smoothing": smoothing}), vectors_of(smoothing)
    candidates = {candidate: vectors_of(candidate) for candidate in (0.05, 0.25, 0.75)}
    quality = _validation_ndcg(data)
    chosen = max(candidates, key=lambda candidate: quality(candidates[candidate], 1))
    return config.changed(svd={"smoothing": chosen}), candidates[chosen]


def best_num_layers(data: Interactions, vectors: Vectors) -> int:
    """The 1, 2 or 3 propagations of pretrained vectors with the best NDCG@20 for up to 4,096 users of validation.

    Where propagation is for inference alone, as in InfoDCL, matrix factorisation and SimDiff, this says what the graph
    wants before anything is trained: one on Amazon-Office, Taobao and LastFM, three on Amazon-Electronics and TikTok.
    It is 1 without a validation split and above 200,000 users and items together.
    """
    if not _can_be_judged(data):
        return 1
    quality = _validation_ndcg(data)
    return max((1, 2, 3), key=lambda num_layers: quality(vectors, num_layers))


def _with_num_layers(data: Interactions, config: Config, vectors: Vectors | None) -> Config:
    if config.model.num_layers is not None:
        return config
    if vectors is None:
        raise ValueError(f"{config.model.model} has no pretrained vectors to choose num_layers by: give num_layers")
    return config.changed(model={"num_layers": best_num_layers(data, vectors)})


def _can_be_judged(data: Interactions) -> bool:
    return bool(data.valid.size(1)) and data.num_users + data.num_items <= EXACT_NODES


def _validation_ndcg(data: Interactions) -> Callable[[Vectors, int], float]:
    """NDCG@20 of propagated vectors for at most 4,096 users of the validation split."""
    sizes, held_out = (data.num_users, data.num_items), data.valid
    users = held_out[0].unique()
    if len(users) > 4096:
        some = users[torch.randperm(len(users), generator=torch.Generator().manual_seed(0))[:4096]]
        held_out = held_out[:, torch.isin(held_out[0], some)]
    graph = normalized_adjacency(data.train, *sizes)

    def quality(vectors: Vectors, num_layers: int) -> float:
        scorer = dot_scorer(*propagate(graph, torch.cat([vectors.users, vectors.items]), num_layers).split(sizes))
        ranking = evaluate(scorer, held_out, num_users=sizes[0], num_items=sizes[1], seen=[data.train], ks=(20,))
        return ranking.mean()["ndcg@20"]

    return quality


def pretrain(data: Interactions, config: Config, *, device: torch.device, progress: bool = True) -> Vectors:
    """User and item vectors ``[M, d]``, ``[N, d]`` that the channels aggregate, from the training split alone.

    ``svd``: :func:`spectral_vectors`. ``lightgcn``: a LightGCN trained with its default
    settings and selected on validation; its propagated embeddings.
    """
    if config.model.pretraining == "svd":
        return spectral_vectors(data, config)[1]
    teacher = default_config("lightgcn", seed=config.training.seed).changed(model={"dim": config.model.dim})
    model = build_model(data, teacher, {}).to(device)
    assert isinstance(model, EmbeddingModel)
    train(model, data, teacher.training, progress=progress)
    return Vectors(*(table.cpu() for table in model.embeddings()))


def channel_builders(options: ModelOptions, data: Interactions) -> list[ChannelBuilder]:
    """Builders of the channels that ``options`` ask for, with their files read."""
    builders: list[ChannelBuilder] = []
    for name in options.channel_names:
        if name == "item":
            builders.append(ItemSimilarity(options.similar_items))
        elif name == "user":
            builders.append(UserSimilarity())
        elif name == "social":
            builders.append(Social(load_social(options.social or "", data)))
        elif name == "knowledge":
            graph = load_knowledge(options.knowledge or "", data, links=options.links)
            builders.append(Knowledge(graph, options.knowledge_method, options.similar_items))
        else:
            for path in (options.features or "").split(","):
                features = load_features(path.strip(), data)
                builders.append(Modal(features, options.feature_metadata, options.similar_items))
    return builders


def build_channels(data: Interactions, config: Config, vectors: Vectors) -> list[Channel]:
    """The channels that ``config`` asks for, from pretrained vectors."""
    return [build(data, vectors) for build in channel_builders(config.model, data)]


def _metadata(channels: Mapping[str, Tensor] | Sequence[Channel]) -> dict[str, Tensor]:
    if isinstance(channels, Mapping):
        return dict(channels)
    names = [channel.name for channel in channels]
    if len(set(names)) < len(names):
        raise ValueError(f"channels need names of their own, got {', '.join(names)}")
    return {channel.name: channel.metadata for channel in channels}


def _row_weights(data: Interactions, channels: Mapping[str, Tensor] | Sequence[Channel]) -> dict[str, Tensor]:
    """:func:`~infodcl_geo.channels.row_agreement` of the channels that know more than the interactions."""
    if isinstance(channels, Mapping):
        told = dict(channels)
    else:
        told = {channel.name: channel.metadata for channel in channels if not channel.from_interactions}
    return {name: row_agreement(rows, data.train, data.num_users, data.num_items) for name, rows in told.items()}


def build_model(
    data: Interactions,
    config: Config,
    channels: Mapping[str, Tensor] | Sequence[Channel],
    vectors: Vectors | None = None,
) -> Model:
    """The model that ``config`` names, with weights from its seed.

    Args:
        channels: for the models in ``WITH_CHANNELS``.
        vectors: pretrained vectors that embeddings start from, or that SimDiff reconstructs, if ``config`` asks for
            it; pretrained here if missing.
    """
    model = _new_model(data, config, channels, vectors)
    if config.model.init == "pretrained":
        if not isinstance(model, EmbeddingModel):
            raise ValueError(f"{config.model.model} has no embeddings that could start from pretrained vectors")
        vectors = _of_size(model.dim, vectors, data, config)
        model.start_from(vectors.users, vectors.items)
    return model


def _of_size(dim: int, vectors: Vectors | None, data: Interactions, config: Config) -> Vectors:
    """The pretrained vectors, made here if there are none of size ``dim``."""
    if vectors is not None and vectors.items.size(1) == dim:
        return vectors
    config = replace(config, model=replace(config.model, dim=dim))
    return pretrain(data, config, device=torch.device("cpu"), progress=False)


def _new_model(
    data: Interactions, config: Config, channels: Mapping[str, Tensor] | Sequence[Channel], vectors: Vectors | None
) -> Model:
    options, name = config.model, config.model.model
    sizes = data.num_users, data.num_items
    torch.manual_seed(config.training.seed)
    if name == "diffrec":
        return DiffRec(data.train, *sizes, options=config.diffrec)
    if options.num_layers is None:
        raise ValueError("num_layers is missing: best_num_layers, or prepare, chooses it")
    graph = normalized_adjacency(data.train, *sizes)
    shared: dict[str, Any] = {
        "num_layers": options.num_layers,
        "penalty": options.penalty,
        "init_std": options.init_std,
    }
    if name == "infodcl":  # of its channels' size
        rows = _row_weights(data, channels) if config.infodcl.row_weights == "agreement" else None
        return InfoDCL(graph, *sizes, _metadata(channels), row_weights=rows, options=config.infodcl, **shared)
    shared["dim"] = options.dim
    if name == "simdiff":
        pretrained = None
        if config.simdiff.target == "pretrained":
            vectors = _of_size(options.dim, vectors, data, config)
            pretrained = vectors.users, vectors.items
        return SimDiff(graph, *sizes, _metadata(channels), options=config.simdiff, pretrained=pretrained, **shared)
    if name == "diffcl":
        return DiffCL(graph, *sizes, _metadata(channels), options=config.diffcl, **shared)
    if name == "mf":
        return EmbeddingModel(graph, *sizes, **shared)
    if name == "lightgcn":
        return LightGCN(graph, *sizes, **shared)
    if name == "simgcl":
        return SimGCL(graph, *sizes, options=config.simgcl, **shared)
    if name == "xsimgcl":
        return XSimGCL(graph, *sizes, options=config.xsimgcl, **shared)
    if name == "sgl":
        return SGL(graph, *sizes, options=config.sgl, **shared)
    if name == "ncl":
        return NCL(graph, *sizes, options=config.ncl, **shared)
    if name == "lightgcl":
        return LightGCL(graph, *sizes, options=config.lightgcl, **shared)
    raise ValueError(f"{name} has no weights to train")


@dataclass
class Prepared:
    """What there is before the first epoch."""

    config: Config
    """with the smoothing and the number of layers that were chosen, see :func:`spectral_vectors` and
    :func:`best_num_layers`"""
    model: Model
    channels: list[Channel]
    """those that were built or given ready"""
    seconds: dict[str, float]
    """what pretraining, the channels and the model took"""


def prepare(
    data: Interactions,
    config: Config,
    *,
    channels: Channels | None = None,
    vectors: Vectors | None = None,
    device: torch.device | str = "cpu",
    progress: bool = False,
) -> Prepared:
    """Pretrain, build the channels and the model, whatever of it ``config`` asks for.

    Args:
        data, config, channels, vectors, progress: as in :func:`fit`.
        device: where LightGCN is pretrained, and the model's.
    """
    device = torch.device(device)
    seconds: dict[str, float] = {}
    if config.model.model not in WITH_CHANNELS:
        channels = {}
    elif channels is None:
        channels = channel_builders(config.model, data)
    to_build = not isinstance(channels, Mapping) and any(not isinstance(channel, Channel) for channel in channels)
    start = time.perf_counter()
    if vectors is None and (to_build or config.model.init == "pretrained"):
        if config.model.pretraining == "svd":
            config, vectors = spectral_vectors(data, config)
        else:
            vectors = pretrain(data, config, device=device, progress=progress)
        seconds["pretraining"] = time.perf_counter() - start
        start = time.perf_counter()
    config = _with_num_layers(data, config, vectors)
    ready: list[Channel] = []
    if not isinstance(channels, Mapping):
        for channel in channels:
            if not isinstance(channel, Channel):
                assert vectors is not None
                channel = channel(data, vectors)
            ready.append(channel)
    if to_build:
        seconds["channels"] = time.perf_counter() - start
        start = time.perf_counter()
    model = build_model(data, config, channels if isinstance(channels, Mapping) else ready, vectors).to(device)
    seconds["model"] = time.perf_counter() - start
    return Prepared(config, model, ready, seconds)


def fit(
    data: Interactions,
    config: Config | None = None,
    *,
    channels: Channels | None = None,
    vectors: Vectors | None = None,
    ks: tuple[int, ...] = (10, 20, 50),
    device: torch.device | str | None = None,
    progress: bool = True,
    on_evaluation: Callable[[int, dict[str, float]], None] | None = None,
) -> Run:
    """Train a model and select its epoch on validation, or fit a closed form; the test split is not read.

    Args:
        data: interactions with their split.
        config: model and settings; InfoDCL's :func:`default_config` if missing.
        channels: instead of the channels of ``config``: builders, ready channels, or metadata ``[num_items, d]`` by
            name (for DiffCL and SimDiff features of any widths).
        vectors: pretrained vectors; otherwise pretrained as ``config`` says, where channels or embeddings need them.
        ks: cut-offs of the metrics.
        device: where to train; a CUDA device if there is one.
        progress: show progress bars.
        on_evaluation: see :func:`~infodcl_geo.training.loop.train`.
    """
    config = config or default_config("infodcl")
    target = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    if config.model.model in CLOSED_FORMS:
        return _fit_closed_form(data, config, ks, target)
    prepared = prepare(data, config, channels=channels, vectors=vectors, device=target, progress=progress)
    model = prepared.model
    result = train(model, data, config.training, ks=ks, progress=progress, on_evaluation=on_evaluation)
    embeddings = model.embeddings() if isinstance(model, EmbeddingModel) else None
    scorer, seconds = model.scorer(), prepared.seconds
    return Run(prepared.config, scorer, result, {}, seconds, embeddings, model, channels=prepared.channels)


def _fit_closed_form(data: Interactions, config: Config, ks: tuple[int, ...], device: torch.device) -> Run:
    train, sizes = data.train.to(device), (data.num_users, data.num_items)
    start = time.perf_counter()
    outcome: Run
    if config.model.model == "ease":
        weights = ease_weights(train, *sizes, config.ease)
        outcome = Run(config, item_scorer(UserRows(train, *sizes), weights), TrainResult(), item_weights=weights)
    elif config.model.model == "gfcf":
        users, items = gfcf_factors(train, *sizes, config.gfcf)
        scorer = gfcf_scorer(train, *sizes, users, items)
        outcome = Run(config, scorer, TrainResult(), factors={"users": users, "items": items})
    elif config.model.model == "svd":
        config, vectors = spectral_vectors(data, config)
        config = _with_num_layers(data, config, vectors)
        assert config.model.num_layers is not None
        nodes = torch.cat([vectors.users, vectors.items]).to(device)
        tables = propagate(normalized_adjacency(train, *sizes), nodes, config.model.num_layers).split(sizes)
        outcome = Run(config, dot_scorer(*tables), TrainResult(), embeddings=tables)
    else:
        counts = popularity_embeddings(train, *sizes)
        outcome = Run(config, dot_scorer(*counts), TrainResult(), embeddings=counts)
    outcome.preparation_seconds["fit"] = time.perf_counter() - start
    if data.valid.size(1):
        outcome.result.validation = rank(data, outcome.scorer, "valid", ks=ks, device=device).mean()
    return outcome


def run(
    data: Interactions,
    config: Config | None = None,
    *,
    channels: Channels | None = None,
    vectors: Vectors | None = None,
    ks: tuple[int, ...] = (10, 20, 50),
    mask_validation: bool = False,
    device: torch.device | str | None = None,
    progress: bool = True,
    on_evaluation: Callable[[int, dict[str, float]], None] | None = None,
) -> Run:
    """:func:`fit` a model, then score the test split once.

    Args:
        mask_validation: leave validation items out of the test ranking.
        data, config, channels, vectors, ks, device, progress, on_evaluation: as in :func:`fit`.
    """
    target = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    outcome = fit(
        data,
        config,
        channels=channels,
        vectors=vectors,
        ks=ks,
        device=target,
        progress=progress,
        on_evaluation=on_evaluation,
    )
    ranking = rank(data, outcome.scorer, "test", ks=ks, mask_validation=mask_validation, device=target)
    user_degree, item_degree = (
        torch.bincount(pairs, minlength=size)
        for pairs, size in zip(data.train, (data.num_users, data.num_items), strict=True)
    )
    return replace(
        outcome,
        test=ranking.mean(),
        ranking=ranking,
        test_by_user_degree=by_user_degree(ranking, user_degree),
        test_by_item_degree=by_item_degree(ranking, item_degree),
    )
