"""Metadata channels: by hand, against the authors' vectors, and the closed-form pretraining."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from infodcl_geo.channels import item_similarity_metadata, spectral_embeddings, user_similarity_metadata
from infodcl_geo.graph import normalized_interactions, to_scipy
from infodcl_geo.interactions import load_interactions

# users 0: {0, 1}, 1: {0, 1}, 2: {1, 2}; item 3 has no user
PAIRS = torch.tensor([[0, 0, 1, 1, 2, 2], [0, 1, 0, 1, 1, 2]])


def test_item_channel_by_hand() -> None:
    vectors = torch.tensor([[1.0, 0.0], [0.0, 1.0], [4.0, 4.0], [7.0, 7.0]])
    # Jaccard of items: J01 = 2/3, J12 = 1/3, J02 = 0. The two nearest of item 1 are 0 and 2.
    expected = torch.tensor([[0.0, 1.0], [2.5, 2.0], [0.0, 1.0], [7.0, 7.0]])
    torch.testing.assert_close(item_similarity_metadata(PAIRS, 3, 4, vectors, top_k=2), expected)
    nearest = item_similarity_metadata(PAIRS, 3, 4, vectors, top_k=1)
    torch.testing.assert_close(nearest[1], vectors[0])


def test_user_channel_by_hand() -> None:
    vectors = torch.tensor([[1.0], [3.0], [9.0]])
    # J01 = 1, J02 = J12 = 1/3
    s0 = (1 + (1 * 3 + 9 / 3) / (4 / 3)) / 2
    s1 = (3 + (1 * 1 + 9 / 3) / (4 / 3)) / 2
    s2 = (9 + (1 / 3 + 3 / 3) / (2 / 3)) / 2
    expected = torch.tensor([[(s0 + s1) / 2], [(s0 + s1 + s2) / 3], [s2], [(s0 + s1 + s2) / 3]])
    torch.testing.assert_close(user_similarity_metadata(PAIRS, 3, 4, vectors), expected)


def test_a_user_alone_keeps_its_vector() -> None:
    pairs = torch.tensor([[0, 1], [0, 1]])
    vectors = torch.tensor([[2.0], [5.0]])
    torch.testing.assert_close(user_similarity_metadata(pairs, 2, 2, vectors), vectors)


def test_spectral_embeddings_are_the_best_approximation() -> None:
    generator = torch.Generator().manual_seed(1)
    pairs = (torch.rand(12, 9, generator=generator) < 0.4).nonzero().T
    users, items = spectral_embeddings(pairs, 12, 9, 4)
    matrix = torch.from_numpy(to_scipy(normalized_interactions(pairs, 12, 9).matrix).toarray()).double()
    left, values, right = torch.linalg.svd(matrix, full_matrices=False)
    best = (left[:, :4] * values[:4]) @ right[:4]
    torch.testing.assert_close(users.double() @ items.double().T, best, rtol=1e-4, atol=1e-5)
    largest = items.gather(0, items.abs().argmax(0, keepdim=True))
    assert (largest > 0).all()
    again = spectral_embeddings(pairs, 12, 9, 4)
    assert torch.equal(users, again[0])


def test_spectral_embeddings_of_a_small_matrix_are_padded() -> None:
    users, items = spectral_embeddings(PAIRS, 3, 4, 5)
    assert users.shape == (3, 5)
    assert (users[:, 2:] == 0).all()
    assert items[:, :2].abs().sum() > 0
    with pytest.raises(ValueError, match="no truncated SVD"):
        spectral_embeddings(torch.tensor([[0], [0]]), 1, 1, 2)


@pytest.mark.real_data
def test_both_channels_reproduce_the_authors_vectors(data_root: Path) -> None:
    folder = data_root / "office"
    data = load_interactions(folder)
    items = torch.from_numpy(np.load(folder / "iEmbeds_pt.npy"))
    users = torch.from_numpy(np.load(folder / "uEmbeds_pt.npy"))
    knowledge = torch.from_numpy(np.load(folder / "item_knowledge_emb.npy"))
    social = torch.from_numpy(np.load(folder / "item_social_emb.npy"))

    ours = item_similarity_metadata(data.train, data.num_users, data.num_items, items)
    torch.testing.assert_close(ours, knowledge, rtol=1e-4, atol=1e-5)

    ours = user_similarity_metadata(data.train, data.num_users, data.num_items, users)
    # Items without a training user have arbitrary vectors there.
    known = torch.bincount(data.train[1], minlength=data.num_items) > 0
    assert int((~known).sum()) == 3
    torch.testing.assert_close(ours[known], social[known], rtol=1e-4, atol=1e-5)
