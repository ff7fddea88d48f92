"""Training codecs: two players where there is a discriminator, and the balance of their losses."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F

from kinetext.codecs.autoencoder import Autoencoder
from kinetext.codecs.pixel import Pixel
from kinetext.codecs.vq import Vq
from kinetext.contracts import check_task
from kinetext.interfaces import Codec
from kinetext.tasks.reconstruction import Reconstruction
from kinetext.types import Batch, RecipeError


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def batch_of(video: torch.Tensor) -> Batch:
    size, frames = len(video), video.shape[2]
    return Batch(
        keys=tuple(map(str, range(size))), video=video, video_mask=torch.ones(size, frames, dtype=torch.bool),
        text=("",) * size, tokens=torch.zeros(size, 1, dtype=torch.int64),
        token_mask=torch.zeros(size, 1, dtype=torch.bool), labels={}, weight=torch.ones(size),
    )  # fmt: skip


def squares(count: int) -> torch.Tensor:
    """Frames of 32x32 with a bright square somewhere."""
    video = torch.full((count, 1, 1, 32, 32), -1.0)
    for row, place in enumerate(torch.randint(20, (count, 2), generator=rng()).tolist()):
        video[row, :, :, place[0] : place[0] + 10, place[1] : place[1] + 10] = 1.0
    return video


def small(**options: Any) -> Reconstruction:
    torch.manual_seed(0)
    return Reconstruction(Autoencoder(width=8, levels=2), adversarial=0.5, critic_width=8, **options)


@pytest.mark.parametrize("adaptive", [False, True])
@pytest.mark.parametrize("codec", [Vq(width=8, levels=2, codes=(32,)), Autoencoder(width=8, levels=2, kl=1e-3)])
def test_adversarial_training_keeps_the_contract(codec: Codec, adaptive: bool) -> None:
    task = Reconstruction(codec, adversarial=0.5, adaptive=adaptive, critic_width=8)
    check_task(task, batch_of(squares(2).expand(-1, -1, 2, -1, -1)))


def test_players() -> None:
    assert Reconstruction(Autoencoder()).players == ("model",)
    task = small()
    assert task.players == ("discriminator", "model")
    assert all(name.startswith("discriminator.") for name, _ in task.parameters_of("discriminator"))
    assert {name for name, _ in task.parameters_of("model")} == {f"codec.{n}" for n, _ in task.codec.named_parameters()}


def test_each_player_loses_what_the_paper_says() -> None:
    task, batch = small().train(), batch_of(squares(3))
    with torch.no_grad():
        decoded, _ = task.codec.reconstruct(batch.video, rng=rng())
        real, made = task.discriminator(batch.video), task.discriminator(decoded)
    critic = task.loss(batch, player="discriminator", rng=rng())
    torch.testing.assert_close(critic.total.detach(), (F.relu(1 - real).mean() + F.relu(1 + made).mean()) / 2)
    model = task.loss(batch, player="model", rng=rng())
    mse = (decoded - batch.video).square().mean()
    torch.testing.assert_close(model.total.detach(), mse - 0.5 * made.mean())


def test_the_adaptive_weight_makes_both_gradients_of_the_last_layer_alike() -> None:
    """Equation 7, by gradients of both parts taken apart."""
    task, batch = small(adaptive=True).train(), batch_of(squares(3))
    decoded, _ = task.codec.reconstruct(batch.video, rng=rng())
    last = task.codec.last_weight()
    assert last.shape == (1, 8, 3, 3)  # from the first level's width to the channels of the video
    parts = (decoded - batch.video).square().mean(), -task.discriminator(decoded).mean()
    sizes = [torch.autograd.grad(part, last, retain_graph=True)[0].norm() for part in parts]
    losses = task.loss(batch, player="model", rng=rng())
    torch.testing.assert_close(losses.parts["adaptive"], sizes[0] / (sizes[1] + 1e-6))
    torch.testing.assert_close(losses.total, parts[0] + 0.5 * losses.parts["adaptive"] * parts[1])


def test_validation_leaves_the_adversarial_part_out() -> None:
    task, batch = small().eval(), batch_of(squares(2))
    losses = task.loss(batch, player="model", rng=rng())
    torch.testing.assert_close(losses.total.detach(), losses.parts["mse"])


def test_the_discriminators_turn_leaves_the_codebook_alone() -> None:
    torch.manual_seed(0)
    task = Reconstruction(Vq(width=8, levels=2, codes=(32,)), adversarial=0.5, critic_width=8).train()
    batch = batch_of(squares(2))
    task.loss(batch, player="model", rng=rng())
    before = {name: buffer.clone() for name, buffer in task.codec.named_buffers() if name.startswith("quantizer")}
    task.loss(batch, player="discriminator", rng=rng())
    assert before
    assert all(torch.equal(buffer, before[name]) for name, buffer in task.codec.named_buffers() if name in before)


def test_a_codec_learns_beside_a_discriminator_that_learns() -> None:
    task, batch = small(adaptive=True).train(), batch_of(squares(8))
    optimizers = {
        player: torch.optim.AdamW([p for _, p in task.parameters_of(player)], 3e-3) for player in task.players
    }
    first: dict[str, float] = {}
    for step in range(60):
        for player in task.players:
            losses = task.loss(batch, player=player, rng=rng(step))
            losses.total.backward()
            optimizers[player].step()
            task.zero_grad()
            first.setdefault(player, float(losses.total.detach()))
    made = task.eval().predict(batch, rng=rng()).video
    assert made is not None
    assert float((made - batch.video).square().mean()) < 0.5 * float((batch.video + 1).square().mean())
    assert float(task.loss(batch, player="discriminator", rng=rng()).total.detach()) < first["discriminator"]


def test_codes_are_predicted_by_codecs_of_tokens_alone() -> None:
    batch = batch_of(squares(2))
    codes = Reconstruction(Vq(width=8, levels=2)).eval().predict(batch, rng=rng()).codes
    assert codes is not None and codes.shape == (2, 1, 1, 8, 8)
    assert small().eval().predict(batch, rng=rng()).codes is None


def test_bad_options_are_named() -> None:
    with pytest.raises(RecipeError, match="nothing to learn"):
        Reconstruction(Pixel())
    with pytest.raises(RecipeError, match=r"task\.adversarial: -1\.0, expected >= 0"):
        Reconstruction(Autoencoder(), adversarial=-1.0)
    with pytest.raises(RecipeError, match=r"task\.critic_width: 12, expected a multiple of 8"):
        Reconstruction(Autoencoder(), critic_width=12)
