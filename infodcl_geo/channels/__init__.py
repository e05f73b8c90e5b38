"""Metadata channels: what is known of items beside their interactions, as one vector of metadata for each item.

A channel is made by a :data:`ChannelBuilder`, which is any function of the interactions and of pretrained vectors that
returns a :class:`Channel`. Each kind has a file with its container, its reader and its builder.
"""

from .agreement import row_agreement
from .base import Channel, ChannelBuilder, ChannelError, PretrainedVectors
from .build import ChannelOptions, channel_builders
from .diagnostics import ChannelReport, ChannelWarning, inspect_channel
from .knowledge import Knowledge, KnowledgeGraph, load_knowledge
from .modal import ItemFeatures, Modal, load_features
from .similarity import ItemSimilarity, UserSimilarity
from .social import Social, SocialGraph, load_social

__all__ = [
    "Channel",
    "ChannelBuilder",
    "ChannelError",
    "ChannelOptions",
    "ChannelReport",
    "ChannelWarning",
    "ItemFeatures",
    "ItemSimilarity",
    "Knowledge",
    "KnowledgeGraph",
    "Modal",
    "PretrainedVectors",
    "Social",
    "SocialGraph",
    "UserSimilarity",
    "channel_builders",
    "inspect_channel",
    "load_features",
    "load_knowledge",
    "load_social",
    "row_agreement",
]
