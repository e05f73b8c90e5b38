"""Modal channels: item features, their reader and their builder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import numpy.typing as npt
import scipy.sparse as sp
import torch
from torch import Tensor

from ..data.ids import InteractionError
from ..data.interactions import Interactions
from ..graph.similarity import cosine_graph, weighted_mean
from .base import Channel, Path_, Vectors, _warn, has_edges

if TYPE_CHECKING:
    pass


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
        features: :class:`~infodcl_geo.side_information.ItemFeatures` or a matrix ``[N, f]``, in which rows of only NaN
            or only zeros are items without features.
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
            raise ValueError(f"aggregate must be features or neighbours, not {self.aggregate!r}")
        if self.top_k < 1:
            raise ValueError(f"top_k must be at least 1, not {self.top_k}")

    def __call__(self, data: Interactions, vectors: Vectors) -> Channel:
        given = self.features
        features = given if isinstance(given, ItemFeatures) else ItemFeatures.from_matrix(given, "modal")
        if len(features.values) != data.num_items:
            raise ValueError(f"{features.source}: {len(features.values)} rows for {data.num_items} items")
        name = self.name or features.name
        return described_by(features, vectors, self.aggregate, self.top_k, name, features.source)


def described_by(
    features: ItemFeatures, vectors: Vectors, aggregate: str, top_k: int, name: str, source: str
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
    from scipy.sparse.linalg import svds

    matrix = values.double().numpy()
    if not matrix.any():
        return torch.zeros(len(values), dim)
    rank = min(dim, *matrix.shape)
    if rank < min(matrix.shape):
        left, sizes, _ = svds(matrix, k=rank, rng=np.random.default_rng(0))
    else:
        left, sizes, _ = np.linalg.svd(matrix, full_matrices=False)
    order = np.argsort(-sizes)
    coordinates = torch.from_numpy(np.ascontiguousarray((left * sizes)[:, order])).float()
    largest = coordinates.gather(0, coordinates.abs().argmax(0, keepdim=True))
    result = torch.zeros(len(values), dim)
    result[:, :rank] = torch.where(largest < 0, -coordinates, coordinates)
    return result


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
    path: Path_, data: Interactions, *, ids: Path_ | npt.ArrayLike | None = None, name: str | None = None
) -> ItemFeatures:
    """Read a feature matrix of items.

    Without ids, row ``r`` belongs to dense item ``r`` if there are as many rows as items, else to the item whose raw
    id is the integer ``r``. Rows that are all NaN or all zero, and items without a row, have no features.

    Args:
        path: npy, npz (one array, or arrays ``features`` and ``ids``, or a scipy sparse matrix) or safetensors (the
            same names), ``n x f``.
        data: whose items they are.
        ids: raw item id of each row: a file (npy, or text with one a line), or the ids themselves.
        name: what to call the features; default: the name of the file.

    Raises:
        InteractionError: if a file cannot be read or its shape does not fit.
    """
    file = Path(path)
    matrix, own_ids = _read_matrix(file)
    if matrix.ndim != 2 or matrix.size == 0 or matrix.dtype.kind not in "iufb":
        raise InteractionError(f"{file}: an array of {matrix.dtype} and shape {matrix.shape}, not items x features")
    row_ids = _read_ids(ids) if ids is not None else own_ids
    if row_ids is not None:
        if row_ids.shape != (len(matrix),):
            raise InteractionError(f"{file}: {list(row_ids.shape)} ids for {len(matrix)} rows")
        if len(np.unique(row_ids)) < len(row_ids):
            raise InteractionError(f"{file}: {len(row_ids) - len(np.unique(row_ids))} ids are repeated")
        rows = data.item_ids.encode(row_ids, missing=-1)
    elif len(matrix) == data.num_items:
        rows = np.arange(data.num_items)
    elif data.item_ids.raw.dtype.kind == "i" and len(matrix) > data.item_ids.raw[-1]:
        rows = data.item_ids.encode(np.arange(len(matrix)), missing=-1)
    else:
        raise InteractionError(f"{file}: {len(matrix)} rows for {data.num_items} items of {data.name}; give ids=")
    known = rows >= 0
    if not known.any():
        raise InteractionError(f"{file}: none of its {len(matrix)} rows is of an item of {data.name}")
    if not known.all():
        _warn(f"{file}: {int((~known).sum())} of {len(known)} rows are of items that are not in {data.name}, left out")
    # NaN says that an item has no row; the check of the rows that are there names rows of the file.
    ItemFeatures.from_matrix(torch.from_numpy(matrix), source=str(file))
    values = torch.full((data.num_items, matrix.shape[1]), torch.nan)
    values[torch.from_numpy(rows[known])] = torch.from_numpy(matrix[known]).float()
    return ItemFeatures.from_matrix(values, name or file.name.split(".")[0], file.name)


def _read_matrix(file: Path) -> tuple[np.ndarray, np.ndarray | None]:
    """The features of a file and the ids beside them."""
    if not file.is_file():
        raise InteractionError(f"{file}: no such file")
    try:
        if file.suffix == ".safetensors":
            from safetensors.torch import load_file

            arrays = {
                key: value.float() if value.dtype == torch.bfloat16 else value for key, value in load_file(file).items()
            }
            found: Mapping[str, np.ndarray] = {key: value.numpy() for key, value in arrays.items()}
        else:
            loaded = np.load(file, allow_pickle=False)
            if isinstance(loaded, np.ndarray):
                return loaded, None
            with loaded:
                found = dict(loaded)
            if "format" in found and "shape" in found:
                return sp.load_npz(file).toarray(), None
    except Exception as error:  # whatever the libraries meet in damaged bytes
        raise InteractionError(f"{file}: not readable as arrays ({' '.join(str(error).split())})") from None
    ids = found.get("ids")
    matrices = [key for key in found if key != "ids"]
    if "features" in found:
        return found["features"], ids
    if len(matrices) != 1:
        shown = ", ".join(matrices[:5])
        raise InteractionError(f"{file}: arrays {shown}; call the matrix 'features'")
    return found[matrices[0]], ids


def _read_ids(ids: Path_ | npt.ArrayLike) -> np.ndarray:
    if not isinstance(ids, str | PathLike):
        return np.asarray(ids)
    file = Path(ids)
    try:
        if file.suffix == ".npy":
            return np.load(file, allow_pickle=False)
        return np.array([line.strip() for line in file.read_text(encoding="utf-8").splitlines() if line.strip()])
    except OSError as error:
        raise InteractionError(f"{file}: {error.strerror or error}") from None
    except ValueError as error:
        raise InteractionError(f"{file}: not readable as ids ({' '.join(str(error).split())})") from None
