"""Classification: losses by hand, missing labels and modalities, what is refused, and that it learns."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from kinetext.encoders.frame_cnn import FrameCNN
from kinetext.encoders.transformer import Transformer
from kinetext.fusion.attention import Attention
from kinetext.fusion.concat import Concat
from kinetext.interfaces import Encoder, Fusion
from kinetext.runtime import rng
from kinetext.tasks.classification import Classification, drop_modality
from kinetext.types import Batch, RecipeError, Target

KIND = Target("type", ("a", "b", "c"))  # a name that torch's ModuleDict refuses
TAGS = Target("tags.all", ("x", "y"), multi=True)
COUNTS = {"type": (6, 3, 1), "tags.all": (9, 3)}
NAN = float("nan")


def text_encoder() -> Encoder:
    return Transformer(vocab=12, dim=16, depth=1, heads=2)


def video_encoder() -> Encoder:
    return FrameCNN(channels=1, num_frames=2, size=8, dim=16, width=8, stages=2, depth=1, heads=2)


def task(fusion: str = "attention", columns: tuple[Target, ...] = (KIND, TAGS), **options: Any) -> Classification:
    torch.manual_seed(0)
    encoders = {"text": text_encoder(), "video": video_encoder()}
    dims = {"text": 16, "video": 16}
    joint: Fusion = Attention(dims=dims, dim=16) if fusion == "attention" else Concat(dims=dims, dim=16)
    return Classification(encoders, joint, columns, COUNTS, **options)


def video_only(**options: Any) -> Classification:
    torch.manual_seed(0)
    return Classification({"video": video_encoder()}, None, (KIND, TAGS), COUNTS, **options)


def batch(
    size: int = 8, *, kind: list[int] | None = None, tags: list[list[float]] | None = None, **given: Any
) -> Batch:
    dice = torch.Generator().manual_seed(5)
    labels = {
        "type": torch.tensor(kind) if kind else torch.randint(3, (size,), generator=dice),
        "tags.all": torch.tensor(tags, dtype=torch.float32)
        if tags
        else torch.randint(2, (size, 2), generator=dice).float(),
    }
    parts: dict[str, Any] = {
        "keys": tuple(map(str, range(size))),
        "video": torch.rand(size, 1, 2, 8, 8, generator=dice) * 2 - 1,
        "video_mask": torch.ones(size, 2, dtype=torch.bool),
        "text": ("",) * size,
        "tokens": torch.randint(2, 12, (size, 4), generator=dice),
        "token_mask": torch.ones(size, 4, dtype=torch.bool),
        "labels": labels,
        "weight": torch.ones(size),
    }
    return Batch(**(parts | given))


def loss(made: Classification, given: Batch, seed: int = 0) -> Tensor:
    return made.loss(given, player="model", rng=rng(seed)).total


def with_logits(made: Classification, kind: Tensor, tags: Tensor) -> Classification:
    """The same answer for every input: heads without weight, only bias."""
    for head, bias in zip(made.heads, (kind, tags), strict=True):
        assert isinstance(head, torch.nn.Linear)
        head.weight.data.zero_()
        head.bias.data.copy_(bias)
    return made.eval()


KIND_LOGITS, TAG_LOGITS = torch.tensor([1.0, 0.0, -1.0]), torch.tensor([0.5, -2.0])


def parts(given: Batch, **options: Any) -> tuple[float, float]:
    found = with_logits(video_only(**options), KIND_LOGITS, TAG_LOGITS).loss(given, player="model", rng=rng(0))
    torch.testing.assert_close(found.total, (found.parts["type/loss"] + found.parts["tags.all/loss"]) / 2)
    return float(found.parts["type/loss"]), float(found.parts["tags.all/loss"])


def test_cross_entropies_in_closed_form() -> None:
    """Rows: weights 1 and 3; the third is unlabelled, the fourth weighs nothing."""
    given = batch(4, kind=[0, 2, -1, 1], tags=[[1, 0], [1, 1], [NAN, NAN], [0, 0]], weight=torch.tensor([1.0, 3, 7, 0]))
    logz = torch.logsumexp(KIND_LOGITS, 0)
    kind = ((logz - 1.0) + 3 * (logz + 1.0)) / 4
    soft = F.softplus
    rows = [
        (soft(torch.tensor(-0.5)) + soft(torch.tensor(-2.0))) / 2,
        (soft(torch.tensor(-0.5)) + soft(torch.tensor(2.0))) / 2,
    ]
    assert parts(given) == pytest.approx((float(kind), float((rows[0] + 3 * rows[1]) / 4)))


def test_the_sum_of_tags_is_the_likelihood_of_the_set() -> None:
    """Of independent tags, by the probability of every set: P(x) = sigmoid(0.5), P(y) = sigmoid(-2)."""
    given = batch(2, kind=[0, 2], tags=[[1, 0], [1, 1]], weight=torch.tensor([1.0, 3.0]))
    x, y = TAG_LOGITS.sigmoid().tolist()
    likelihood = -(np.log(x * (1 - y)) + 3 * np.log(x * y)) / 4
    kind, tags = parts(given, multi_label="sum")
    assert tags == pytest.approx(likelihood)
    assert kind == parts(given)[0]


def test_balanced_weights_in_closed_form() -> None:
    """10 / (3 * count) for the classes, 12 / (2 * count) for the tags."""
    given = batch(2, kind=[0, 2], tags=[[1, 0], [1, 1]])
    classes = torch.tensor([10 / 18, 10 / 9, 10 / 3])
    kind = F.cross_entropy(KIND_LOGITS.expand(2, 3), torch.tensor([0, 2]), classes)
    labels = given.labels["tags.all"]
    tags = F.binary_cross_entropy_with_logits(TAG_LOGITS.expand(2, 2), labels, torch.tensor([12 / 18, 12 / 6]))
    assert parts(given, class_weights="balanced") == pytest.approx((float(kind), float(tags)))


def test_label_smoothing_equals_torch_and_softened_tags() -> None:
    given = batch(2, kind=[0, 2], tags=[[1, 0], [1, 1]])
    kind = F.cross_entropy(KIND_LOGITS.expand(2, 3), torch.tensor([0, 2]), label_smoothing=0.2)
    soft = torch.tensor([[0.9, 0.1], [0.9, 0.9]])
    tags = F.binary_cross_entropy_with_logits(TAG_LOGITS.expand(2, 2), soft)
    assert parts(given, label_smoothing=0.2) == pytest.approx((float(kind), float(tags)))


def test_probabilities() -> None:
    made = with_logits(video_only(), KIND_LOGITS, TAG_LOGITS)
    found = made.predict(batch(2), rng=rng(0)).probabilities
    torch.testing.assert_close(found["type"], KIND_LOGITS.softmax(0).expand(2, 3))
    torch.testing.assert_close(found["tags.all"], TAG_LOGITS.sigmoid().expand(2, 2))
    assert found["type"].dtype == torch.float32


def test_no_labelled_row_gives_zero_with_gradients() -> None:
    made = task()
    total = loss(made, batch(2, kind=[-1, -1], tags=[[NAN, NAN], [NAN, NAN]]))
    total.backward()
    assert total.item() == 0.0
    assert all(p.grad is not None and (p.grad == 0).all() for p in made.parameters())


@pytest.mark.parametrize("fusion", ["attention", "concat"])
def test_gradients_reach_every_parameter(fusion: str) -> None:
    made = task(fusion)
    given = batch()
    given.token_mask[0] = False
    given.video_mask[1] = False
    loss(made, given).backward()
    assert [n for n, p in made.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0] == []


@pytest.mark.parametrize("fusion", ["attention", "concat"])
@pytest.mark.parametrize("modality", ["text", "video"])
def test_an_absent_modality_changes_nothing(fusion: str, modality: str) -> None:
    made = task(fusion).eval()
    plain = batch()
    dirty = batch(tokens=plain.tokens.flip(1)) if modality == "text" else batch(video=plain.video * NAN)
    assert not torch.equal(loss(made, plain), loss(made, dirty))
    absent = [given.without(modality) for given in (plain, dirty)]  # type: ignore[arg-type]
    assert torch.equal(loss(made, absent[0]), loss(made, absent[1]))
    for name, row in made.predict(absent[0], rng=rng(0)).probabilities.items():
        assert torch.equal(row, made.predict(absent[1], rng=rng(0)).probabilities[name])
        assert row.isfinite().all()


def test_modality_dropout_takes_one_of_two_and_never_the_last() -> None:
    given = batch(4000, video=torch.zeros(4000, 1, 2, 8, 8))
    given.token_mask[:500] = False
    given.video_mask[500:1000] = False
    dropped = drop_modality(given, 0.4, rng(1))
    text, video = dropped.token_mask.any(1), dropped.video_mask.any(1)
    assert (text | video).all()
    assert torch.equal(dropped.token_mask[:1000], given.token_mask[:1000])
    assert torch.equal(dropped.video_mask[:1000], given.video_mask[:1000])
    for gone in (~text[1000:], ~video[1000:]):
        assert abs(float(gone.float().mean()) - 0.2) < 0.03  # 4 standard deviations
    again, other = drop_modality(given, 0.4, rng(1)), drop_modality(given, 0.4, rng(2))
    assert torch.equal(again.token_mask, dropped.token_mask)
    assert not torch.equal(other.token_mask, dropped.token_mask)


def test_modality_dropout_is_for_training_alone() -> None:
    made = task(modality_dropout=0.9)
    assert not torch.equal(loss(made.train(), batch(), 1), loss(made, batch(), 2))
    assert torch.equal(loss(made.eval(), batch(), 1), loss(made, batch(), 2))


def test_chosen_targets_and_their_order() -> None:
    assert [t.name for t in task().targets] == ["type", "tags.all"]
    made = task(targets=("tags.all",))
    assert list(made.predict(batch(), rng=rng(0)).probabilities) == ["tags.all"]


def test_balanced_weights_travel_with_the_weights() -> None:
    made = task(class_weights="balanced").eval()
    again = Classification(
        {"text": text_encoder(), "video": video_encoder()},
        Attention(dims={"text": 16, "video": 16}, dim=16),
        (KIND, TAGS),
        {},
        class_weights="balanced",
    ).eval()
    again.load_state_dict(made.state_dict())
    assert torch.equal(loss(again, batch()), loss(made, batch()))
    assert not [name for name in task().state_dict() if "class_weight" in name]


@pytest.mark.parametrize("fusion", ["attention", "concat"])
def test_it_learns_eight_samples_by_heart(fusion: str) -> None:
    made, given = task(fusion), batch()
    optimizer = torch.optim.AdamW(made.parameters(), 3e-3)
    for _ in range(40):
        optimizer.zero_grad()
        loss(made, given).backward()
        optimizer.step()
    found = made.eval().predict(given, rng=rng(0)).probabilities
    assert torch.equal(found["type"].argmax(1), given.labels["type"])
    assert torch.equal((found["tags.all"] >= 0.5).float(), given.labels["tags.all"])


def refused(
    said: str, encoders: dict[str, Encoder] | None = None, fusion: Fusion | None = None, **options: Any
) -> None:
    columns = options.pop("columns", (KIND, TAGS))
    counts = options.pop("counts", COUNTS)
    given = {"video": video_encoder()} if encoders is None else encoders
    with pytest.raises(RecipeError, match=said):
        Classification(given, fusion, columns, counts, **options)


def test_impossible_options_are_named() -> None:
    refused("'kind' is not a label column, expected names from: type, tags.all", targets=("kind",))
    refused("names a column twice", targets=("type", "type"))
    refused("the data has no label column", columns=())
    refused("'one' has 1 classes, expected >= 2", columns=(Target("one", ("only",)),))
    refused("balanced needs the class counts of 'type'", class_weights="balanced", counts={"type": (), "tags.all": ()})
    refused(r"task\.label_smoothing: 1\.0, expected 0 <=", label_smoothing=1.0)
    refused(r"task\.dropout: -0\.5, expected 0 <=", dropout=-0.5)
    refused(r"task\.modality_dropout: 0\.5, expected 0 with video alone", modality_dropout=0.5)


def test_impossible_parts_are_named() -> None:
    both = {"text": text_encoder(), "video": video_encoder()}
    refused("fusion: none, expected one to join text and video", both)
    refused("fusion: video alone has nothing to join", None, Concat())
    refused("Transformer reads text, expected video", {"video": text_encoder()})
    refused(r"encoders: \(none\), expected one or both of text, video", {})


def test_a_batch_without_the_column_is_refused() -> None:
    given = batch(labels={"tags.all": torch.zeros(8, 2)})
    with pytest.raises(RecipeError, match=r"no column 'type' in tags\.all"):
        loss(task(), given)
