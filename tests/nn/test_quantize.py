"""Quantisers: van den Oord's averages and Mentzer's scalars, number by number."""

from __future__ import annotations

import math
from itertools import product

import pytest
import torch

from kinetext.nn.quantize import EmaCodebook, FiniteScalars, perplexity


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def some(rows: int, dim: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(rows, dim, generator=rng(seed))


def test_a_vector_becomes_its_nearest_code() -> None:
    book = EmaCodebook(7, 3).eval()
    x = some(50, 3)
    made = book(x, rng=rng())
    torch.testing.assert_close(made.ids, torch.cdist(x, book.codebook_KD).argmin(1))
    torch.testing.assert_close(made.x, book.codebook_KD[made.ids])
    torch.testing.assert_close(book.vectors(made.ids.view(5, 10)), made.x.view(5, 10, 3))
    torch.testing.assert_close(made.loss, 0.25 * (x - made.x).square().mean())


def test_gradients_pass_straight_through_and_commit() -> None:
    book = EmaCodebook(4, 2, commitment=0.5).eval()
    x, weight = some(6, 2).requires_grad_(), some(6, 2, 1)
    made = book(x, rng=rng())
    (through,) = torch.autograd.grad((made.x * weight).sum(), x, retain_graph=True)
    torch.testing.assert_close(through, weight)
    (drawn,) = torch.autograd.grad(made.loss, x)
    torch.testing.assert_close(drawn, 0.5 * 2 * (x - book.codebook_KD[made.ids]).detach() / x.numel())


def test_codes_are_the_moving_averages_of_appendix_a_1() -> None:
    """The recursion, code by code and in plain Python."""
    book = EmaCodebook(3, 2, decay=0.7, restart=0.0).train()
    batches = [some(9, 2, seed) + 1 for seed in range(4)]
    book(batches[0], rng=rng())  # begins with vectors of the batch
    codes = [[float(v) for v in row] for row in book.codebook_KD]
    counts = [float(n) for n in book.counts_K]
    sums = [[float(v) for v in row] for row in book.sums_KD]
    for x in batches[1:]:
        vectors = [[float(v) for v in row] for row in x]
        near = [min(range(3), key=lambda i: math.dist(vector, codes[i])) for vector in vectors]
        for i in range(3):
            mine = [v for v, n in zip(vectors, near, strict=True) if n == i]
            counts[i] = 0.7 * counts[i] + 0.3 * len(mine)
            sums[i] = [0.7 * old + 0.3 * sum(v[d] for v in mine) for d, old in enumerate(sums[i])]
            codes[i] = [value / counts[i] for value in sums[i]]
        made = book(x, rng=rng())
        assert made.ids.tolist() == near
        torch.testing.assert_close(book.codebook_KD, torch.tensor(codes))


def test_the_first_batch_fills_the_codebook_and_only_in_training() -> None:
    book = EmaCodebook(5, 2)
    before = book.codebook_KD.clone()
    book.eval()(some(30, 2), rng=rng())
    with torch.no_grad():
        book.train()(some(30, 2), rng=rng())
    torch.testing.assert_close(book.codebook_KD, before)
    book(some(30, 2) + 100, rng=rng())
    assert bool((book.codebook_KD > 90).all())


def test_dead_codes_begin_again_as_vectors_of_the_batch_and_the_same_for_the_same_rng() -> None:
    def trained(seed: int) -> EmaCodebook:
        torch.manual_seed(0)
        book = EmaCodebook(8, 2, decay=0.5, restart=0.1).train()
        book(torch.zeros(16, 2), rng=rng())  # all codes alike: one gets everything, seven nothing
        for step in range(6):
            book(some(64, 2, step), rng=rng(seed))
        return book

    book = trained(0)
    assert len(set(book.ids(some(500, 2, 99)).tolist())) == 8
    torch.testing.assert_close(trained(0).codebook_KD, book.codebook_KD, rtol=0, atol=0)
    assert not torch.equal(trained(1).codebook_KD, book.codebook_KD)


def test_a_codebook_finds_the_centres_of_clusters() -> None:
    centres = torch.tensor([[5.0, 0.0], [-5.0, 0.0], [0.0, 5.0], [0.0, -5.0]])
    book = EmaCodebook(12, 2, decay=0.9, restart=0.2).train()
    for step in range(60):
        x = centres[torch.randint(4, (64,), generator=rng(step))] + 0.1 * some(64, 2, step)
        book(x, rng=rng(step))
    assert float(torch.cdist(centres, book.codebook_KD).min(1).values.max()) < 0.1


def test_scalars_are_those_of_the_paper() -> None:
    """Odd levels: round(floor(L / 2) tanh z), section 3; three levels of three numbers are figure 2's 27 points."""
    z = torch.linspace(-3, 3, 101)
    odd = FiniteScalars([5], 1)
    torch.testing.assert_close(odd.bounded(z[:, None])[:, 0], 2 * (1 - 1e-3) * z.tanh())
    assert odd.rounded(z[:, None]).unique().tolist() == [-1, -0.5, 0, 0.5, 1]
    even = FiniteScalars([4], 1)
    assert even.rounded(10 * z[:, None]).unique().tolist() == [-1, -0.5, 0, 0.5]
    torch.testing.assert_close(even.bounded(torch.zeros(1, 1)), torch.zeros(1, 1), atol=1e-6, rtol=0)
    cube = FiniteScalars([3, 3, 3], 1)
    book = cube.levels_of(torch.arange(27))
    assert {tuple(row) for row in book.tolist()} == set(product((-1, 0, 1), repeat=3))


@pytest.mark.parametrize("levels", [[8, 6, 5], [8, 5, 5, 5], [3, 4], [7, 5, 5, 5, 5]])
def test_every_code_goes_to_its_levels_and_back(levels: list[int]) -> None:
    scalars = FiniteScalars(levels, 2)
    ids = torch.arange(scalars.vocab)
    assert scalars.vocab == math.prod(levels)
    q = scalars.levels_of(ids)
    torch.testing.assert_close(scalars.codes_of(q), ids)
    # the implicit codebook: all combinations, the first number fastest
    half = [count // 2 for count in levels]
    grids = [[(i - h) / h for i in range(count)] for count, h in zip(levels, half, strict=True)]
    expected = [tuple(reversed(row)) for row in product(*reversed(grids))]
    torch.testing.assert_close(q, torch.tensor(expected))
    # what the levels are rounded from gives them back
    inside = q * torch.tensor(half)
    shift = torch.tensor([0.5 if count % 2 == 0 else 0.0 for count in levels])
    most = (torch.tensor(levels) - 1) * (1 - 1e-3) / 2
    z = ((inside * 0.999 + shift) / most).clamp(-0.9999, 0.9999).atanh() - (shift / most).atanh()
    torch.testing.assert_close(scalars.codes_of(scalars.rounded(z)), ids)


def test_scalars_have_the_gradient_of_what_they_round() -> None:
    scalars = FiniteScalars([8, 5], 2)
    z, weight = some(6, 2).requires_grad_(), some(6, 2, 1)
    (through,) = torch.autograd.grad((scalars.rounded(z) * weight).sum(), z)
    (smooth,) = torch.autograd.grad((scalars.bounded(z) / torch.tensor([4, 2]) * weight).sum(), z)
    torch.testing.assert_close(through, smooth)


def test_what_scalars_decode_is_what_training_saw() -> None:
    torch.manual_seed(0)
    scalars = FiniteScalars([8, 5, 5], 4)
    made = scalars(some(40, 4), rng=rng())
    torch.testing.assert_close(scalars.ids(some(40, 4)), made.ids)
    torch.testing.assert_close(scalars.vectors(made.ids), made.x)
    assert float(made.loss) == 0


def test_perplexity_of_known_shares() -> None:
    assert float(perplexity(torch.full((3, 4), 2), 9)) == pytest.approx(1)
    assert float(perplexity(torch.arange(9), 9)) == pytest.approx(9)
    half = math.exp(-(0.5 * math.log(0.5) + 2 * 0.25 * math.log(0.25)))
    assert float(perplexity(torch.tensor([0, 0, 1, 2]), 9)) == pytest.approx(half)


def test_bad_options_are_named() -> None:
    with pytest.raises(ValueError, match="codes: 1, expected >= 2"):
        EmaCodebook(1, 2)
    with pytest.raises(ValueError, match=r"decay: 1.0, expected in \[0, 1\)"):
        EmaCodebook(2, 2, decay=1.0)
    with pytest.raises(ValueError, match=r"codes: \[8, 2\], expected a list of levels, each >= 3"):
        FiniteScalars([8, 2], 2)
