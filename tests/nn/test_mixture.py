"""The mixture density against torch.distributions, its own integral, and its own samples."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.distributions import Categorical, Independent, MixtureSameFamily, Normal

from kinetext.nn.mixture import MixtureHead


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def head(size: int = 6, pieces: int = 3, components: int = 4) -> MixtureHead:
    torch.manual_seed(0)
    made = MixtureHead(5, size, pieces=pieces, components=components, hidden=24)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.mul_(2.0)  # so that components differ
    return made


def draw(model: MixtureHead, state: Tensor, temperature: float = 1.0) -> Tensor:
    chance = torch.rand(len(state), model.pieces, generator=rng(1))
    return model.sample(state, chance, torch.randn(len(state), model.size, generator=rng(2)), temperature)


def test_the_density_is_torchs_own_mixture_piece_by_piece() -> None:
    model = head()
    state, y = torch.randn(7, 5, generator=rng(1)), torch.randn(7, 6, generator=rng(2))
    weights, means, spreads = model._mixture(y, model._given(state))
    parts = []
    for piece in range(3):
        normal = Independent(Normal(means[:, piece], spreads[:, piece].exp()), 1)
        mixture = MixtureSameFamily(Categorical(logits=weights[:, piece]), normal)
        parts.append(mixture.log_prob(y[:, 2 * piece : 2 * piece + 2]))
    torch.testing.assert_close(model.log_prob(y, state), torch.stack(parts).sum(0))


def test_a_piece_knows_the_pieces_before_it_and_no_other() -> None:
    model = head()
    state = torch.randn(1, 5, generator=rng(1))
    y = torch.randn(1, 6, generator=rng(2), requires_grad=True)
    for piece in range(3):
        said = torch.cat([x[0, piece].flatten() for x in model._mixture(y, model._given(state))])
        (grad,) = torch.autograd.grad((said * torch.randn(len(said), generator=rng(3))).sum(), y)
        assert grad[0].ne(0).tolist() == [place // 2 < piece for place in range(6)]


def test_the_density_of_two_numbers_adds_up_to_one() -> None:
    model = head(size=2, pieces=2)
    line = torch.linspace(-15, 15, 601)
    grid = torch.cartesian_prod(line, line)
    with torch.no_grad():
        density = model.log_prob(grid, torch.randn(1, 5, generator=rng(1)).expand(len(grid), -1)).exp()
    assert float(density.sum()) * 0.05**2 == pytest.approx(1.0, abs=2e-3)


def test_samples_have_the_moments_of_the_density() -> None:
    model = head(size=2, pieces=2)
    state = torch.randn(1, 5, generator=rng(1))
    line = torch.linspace(-15, 15, 601)
    grid = torch.cartesian_prod(line, line)
    with torch.no_grad():
        density = model.log_prob(grid, state.expand(len(grid), -1)).exp() * 0.05**2
        drawn = draw(model, state.expand(100_000, -1))
    mean = (density[:, None] * grid).sum(0)
    centred = grid - mean
    covariance = (density[:, None] * centred).T @ centred
    torch.testing.assert_close(drawn.mean(0), mean, atol=0.02, rtol=0)
    torch.testing.assert_close(drawn.T.cov(), covariance, atol=0.04, rtol=0.02)


@torch.no_grad()
def test_a_low_temperature_gives_the_likeliest_component_at_its_mean() -> None:
    model = head(size=2, pieces=1)
    state = torch.randn(20, 5, generator=rng(1))
    weights, means, _ = model._mixture(torch.zeros(20, 2), model._given(state))
    likeliest = means[torch.arange(20), 0, weights[:, 0].argmax(1)]
    torch.testing.assert_close(draw(model, state, 1e-4), likeliest, atol=1e-2, rtol=0)


def test_it_learns_two_peaks_where_a_mean_would_lie_between_them() -> None:
    torch.manual_seed(0)
    model = MixtureHead(1, 2, pieces=2, components=3, hidden=16)
    optimizer = torch.optim.AdamW(model.parameters(), 1e-2)
    for step in range(200):
        side = torch.randint(2, (128, 1), generator=rng(step)) * 2.0 - 1.0
        y = side.expand(-1, 2) + 0.1 * torch.randn(128, 2, generator=rng(step + 1000))
        (-model.log_prob(y, torch.zeros(128, 1)).mean()).backward()
        optimizer.step()
        optimizer.zero_grad()
    with torch.no_grad():
        drawn = draw(model, torch.zeros(1000, 1))
    right = ((drawn.abs() - 1).abs() < 0.5).all(1)
    assert right.float().mean() > 0.97
    assert 0.4 < (drawn[right, 0] > 0).float().mean() < 0.6
    assert (drawn[right, 0] > 0).eq(drawn[right, 1] > 0).float().mean() > 0.97  # the second piece knew the first


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"pieces": 4}, "pieces: 4, expected a divisor of the code's size 6"),
        ({"hidden": 25}, "pieces: 3, expected a divisor of the hidden width 25"),
        ({"components": 0}, "components: 0, expected >= 1"),
    ],
)
def test_bad_options_are_refused(options: dict[str, int], message: str) -> None:
    legal = {"pieces": 3, "components": 2, "hidden": 24}
    with pytest.raises(ValueError, match=message):
        MixtureHead(5, 6, **{**legal, **options})
