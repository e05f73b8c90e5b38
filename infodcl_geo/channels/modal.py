"""Modal channels: item features, their reader and their builder."""

from __future__ import annotations

from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ..data.ids import InteractionError
from ..data.interactions import Interactions
from ..errors import OptionError
from ..graph.similarity import cosine_graph, weighted_mean
from .base import Channel, ChannelError, PretrainedVectors, has_edges, warn_of_file
from .matrices import read_ids, read_matrix, rows_of


@dataclass(frozen=True, eq=False)
class ItemFeatures:
    """A feature vector for each item: text, image, audio, ...

    Args:
        values: ``[N, f]`` float32, finite; zero where not covered.
        covered: bool ``[N]``, items that have features.
        name: what they are called, a word.
        source: where they come from, one line with counts.
    """

    values: Tensor
    covered: Tensor
    name: str = "features"
    source: str = "given features"

    @classmethod
    def from_matrix(cls, values: Tensor, name: str = "features", source: str = "") -> ItemFeatures:
        """Features ``[N, f]`` of any real type; rows that are all NaN or all zero are items without features.

        Raises:
            InteractionError: if the shape is wrong, or a row has some values that are not finite.
        """
        what = source or name
        if values.dim() != 2 or values.size(1) == 0 or values.is_complex():
            raise InteractionError(f"{what}: features must be [N, f] numbers, not {list(values.shape)} {values.dtype}")
        values = values.float()
        missing = values.isnan().all(1)
        values = torch.where(missing.unsqueeze(1), 0.0, values)
        wrong = ~values.isfinite().all(1)
        if bool(wrong.any()):
            first = int(wrong.nonzero()[0])
            raise InteractionError(f"{what}: row {first} (from 0): not finite ({int(wrong.sum())} such rows)")
        covered = (values != 0).any(1)
        count = f"{int(covered.sum())} of {len(values)} items with {values.size(1)} features"
        return cls(values, covered, name, f"{what}: {count}")


def load_features(
    path: str | PathLike[str],
    data: Interactions,
    *,
    ids: str | PathLike[str] | npt.ArrayLike | None = None,
    name: str | None = None,
) -> ItemFeatures:
    """Read a feature matrix of items, whose rows belong to raw item ids.

    The ids come with the matrix (an array ``ids``, a column of ids) or beside it (``ids``). Without them, row ``r`` is
    the item ``r`` if the items of ``data`` are the integers 0 to n - 1 and the matrix has n rows; anything else is
    refused, as a filter may have left items out. Rows that are all NaN or all zero, and items without a row, have no
    features.

    Args:
        path: a file of one of the formats of :func:`~infodcl_geo.channels.matrices.read_matrix`, ``n x f``.
        data: whose items they are.
        ids: raw item id of each row: a file (npy, or text with one a line), or the ids themselves.
        name: what to call the features; default: the name of the file.

    Raises:
        InteractionError: if a file cannot be read, its shape does not fit, or it is not known whose rows they are.
    """
    file = Path(path)
    matrix, own_ids = read_matrix(file)
    row_ids = own_ids if ids is None else read_ids(ids)
    rows = rows_of(file, len(matrix), row_ids, data.item_ids, f"items of {data.name}", "--feature_ids FILE or ids=")
    known = rows >= 0
    if not known.all():
        warn_of_file(
            f"{file}: {int((~known).sum())} of {len(known)} rows are of items that are not in {data.name}, left out"
        )
    # NaN says that an item has no row; the check of the rows that are there names rows of the file.
    ItemFeatures.from_matrix(torch.from_numpy(matrix), source=str(file))
    values = torch.full((data.num_items, matrix.shape[1]), torch.nan)
    values[torch.from_numpy(rows[known])] = torch.from_numpy(matrix[known]).float()
    return ItemFeatures.from_matrix(values, name or file.name.split(".")[0], file.name)


@dataclass(frozen=True, eq=False)
class Modal:
    r"""Items described by features of their own: text, image, audio.

    Features are standardised over the items that have them (column mean 0, variance 1). The similarity graph joins each
    item to the ``top_k`` items of largest positive cosine similarity. The metadata are

    - ``features``: the standardised features, reduced to the d directions of largest variance (truncated SVD; narrower
      features are padded with zeros); items without features get zero, the mean of the others;
    - ``neighbours``: the mean pretrained vector of the similar items, weighted by similarity, so that the metadata live
      in the space of the interactions like those of the other channels; items without features keep their own vector.

    The default is ``features``: vectors pretrained on few interactions are noisy, and their mean over items that only
    look alike blurs what the features know (TikTok's images rank held-out items better as they are).

    Args:
        features: :class:`ItemFeatures` or a matrix ``[N, f]`` whose row r is the item of dense id r, in which rows of
            only NaN or only zeros are items without features.
        aggregate: see above.
        top_k: size of the neighbourhood.
        name: of the channel; by default that of the features.
    """

    features: ItemFeatures | Tensor
    aggregate: Literal["features", "neighbours"] = "features"
    top_k: int = 20
    name: str | None = None

    def __post_init__(self) -> None:
        if self.aggregate not in ("features", "neighbours"):
            raise OptionError(f"aggregate must be features or neighbours, not {self.aggregate!r}")
        if self.top_k < 1:
            raise OptionError(f"top_k must be at least 1, not {self.top_k}")

    def __call__(self, data: Interactions, vectors: PretrainedVectors) -> Channel:
        given = self.features
        features = given if isinstance(given, ItemFeatures) else ItemFeatures.from_matrix(given, "modal")
        if len(features.values) != data.num_items:
            raise ChannelError(f"{features.source}: {len(features.values)} rows for {data.num_items} items")
        name = self.name or features.name
        return described_by(features, vectors, self.aggregate, self.top_k, name, features.source)


def described_by(
    features: ItemFeatures, vectors: PretrainedVectors, aggregate: str, top_k: int, name: str, source: str
) -> Channel:
    """The channel of :class:`Modal`."""
    values = _standardised(features)
    similar = cosine_graph(values, features.covered, top_k=top_k)
    if aggregate == "neighbours":
        metadata = weighted_mean(similar, vectors.items, vectors.items)
        return Channel(name, metadata, source, has_edges(similar), similar, "items")
    return Channel(name, _reduced(values, vectors.items.size(1)), source, features.covered, similar, "items")


def _standardised(features: ItemFeatures) -> Tensor:
    """Columns of mean 0 and variance 1 over the covered rows, zero elsewhere and where a column is constant."""
    known = features.values[features.covered].double()
    values = torch.zeros_like(features.values)
    if len(known):
        spread = known.std(0, correction=0)
        scaled = (known - known.mean(0)) / torch.where(spread > 1e-6 * known.abs().amax(0), spread, torch.inf)
        values[features.covered] = scaled.to(values.dtype)
    return values


def _reduced(values: Tensor, dim: int) -> Tensor:
    """Coordinates along the ``dim`` directions of largest variance; signs fixed, the largest entry positive."""
    matrix = values.double().numpy()
    if not matrix.any():
        return torch.zeros(len(values), dim)
    rank = min(dim, *matrix.shape)
    if rank < min(matrix.shape):
        from scipy.sparse.linalg import svds  # slow to load

        left, sizes, _ = svds(matrix, k=rank, rng=np.random.default_rng(0))
    else:
        left, sizes, _ = np.linalg.svd(matrix, full_matrices=False)
    order = np.argsort(-sizes)
    coordinates = torch.from_numpy(np.ascontiguousarray((left * sizes)[:, order])).float()
    largest = coordinates.gather(0, coordinates.abs().argmax(0, keepdim=True))
    result = torch.zeros(len(values), dim)
    result[:, :rank] = torch.where(largest < 0, -coordinates, coordinates)
    return result
