"""CF-Diff: diffusion of users' rows of interactions that attends to what users of like taste took."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import OptionError
from ..graph.graph import Graph, normalized_interactions
from ..nn.diffusion import time_encoding
from .diffrec import DiffRec, DiffRecOptions, check_fit
from .options import check
from .recipe import Recipe, Sizes, Space, ranks_rows


@dataclass(frozen=True)
class CFDiffOptions(DiffRecOptions):
    """Options of :class:`CFDiff`: those of DiffRec, and the attention's.

    The authors take 20 steps and a learning rate of 1e-4, and weigh all steps alike.

    Args:
        hops: rows of neighbours that are attended to; the first is of users that share an item, and so on.
        heads: of the attention; must divide ``hidden``.
    """

    steps: int = 20
    noise_max: float = 0.2
    reweight: bool = False
    importance: bool = False
    hops: int = 2
    heads: int = 2

    def __post_init__(self) -> None:
        super().__post_init__()
        check(self, at_least_1=["hops", "heads"], positive=["noise_scale"])
        if self.hidden % self.heads:
            raise OptionError(f"heads must divide hidden = {self.hidden}, not {self.heads}")


class CFDiff(DiffRec):
    r"""CF-Diff (Hou et al., SIGIR 2024): DiffRec whose denoiser attends to rows of several hops.

    .. math::
        h = \tanh(W_1 [x_t \,\|\, t]), \quad g_k = \tanh(V c_k), \quad
        c_k = (1 - x_0) \odot \big(\tilde R^\top \tilde R\big)^k x_0, \quad
        \hat x = W_2 \Big(h + \sum_k \operatorname{softmax}_k \frac{(Q h)^\top (K g_k)}{\sqrt{d}} P g_k\Big)

    with several heads, objective and reverse process of :class:`~infodcl_geo.models.diffrec.DiffRec`.
    :math:`c_k`, scaled to length one, is what users took at 2k hops, weighted by how they are connected, and without
    the user's own items, which otherwise would tell the answer. (In the authors' program these rows are the popularity
    of items within the user's own.) Memory grows with B N for B users.

    Args:
        interactions, num_users, num_items: as in :class:`~infodcl_geo.models.diffrec.DiffRec`.
        options: see :class:`CFDiffOptions`.
    """

    graph: Graph

    def __init__(
        self, interactions: Tensor, num_users: int, num_items: int, *, options: CFDiffOptions = CFDiffOptions()
    ) -> None:
        super().__init__(interactions, num_users, num_items, options=options)
        self.attends = options
        self.graph = normalized_interactions(interactions, num_users, num_items)
        self.hop = nn.Linear(num_items, options.hidden)
        self.query, self.key, self.value = (nn.Linear(options.hidden, options.hidden, bias=False) for _ in range(3))
        for layer in (self.hop, self.query, self.key, self.value):
            nn.init.xavier_normal_(layer.weight)
        nn.init.zeros_(self.hop.bias)

    def _apply(self, fn, recurse=True):  # type: ignore[no-untyped-def]
        super()._apply(fn, recurse)
        self.graph = self.graph.to(self.step_weight.device)
        return self

    def shared(self) -> list[Any]:
        return [self.rows, self.graph]

    @torch.no_grad()
    def hop_rows(self, history: Tensor) -> list[Tensor]:
        """The rows :math:`c_k` ``[B, N]`` of users with rows ``history`` ``[B, N]``, of length one (or zero)."""
        found, x = [], history.T.contiguous()
        for _ in range(self.attends.hops):
            x = self.graph.t() @ (self.graph @ x)
            found.append(F.normalize(x.T * (1 - history)))
        return found

    def denoised(self, z: Tensor, t: Tensor, history: Tensor) -> Tensor:
        encoding = self.time(time_encoding(t, self.options.time_dim).to(z.dtype))
        h = torch.tanh(self.encoder(torch.cat([z, encoding], dim=1)))
        hops = torch.stack([torch.tanh(self.hop(row)) for row in self.hop_rows(history)], dim=1)

        def by_head(x: Tensor) -> Tensor:
            return x.unflatten(-1, (self.attends.heads, -1)).transpose(1, 2)

        near = F.scaled_dot_product_attention(
            by_head(self.query(h).unsqueeze(1)), by_head(self.key(hops)), by_head(self.value(hops))
        )
        return self.decoder(h + near.transpose(1, 2).flatten(1))


def _restored(state: Mapping[str, Tensor], options: CFDiffOptions, train: Tensor, sizes: Sizes) -> CFDiff:
    check_fit(state, options, sizes, "cfdiff")
    model = CFDiff(train, *sizes, options=options).to(train.device)
    model.load_state_dict(dict(state))
    return model


def _search(space: Space) -> None:
    space.number("lr", 1e-4, 5e-3)
    space.number("dropout", 0.1, 0.8, log=False)
    space.number("noise_scale", 1e-4, 0.1)
    space.whole("hops", 1, 3)


recipe = Recipe(
    name="cfdiff",
    summary="diffusion of each user's row that attends to rows of several hops",
    paper="Hou et al., CF-Diff, SIGIR 2024",
    options=CFDiffOptions,
    build=lambda inputs, options: CFDiff(inputs.train, *inputs.sizes, options=options),
    training={"lr": 0.001},
    search=_search,
    **ranks_rows(_restored),
)
