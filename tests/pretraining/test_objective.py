"""The loss of masked prediction, with worked figures and as fairseq builds it."""

import pytest
import torch
import torch.nn.functional as F

from wesp_lap.pretraining.objective import (
    ObjectiveSettings,
    PredictionHead,
    feature_penalty,
    predict,
)


def worked_head():
    """Identity projection; class vectors of other lengths, which cosines do not see."""
    head = PredictionHead(2, 3, ObjectiveSettings(projected_size=2, special_symbols=0))
    with torch.no_grad():
        head.final_proj.weight.copy_(torch.eye(2))
        head.final_proj.bias.zero_()
        head.label_embeddings.copy_(torch.tensor([[1.0, 0], [0, 5.0], [-0.2, 0]]))
    return head


def positive_first(head, frames, labels):
    """Fairseq's construction: the right class in column 0, its duplicate blanked."""
    scores = []
    for frame, label in zip(head.final_proj(frames), labels, strict=True):
        columns = torch.stack([head.label_embeddings[label], *head.label_embeddings])
        row = F.cosine_similarity(frame.unsqueeze(0), columns, dim=-1) / head.temperature
        row = row.clone()
        row[1 + label] = float("-inf")
        scores.append(row)
    return F.cross_entropy(
        torch.stack(scores), torch.zeros(len(labels), dtype=torch.long), reduction="sum"
    )


def test_worked_scores_and_losses():
    head, frame = worked_head(), torch.tensor([[3.0, 4.0]])
    torch.testing.assert_close(head(frame), torch.tensor([[6.0, 8.0, -6.0]]))
    for label, wanted in enumerate((2.126929, 0.126929, 14.126929)):
        found = predict(head, frame, torch.tensor([label]))
        assert found.loss.item() == pytest.approx(wanted, rel=1e-5)
        assert found.correct.item() == (label == 1) and found.frames == 1


def test_the_construction_with_the_positive_first_gives_the_same():
    torch.manual_seed(0)
    head = PredictionHead(16, 11, ObjectiveSettings(projected_size=8))
    frames, labels = torch.randn(30, 16, requires_grad=True), torch.randint(0, 11, (30,))
    ours, theirs = predict(head, frames, labels).loss, positive_first(head, frames, labels)
    torch.testing.assert_close(ours, theirs)
    names = dict(head.named_parameters())
    for one, other in zip(
        torch.autograd.grad(ours, [frames, *names.values()]),
        torch.autograd.grad(theirs, [frames, *names.values()]),
        strict=True,
    ):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)


def test_sizes_and_start_of_the_head():
    torch.manual_seed(0)
    head = PredictionHead(768, 500, ObjectiveSettings())
    sizes = {name: p.numel() for name, p in head.named_parameters()}
    assert sizes == {
        "final_proj.weight": 196_608,
        "final_proj.bias": 256,
        "label_embeddings": 129_024,
    }
    vectors = head.label_embeddings
    assert 0 <= vectors.min() < 0.001 and 0.999 < vectors.max() <= 1
    assert vectors.mean().item() == pytest.approx(0.5, abs=0.005)
    assert vectors.var().item() == pytest.approx(1 / 12, abs=0.002)


def test_everything_is_computed_in_single_precision_under_autocast():
    torch.manual_seed(0)
    head = PredictionHead(16, 11, ObjectiveSettings(projected_size=8))
    frames, labels = torch.randn(30, 16).bfloat16(), torch.randint(0, 11, (30,))
    plain = predict(head, frames.float(), labels)
    with torch.autocast("cpu", torch.bfloat16):
        found = predict(head, frames, labels)
    assert found.loss.dtype == torch.float32
    assert torch.equal(found.loss, plain.loss)


def test_a_frame_of_zeros_makes_no_nan():
    head = worked_head()
    frames = torch.zeros(1, 2, requires_grad=True)
    predict(head, frames, torch.tensor([0])).loss.backward()
    assert torch.isfinite(frames.grad).all()


def test_penalty():
    assert feature_penalty(torch.tensor([[[1.0, 2.0], [3.0, -4.0]]])).item() == 7.5
    assert feature_penalty(torch.full((4,), 300.0).half()).item() == 90_000  # no overflow


@pytest.mark.parametrize(
    "wrong",
    [
        {"projected_size": 0},
        {"special_symbols": -1},
        {"temperature": 0.0},
        {"penalty": -1.0},
        {"unmasked_weight": -0.5},
    ],
)
def test_wrong_settings_are_refused(wrong):
    with pytest.raises(ValueError, match="|".join(wrong)):
        ObjectiveSettings(**wrong)
