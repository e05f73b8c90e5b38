"""What a model declares of itself, as plain data; everything else in the library goes by it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import cached_property
from typing import Any, Literal, Protocol

from torch import Tensor

from ..channels.base import Channel, PretrainedVectors
from ..errors import OptionError
from ..graph.graph import Graph, normalized_adjacency
from ..nn.ranks import Traffic
from .base import Model
from .options import Init, ModelOptions
from .scoring import Scorer, UserRows

Sizes = tuple[int, int]
"""Numbers of users and of items."""


@dataclass(frozen=True, eq=False)
class Inputs:
    """What a model may be built from.

    Args:
        train: training pairs ``[2, E]``.
        num_users, num_items: M and N.
        channels: channels, or metadata ``[num_items, d]`` by name; empty for models that do not read them.
        vectors: pretrained vectors of a size that it is asked for.
    """

    train: Tensor
    num_users: int
    num_items: int
    channels: Mapping[str, Tensor] | Sequence[Channel] = ()
    vectors: Callable[[int], PretrainedVectors] | None = None

    @property
    def sizes(self) -> Sizes:
        return self.num_users, self.num_items

    @cached_property
    def graph(self) -> Graph:
        """The normalised adjacency over users and items."""
        return normalized_adjacency(self.train, self.num_users, self.num_items)

    @cached_property
    def metadata(self) -> dict[str, Tensor]:
        """Metadata of the channels by name.

        Raises:
            OptionError: if two channels have one name.
        """
        if isinstance(self.channels, Mapping):
            return dict(self.channels)
        names = [channel.name for channel in self.channels]
        if len(set(names)) < len(names):
            raise OptionError(f"channels need names of their own, got {', '.join(names)}")
        return {channel.name: channel.metadata for channel in self.channels}

    @property
    def new_metadata(self) -> dict[str, Tensor]:
        """Metadata of the channels that know more than the interactions."""
        if isinstance(self.channels, Mapping):
            return dict(self.channels)
        return {channel.name: channel.metadata for channel in self.channels if not channel.from_interactions}

    def of_size(self, dim: int) -> PretrainedVectors:
        """Pretrained vectors ``[M, dim]`` and ``[N, dim]``.

        Raises:
            OptionError: if nobody gave a way to make them.
        """
        if self.vectors is None:
            raise OptionError("pretrained vectors are needed and none are given")
        return self.vectors(dim)


class Space(Protocol):
    """How a search asks for one value; Optuna's trials and a list of defaults both answer."""

    def number(self, name: str, low: float, high: float, *, log: bool = True) -> None:
        """Ask for a real number from ``low`` to ``high``, by its logarithm or evenly."""

    def whole(self, name: str, low: int, high: int, *, log: bool = False) -> None:
        """Ask for a whole number from ``low`` to ``high``, both included."""

    def choice(self, name: str, choices: Sequence[Any]) -> None:
        """Ask for one of some values."""


@dataclass(frozen=True)
class Recipe:
    """A model as the library knows it: what it is called, how it is built, what it needs, and its defaults.

    A recipe is all that a model has to have. One of your own goes wherever a name goes: ``run(data, recipe)``, or
    ``--model my_model.py:recipe`` on the command line.

    Args:
        name: what it is called in tables, files and on the command line.
        summary: one line that says what it is.
        paper: where it comes from.
        options: dataclass of its options, with the defaults of its own start.
        build: the model, from what it is built from and its options; closed forms fit here.
        training: defaults of training that differ from those of
            :class:`~infodcl_geo.training.loop.TrainOptions`, such as ``{"lr": 0.001}``.
        starts: for a start that is not the model's own, the defaults that suit it, of the model and of training. Those
            of 'pretrained' that all models share (:data:`PRETRAINED`) need not be repeated.
        search: asks a :class:`Space` for everything that is worth a search.
        closed_form: fitted at once, without epochs, the same whatever the seed.
        reads_channels: whether it reads channels of metadata.
        needs_vectors: whether it is made of pretrained vectors whatever its start.
        propagates_afterwards: trained without propagation, which comes at inference, so that the pretrained vectors can
            choose the number of layers.
        studied: a method that this library is about, which is compared with the baselines.
        restore: what ranks, from the tensors of :meth:`~infodcl_geo.models.base.Model.state`, the options, the training
            pairs and the sizes. ``None`` where user and item embeddings, or item-item weights, rank by themselves.
        fold_in: of models with ``restore``: what ranks for users who were not trained, from what ``restore`` has and
            their histories, whose rows its users then are. ``None`` where the model cannot.
        splits: of models whose loss is written in contributions (:mod:`~infodcl_geo.nn.ranks`), so that the tables
            can lie in parts on several processes: which of the options is in the way, in words; empty if none is.
        traffic: of these models, what a step reads of other processes.
    """

    name: str
    summary: str
    paper: str
    options: type[ModelOptions]
    build: Callable[[Inputs, Any], Model]
    training: Mapping[str, Any] = field(default_factory=dict)
    starts: Mapping[Init, Mapping[str, Any]] = field(default_factory=dict)
    search: Callable[[Space], None] | None = None
    closed_form: bool = False
    reads_channels: bool = False
    needs_vectors: bool = False
    propagates_afterwards: bool = False
    studied: bool = False
    restore: Callable[[Mapping[str, Tensor], Any, Tensor, Sizes], Scorer] | None = None
    fold_in: Callable[[Mapping[str, Tensor], Any, Tensor, Sizes, UserRows], Scorer] | None = None
    splits: Callable[[Any], str] | None = None
    traffic: Callable[[Any], Traffic] | None = None

    @property
    def kind(self) -> Literal["closed form", "trained"]:
        return "closed form" if self.closed_form else "trained"

    @property
    def option_names(self) -> tuple[str, ...]:
        return tuple(part.name for part in fields(self.options))

    def defaults(self, init: Init | None = None) -> dict[str, Any]:
        """Options of the model and of training that differ from the dataclasses' defaults, for a start.

        Args:
            init: the start; ``None`` for the model's own.
        """
        own = getattr(self.options(), "init", None)
        changes = dict(self.training)
        if init is None or init == own:
            return changes
        if own is None:
            raise OptionError(f"{self.name} has no embeddings that could start from anything: it has no option init")
        changes["init"] = init
        if init == "pretrained":
            changes |= PRETRAINED
            if self.propagates_afterwards:
                changes["num_layers"] = None
        return changes | dict(self.starts.get(init, {}))


PRETRAINED: Mapping[str, Any] = {"init_std": 0.2, "lr": 0.0005}
"""Small steps from a large start: the closed form ranks well already, and large steps lose what it found."""


def search_embeddings(space: Space, *, fewest_layers: int = 1, held: bool = True) -> None:
    """What is searched of every model with embeddings.

    Args:
        fewest_layers: of propagation.
        held: whether the model needs a penalty; the search of one whose default is none begins at 0.
    """
    space.number("lr", 2e-4, 1.5e-2)
    if held:
        space.number("l2", 1e-4, 4e-2)
    else:
        space.number("l2", 0.0, 1e-2, log=False)
    space.choice("init", ["normal", "pretrained"])
    space.number("init_std", 0.003, 0.6)
    space.whole("num_layers", fewest_layers, 3)


def search_contrast(space: Space, low: float = 1e-3, high: float = 0.5) -> None:
    """What is searched of every model with InfoNCE."""
    space.number("contrast", low, high)
    space.number("temperature", 0.1, 1.0)


def ranks_rows(restored: Callable[[Mapping[str, Tensor], Any, Tensor, Sizes], Any]) -> dict[str, Any]:
    """``restore`` and ``fold_in`` of a recipe whose model ranks by what it makes of its ``rows`` of interactions.

    Args:
        restored: the model, from what ``restore`` is given.
    """

    def restore(state: Mapping[str, Tensor], options: Any, train: Tensor, sizes: Sizes) -> Scorer:
        return restored(state, options, train, sizes).scorer()

    def fold_in(state: Mapping[str, Tensor], options: Any, train: Tensor, sizes: Sizes, histories: UserRows) -> Scorer:
        model = restored(state, options, train, sizes)
        model.rows = histories
        return model.scorer()

    return {"restore": restore, "fold_in": fold_in}
