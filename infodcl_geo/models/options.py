"""Options that several models share, and how a bad one is refused."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields
from typing import Any, Literal, get_args, get_origin, get_type_hints

from ..channels.build import ChannelOptions
from ..errors import OptionError

SPECTRAL = "svd"
"""The closed-form pretraining among the values of ``pretraining``; any other is the model that is trained first."""

Init = Literal["normal", "pretrained"]
"""Initial embeddings: random, or pretrained vectors."""


def check(
    options: Any, *, positive: Iterable[str] = (), at_least_1: Iterable[str] = (), shares: Iterable[str] = ()
) -> None:
    """Refuse options that cannot be: the named ones by the rule of their list, every choice by its type.

    A weight or a number in none of the lists must not be negative. ``None`` is always allowed where the type says so.

    Args:
        options: a dataclass.
        positive: names of options above 0.
        at_least_1: names of options that count something, from 1.
        shares: names of options from 0 to 1.

    Raises:
        OptionError: for the first option that breaks its rule.
    """
    positive, at_least_1, shares = set(positive), set(at_least_1), set(shares)
    hints = get_type_hints(type(options))
    for part in fields(options):
        name, value = part.name, getattr(options, part.name)
        choices = get_args(hints[name]) if get_origin(hints[name]) is Literal else ()
        if choices and value not in choices:
            raise OptionError(f"{name} must be one of {', '.join(map(str, choices))}, not {value!r}")
        if isinstance(value, bool) or not isinstance(value, int | float):
            continue
        if value != value or value in (float("inf"), -float("inf")):
            raise OptionError(f"{name} must be a finite number, not {value}")
        if name in positive and not value > 0:
            raise OptionError(f"{name} must be positive, not {value}")
        if name in at_least_1 and value < 1:
            raise OptionError(f"{name} must be at least 1, not {value}")
        if name in shares and not 0 <= value <= 1:
            raise OptionError(f"{name} is a share, from 0 to 1, not {value}")
        if value < 0:
            raise OptionError(f"{name} cannot be negative: {value}")


@dataclass(frozen=True)
class ModelOptions:
    """Base of every model's options; a model without any has these."""

    def __post_init__(self) -> None:
        check(self)


@dataclass(frozen=True)
class VectorOptions(ModelOptions):
    """Where pretrained vectors come from, for models that start from them or read channels made of them.

    Args:
        pretraining: 'svd' (closed form, seconds; see :func:`~infodcl_geo.graph.spectral.spectral_embeddings`) or
            'lightgcn' (trained first).
        smoothing: of 'svd': share of the mean degree that is added to every degree before the matrix is normalised.
            Chosen on validation where it is missing.
        power: of 'svd': exponent of the singular values in the vectors of either side.
    """

    pretraining: Literal["svd", "lightgcn"] = "svd"
    smoothing: float | None = None
    power: float = 1.0


@dataclass(frozen=True)
class EmbeddingOptions(VectorOptions):
    """Options of models with user and item embeddings.

    Args:
        dim: size of the embeddings, d.
        num_layers: propagation layers, K. Where it is missing a run chooses 1, 2 or 3 on validation, by the pretrained
            vectors; a model that is built by hand takes 1.
        l2: weight of the squared norms of the batch's embeddings.
        init: initial embeddings: 'normal' (random) or 'pretrained' (vectors of ``pretraining``, scaled). Each brings
            the learning rate and the scale that suit it.
        init_std: standard deviation, or root mean square, of the initial embeddings.
        item_term: item-item weights whose scores are added to those of the trained embeddings: 'ease', 'slim', or
            'auto' for the better one on validation (:mod:`~infodcl_geo.models.item_term`).
        item_term_weight: weight of the term, both scores standardised by user. Chosen on validation where it is
            missing.
    """

    dim: int = 64
    num_layers: int | None = 1
    l2: float = 0.01
    init: Init = "normal"
    init_std: float = 0.02
    item_term: Literal["none", "ease", "slim", "auto"] = "none"
    item_term_weight: float | None = None

    def __post_init__(self) -> None:
        check(self, at_least_1=["dim"])


@dataclass(frozen=True)
class ChannelModelOptions(ChannelOptions, EmbeddingOptions):
    """Options of models with embeddings that read channels of metadata beside the interactions."""

    def __post_init__(self) -> None:
        EmbeddingOptions.__post_init__(self)
        ChannelOptions.__post_init__(self)
