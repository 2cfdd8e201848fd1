"""Checks the verdict of the learnability campaign on poolings that learn and do not."""

import pytest

from tests.campaigns.learnability import Course, Variant, configure, train

SMALL = {"model.backbone": "small", "model.stage": 3}


@pytest.mark.slow
@pytest.mark.parametrize("gate", ["paper", "one"])
def test_pooling_learns(gate: str) -> None:
    """With a gate of zeros the factored layers have no gradient in the first step."""
    fields = {**SMALL, "model.T": 1, "model.widths": (16,), "optim.learning_rate": 3e-3}
    course = train(configure(Variant("", "gap", fields, gate)))
    assert not course.fault(gate)
    waiting = {"pooling/saliency/chain/0/kernel", "pooling/saliency/chain/0/bias"}
    assert set(course.without_gradient(1)) == (waiting if gate == "one" else set())


@pytest.mark.slow
def test_zero_rate_learns_nothing() -> None:
    fields = {**SMALL, "optim.learning_rate": 1e-9}
    assert train(configure(Variant("", "mean", fields, "paper")), 2).fault("paper") == (
        "the loss falls by 0.0%"
    )


def test_course_problems_are_named() -> None:
    moving = {"a": 1.0, "b": 2.0}
    still = {"a": 1.0, "b": 0.0}
    assert Course([2.0, 1.0], 0, [moving, moving]).fault("paper") == ""
    assert Course([2.0, 1.5], 0, [moving, moving]).fault("paper") == "the loss falls by 25.0%"
    assert (
        Course([2.0, 1.0], 1, [moving, moving]).fault("paper").startswith("1 steps had no finite")
    )
    assert Course([2.0, 1.0], 0, [still, moving]).fault("one") == ""
    for gate, norms in (("paper", [still, moving]), ("one", [moving, still])):
        assert "1 parameters have no gradient, b" in Course([2.0, 1.0], 0, norms).fault(gate)


def test_first_step_of_learning() -> None:
    assert Course([2.0, 1.9, 1.4, 1.5], 0, []).learned_by == 2
    assert Course([2.0, 1.9, 1.5], 0, []).learned_by == 0
