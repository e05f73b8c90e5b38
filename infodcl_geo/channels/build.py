"""Channels by name: the options that ask for them, and the builders that options ask for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ..data.interactions import Interactions
from ..errors import OptionError
from .base import ChannelBuilder
from .ease import EaseChannel
from .knowledge import Knowledge, load_knowledge
from .modal import Modal, load_features
from .similarity import ItemSimilarity, UserSimilarity
from .social import Social, load_social

_NEEDS = {"social": "social", "knowledge": "knowledge", "modal": "features"}
"""Channels that are made from files, and the option that names the file."""

FROM_INTERACTIONS = ("item", "user", "ease")
"""Channels that need no file."""

CHANNEL_NAMES: tuple[str, ...] = (*FROM_INTERACTIONS, *_NEEDS)
"""The names that ``channels`` may hold."""


@dataclass(frozen=True)
class ChannelOptions:
    """Which metadata channels are built, and from what.

    Args:
        channels: metadata channels of the models that read them, separated by commas: 'item' (similar items), 'user'
            (similar users), 'ease' (items with the strongest item-item weights, whose penalty is 200), 'social',
            'knowledge', 'modal' (one for each file of features); 'both' is 'item,user'.
        similar_items: neighbours of each item in the item, ease, knowledge and modal channels.
        social: file of edges between users, for the social channel.
        knowledge: file of triples, for the knowledge channel.
        links: file that says which entity each item is; see :func:`~infodcl_geo.channels.knowledge.load_knowledge`.
        knowledge_method: how triples describe items: 'shared', 'propagate' or 'kge'.
        features: files of item features, separated by commas, for the modal channels.
        feature_ids: files with the raw item id of each row of the features, separated by commas: one for all files of
            features, or one for each; see :func:`~infodcl_geo.channels.modal.load_features`.
        feature_metadata: what the modal channels hold: the reduced 'features', or pretrained vectors averaged over
            'neighbours' that look alike.

    Raises:
        OptionError: if a channel is unknown, a file is missing or not asked for, or a number is out of range.
    """

    channels: str = "user"
    similar_items: int = 20
    social: str | None = None
    knowledge: str | None = None
    links: str | None = None
    knowledge_method: Literal["shared", "propagate", "kge"] = "shared"
    features: str | None = None
    feature_ids: str | None = None
    feature_metadata: Literal["features", "neighbours"] = "features"

    def __post_init__(self) -> None:
        if self.similar_items < 1:
            raise OptionError(f"similar_items must be at least 1, not {self.similar_items}")
        for option, allowed in (
            ("knowledge_method", ("shared", "propagate", "kge")),
            ("feature_metadata", ("features", "neighbours")),
        ):
            if getattr(self, option) not in allowed:
                raise OptionError(f"{option} must be one of {', '.join(allowed)}, not {getattr(self, option)!r}")
        chosen = self.channel_names
        for name in chosen:
            if name not in CHANNEL_NAMES:
                raise OptionError(f"channels are {', '.join(CHANNEL_NAMES)}, not {name!r}")
            if name in _NEEDS and getattr(self, _NEEDS[name]) is None:
                raise OptionError(f"the {name} channel needs a file: give {_NEEDS[name]}")
        asked_by = {option: name for name, option in _NEEDS.items()} | {"links": "knowledge", "feature_ids": "modal"}
        for option, name in asked_by.items():
            if getattr(self, option) is not None and name not in chosen:
                raise OptionError(f"{option} is given, but channels={self.channels} has no {name!r}")
        features, ids = self.feature_files, _listed(self.feature_ids)
        if "modal" in chosen and not features:
            raise OptionError("features names no file")
        if self.feature_ids is not None and len(ids) not in (1, len(features)):
            raise OptionError(
                f"feature_ids names {len(ids)} files for {len(features)} of features; give one, or as many"
            )

    @property
    def channel_names(self) -> list[str]:
        """The names in ``channels``, each once."""
        names = "item,user" if self.channels == "both" else self.channels
        return list(dict.fromkeys(name.strip() for name in names.split(",")))

    @property
    def feature_files(self) -> list[tuple[str, str | None]]:
        """Each file of features with the file of its rows' ids, ``None`` without one."""
        files, ids = _listed(self.features), _listed(self.feature_ids)
        if len(ids) == len(files):
            return list(zip(files, ids, strict=True))
        return [(file, ids[0] if ids else None) for file in files]


def _listed(names: str | None) -> list[str]:
    return [name.strip() for name in (names or "").split(",") if name.strip()]


def channel_builders(options: ChannelOptions, data: Interactions) -> list[ChannelBuilder]:
    """Builders of the channels that ``options`` ask for, in their order, with their files read.

    Args:
        options: what to build.
        data: whose users and items the files describe.

    Raises:
        InteractionError: if a file cannot be read or is not of these users and items.
    """
    builders: list[ChannelBuilder] = []
    for name in options.channel_names:
        if name == "item":
            builders.append(ItemSimilarity(options.similar_items))
        elif name == "user":
            builders.append(UserSimilarity())
        elif name == "ease":
            builders.append(EaseChannel(options.similar_items))
        elif name == "social":
            builders.append(Social(load_social(options.social or "", data)))
        elif name == "knowledge":
            graph = load_knowledge(options.knowledge or "", data, links=options.links)
            builders.append(Knowledge(graph, options.knowledge_method, options.similar_items))
        else:
            for file, ids in options.feature_files:
                features = load_features(file, data, ids=ids)
                builders.append(Modal(features, options.feature_metadata, options.similar_items))
    return builders
