"""Layers of InfoDCL and its relatives, usable alone in any PyG model."""

from .diffusion import Denoiser, ForwardDiffusion, LinearNoise, alpha_bar, reverse_process, time_encoding
from .losses import balance_loss, bpr_loss, embedding_penalty, reconstruction_loss
from .modal import ModalEncoder
from .propagation import NeighbourMean, Propagation, UserToItem, as_graph
from .psnet import PSNet, batch_basis, population_basis

__all__ = [
    "Denoiser",
    "ForwardDiffusion",
    "LinearNoise",
    "ModalEncoder",
    "NeighbourMean",
    "PSNet",
    "Propagation",
    "UserToItem",
    "alpha_bar",
    "as_graph",
    "balance_loss",
    "batch_basis",
    "bpr_loss",
    "embedding_penalty",
    "population_basis",
    "reconstruction_loss",
    "reverse_process",
    "time_encoding",
]
