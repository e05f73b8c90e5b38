"""A critic of rows, by whose judgement another network learns to make rows that look real."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.func import functional_call


class Critic(nn.Module):
    r"""The critic D of a Wasserstein GAN with gradient penalty (Gulrajani et al., NeurIPS 2017), one hidden layer.

    .. math::
        \mathcal L_D = \operatorname{mean} D(\hat a) - D(\tilde a) + \lambda (\|\nabla_x D(x)\| - 1)^2, \qquad
        \mathcal L_G = -\operatorname{mean} D(\hat a)

    of made rows :math:`\hat a` and real ones :math:`\tilde a`, x between both. No layer normalises over the batch: the
    penalty is of each row by itself.

    Args:
        size: entries of a row.
        hidden: width of the hidden layer.
    """

    def __init__(self, size: int, hidden: int) -> None:
        super().__init__()
        self.hidden = nn.Linear(size, hidden)
        self.output = nn.Linear(hidden, 1)

    def forward(self, rows: Tensor) -> Tensor:
        """Judgements ``[B]`` of rows ``[B, size]``; the larger the more real."""
        return self.output(nn.functional.leaky_relu(self.hidden(rows), 0.2))[:, 0]

    def fooled(self, fake: Tensor) -> Tensor:
        r""":math:`\mathcal L_G` of made rows, whose gradient does not reach the critic."""
        fixed = {name: weight.detach() for name, weight in self.named_parameters()}
        return -functional_call(self, fixed, (fake,)).mean()

    def loss(self, fake: Tensor, real: Tensor, penalty: float, generator: torch.Generator | None = None) -> Tensor:
        r""":math:`\mathcal L_D` of made and of real rows, whose gradient reaches the critic alone.

        Args:
            penalty: lambda.
            generator: of where x lies between the two.
        """
        fake, real = fake.detach(), real.detach()
        between = torch.lerp(fake, real, torch.rand(len(fake), 1, generator=generator, device=fake.device))
        (slope,) = torch.autograd.grad(self(between.requires_grad_()).sum(), between, create_graph=True)
        steep = (torch.linalg.vector_norm(slope, dim=1) - 1).square().mean()
        return (self(fake) - self(real)).mean() + penalty * steep
