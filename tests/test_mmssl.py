"""MMSSL: its relations, its attention, its critic and its objective against dense algebra."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from infodcl_geo.errors import OptionError
from infodcl_geo.graph.graph import Graph, csr_parts, normalized_adjacency
from infodcl_geo.models.base import Batch
from infodcl_geo.models.mmssl import MMSSL, MMSSLOptions, Related
from infodcl_geo.nn.critic import Critic
from infodcl_geo.nn.modal import CrossModalAttention

USERS, ITEMS, DIM = 4, 5, 4
PAIRS = torch.tensor([[0, 0, 1, 2, 3], [0, 1, 1, 2, 3]])
# Rows 0 and 1 hold the first items of users 0 and 2, whose rows are shown to the critic; row 2 does not.
BATCH = Batch(
    torch.tensor([0, 2, 0]), torch.tensor([0, 2, 1]), torch.tensor([3, 4, 2]), torch.empty(0, dtype=torch.int64), 1.0
)


def dense(graph: Graph) -> Tensor:
    pointers, col, value, shape = csr_parts(graph.matrix)
    return torch.sparse_csr_tensor(pointers, col, value, size=shape, check_invariants=True).to_dense()


def model_of(modalities: int, **options: float) -> tuple[MMSSL, dict[str, Tensor]]:
    torch.manual_seed(0)
    features = {name: torch.randn(ITEMS, 3 + k) for k, name in enumerate("abc"[:modalities])}
    graph = normalized_adjacency(PAIRS, USERS, ITEMS)
    given = {"dim": DIM, "l2": 0.1, "num_layers": 1, "related": 2, "init_std": 1, **options}
    return MMSSL(graph, USERS, ITEMS, features, **given), features


def test_attention_by_hand() -> None:
    attention = CrossModalAttention(2, 1)
    with torch.no_grad():
        attention.query.weight.copy_(torch.eye(2))
        attention.key.weight.copy_(2 * torch.eye(2))
    z = torch.tensor([[[1.0, 0.0]], [[0.0, 1.0]]])  # two modalities of one node: logits 2 / sqrt(2) and 0
    share = math.exp(math.sqrt(2)) / (math.exp(math.sqrt(2)) + 1)
    torch.testing.assert_close(attention(z), torch.tensor([[[share, 1 - share]], [[1 - share, share]]]))
    torch.testing.assert_close(CrossModalAttention(4, 2)(z.repeat(1, 1, 2)[:1]), z.repeat(1, 1, 2)[:1])  # one alone


def test_heads_share_the_columns() -> None:
    attention, z = CrossModalAttention(4, 2), torch.randn(3, 5, 4)
    q, k = attention.query(z), attention.key(z)
    expected = torch.zeros_like(z)
    for head in (slice(0, 2), slice(2, 4)):
        for m in range(3):
            weights = torch.stack([(q[m, :, head] * k[n, :, head]).sum(1) / math.sqrt(2) for n in range(3)]).softmax(0)
            expected[m, :, head] = sum(weights[n][:, None] * z[n, :, head] for n in range(3))
    torch.testing.assert_close(attention(z), expected)


def test_critic_by_hand() -> None:
    critic = Critic(2, 1)
    with torch.no_grad():
        for parameter, values in zip(critic.parameters(), ([[3.0, 4.0]], [0.0], [[1.0]], [0.5]), strict=True):
            parameter.copy_(torch.tensor(values))
    fake, real = torch.tensor([[1.0, 0.0]], requires_grad=True), torch.tensor([[0.0, 2.0]])
    torch.testing.assert_close(critic(fake), torch.tensor([3.5]))
    # The slope is (3, 4), of length 5, everywhere between the two: the penalty is 16.
    loss = critic.loss(fake, real, 0.25)
    torch.testing.assert_close(loss, torch.tensor(3.5 - 8.5 + 0.25 * 16))
    loss.backward()
    assert fake.grad is None
    assert critic.hidden.weight.grad is not None
    critic.zero_grad()
    torch.testing.assert_close(critic.fooled(fake), torch.tensor(-3.5))
    critic.fooled(fake).backward()
    torch.testing.assert_close(fake.grad, torch.tensor([[-3.0, -4.0]]))
    assert critic.hidden.weight.grad is None


def test_a_critic_learns_to_tell_rows_apart() -> None:
    torch.manual_seed(0)
    critic, generator = Critic(6, 8), torch.Generator().manual_seed(0)
    optimizer = torch.optim.Adam(critic.parameters(), lr=0.02)
    real, fake = torch.rand(64, 6) + torch.tensor([1.0, 0, 0, 0, 0, 0]), torch.rand(64, 6)
    for _ in range(100):
        optimizer.zero_grad()
        critic.loss(fake, real, 1.0, generator).backward()
        optimizer.step()
    assert critic(real).mean() - critic(fake).mean() > 0.5


@pytest.mark.parametrize("modalities", [1, 2, 3])
def test_relations_and_embeddings(modalities: int) -> None:
    model, _ = model_of(modalities)
    a, ids = dense(model.graph), model.nodes()
    r = a[:USERS, USERS:]
    graphs, described = [], []
    for m, related in enumerate(model.relations()):
        x = model.projections[m]()
        users = r @ x
        items = x + r.T @ users
        described.append(torch.cat([users, items]))
        cosine = F.normalize(users) @ F.normalize(items).T
        best = cosine.topk(2, dim=1)
        torch.testing.assert_close(related.items, best.indices)
        weight = torch.zeros(USERS, ITEMS).scatter(1, best.indices, best.values.clamp(min=0))
        by_user, by_item = weight.sum(1, keepdim=True), weight.sum(0, keepdim=True)
        weight = weight / (by_user * by_item).sqrt().clamp(min=1e-12)
        square = torch.zeros(USERS + ITEMS, USERS + ITEMS)
        square[:USERS, USERS:], square[USERS:, :USERS] = weight, weight.T
        torch.testing.assert_close(dense(model._graph(related)), square.detach())
        graphs.append(square.detach())
    modal = model.attention(torch.stack([g @ ids for g in graphs]))
    first = ids + 0.3 * F.normalize(modal.mean(0))
    final = (first + a @ first) / 2
    ranked = final + 0.1 * sum(F.normalize(x) for x in described)
    torch.testing.assert_close(torch.cat(model.embeddings()), ranked.detach())
    terms = model.loss(BATCH, torch.Generator().manual_seed(0))
    users, items = ranked.split([USERS, ITEMS])
    u, i, j = users[BATCH.users], items[BATCH.positives], items[BATCH.negatives]
    torch.testing.assert_close(terms["bpr"], -F.logsigmoid((u * (i - j)).sum(1)).mean())
    nce = torch.zeros(())
    for z in modal:
        logits = F.normalize(z[[0, 2]]) @ F.normalize(final[:USERS]).T / 0.5
        nce = nce + F.cross_entropy(logits, torch.tensor([0, 2]))
    torch.testing.assert_close(terms["nce"], 0.01 * nce, rtol=1e-4, atol=1e-6)


def test_what_the_critic_is_shown() -> None:
    model, _ = model_of(1, adversarial=0.5, softness=1e-3, likeness=0.0, gradient_penalty=0.0)
    terms = model.loss(BATCH, torch.Generator().manual_seed(0))
    (critic,) = model.critics
    users, items = model.split(F.normalize(model.described()[0], dim=1))
    fake = users[[0, 2]] @ items.T
    torch.testing.assert_close(terms["gan"], -0.5 * critic(fake).mean())  # type: ignore[operator]
    # Without softness a row of behaviour is one item, drawn by Gumbel noise.
    possible = critic(torch.eye(ITEMS))  # type: ignore[operator]
    real = critic(fake).mean() - terms["critic"]  # type: ignore[operator]
    means = (possible[:, None] + possible) / 2
    assert (means - real).abs().min() < 1e-5


def test_each_term_moves_its_own() -> None:
    model, _ = model_of(2, adversarial=1.0)
    terms = model.loss(BATCH, torch.Generator().manual_seed(0))
    terms["critic"].backward(retain_graph=True)
    assert {name.split(".")[0] for name, p in model.named_parameters() if p.grad is not None} == {"critics"}
    model.zero_grad()
    terms["gan"].backward()
    assert {name.split(".")[0] for name, p in model.named_parameters() if p.grad is not None} == {"projections"}


def test_without_users_to_show_and_without_the_critic() -> None:
    model, _ = model_of(1)
    nobody = BATCH._replace(users=torch.tensor([0]), positives=torch.tensor([1]), negatives=torch.tensor([3]))
    terms = model.loss(nobody, torch.Generator().manual_seed(0))
    assert terms["gan"] == terms["critic"] == 0
    assert set(model_of(1, adversarial=0.0, contrast=0.0)[0].loss(BATCH)) == {"bpr", "reg"}


def test_training_goes_on_from_its_state() -> None:
    model, other = model_of(2)[0], model_of(2)[0]
    model.loss(BATCH, torch.Generator().manual_seed(0))
    other.load_training_state(model.training_state())
    assert isinstance(other.related[0], Related)
    assert (other.seen, other.drawn_in) == (model.seen, model.drawn_in) == (3, 0)
    for one, two in zip(model.drawn, other.drawn, strict=True):
        torch.testing.assert_close(dense(one), dense(two))


def test_bad_options() -> None:
    with pytest.raises(OptionError, match="dim 64 cannot be shared by 5 heads"):
        MMSSLOptions(heads=5)
    with pytest.raises(OptionError, match="softness must be positive"):
        MMSSLOptions(softness=0.0)
