"""Complete recommenders over the layers of :mod:`infodcl_geo.nn`."""

from .base import EmbeddingModel, Model
from .infodcl import InfoDCL, InfoDCLOptions
from .lightgcn import LightGCN
from .popularity import popularity_embeddings

__all__ = ["EmbeddingModel", "InfoDCL", "InfoDCLOptions", "LightGCN", "Model", "popularity_embeddings"]
