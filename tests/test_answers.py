"""What a teacher answered before is what it would answer now, to the bit."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from scmd.models.answers import Answers
from scmd.models.pretrained import EMBEDDED
from scmd.models.teacher import TeacherConfig, load_teacher

IMAGES = torch.rand(5, 3, 32, 32, generator=torch.Generator().manual_seed(0))


class Asked:
    """A teacher that counts."""

    def __init__(self) -> None:
        self.times = 0

    def __call__(self, images: Tensor) -> Tensor:
        self.times += 1
        return images.float().mean((2, 3))


def test_the_same_question_is_asked_once():
    answers, asked = Answers(), Asked()
    first = answers.to(IMAGES, asked)
    assert torch.equal(answers.to(IMAGES.clone(), asked), first)
    assert torch.equal(first, Asked()(IMAGES))
    assert asked.times == 1


OTHER = {
    "one value": IMAGES.clone().index_fill_(0, torch.tensor([2]), 0.5),
    "fewer": IMAGES[:4],
    "order": IMAGES.flip(0),
    "shape": IMAGES.reshape(5, 3, 16, 64),
    "layout": IMAGES.contiguous(memory_format=torch.channels_last),
    "type": IMAGES.double(),
}


@pytest.mark.parametrize("what", OTHER)
def test_another_question_is_not_taken_for_it(what):
    answers, asked = Answers(), Asked()
    answers.to(IMAGES, asked)
    assert torch.equal(answers.to(OTHER[what], asked), Asked()(OTHER[what]))
    assert asked.times == 2


def test_another_precision_is_another_question():
    answers, asked = Answers(), Asked()
    answers.to(IMAGES, asked)
    with torch.autocast("cpu", torch.bfloat16):
        answers.to(IMAGES, asked)
        answers.to(IMAGES, asked)
    assert asked.times == 2


def test_the_oldest_make_room():
    one = Asked()(IMAGES).nbytes
    answers, asked = Answers(2 * one), Asked()
    for number in (1, 2, 3, 3, 2, 1):
        answers.to(IMAGES * number, asked)
        assert sum(answer.nbytes for answer in answers._kept.values()) <= 2 * one
    assert asked.times == 4


def test_a_device_other_than_the_cpu_is_asked_every_time():
    answers, asked = Answers(), Asked()
    images = IMAGES.to("meta")
    for _ in range(2):
        answers.to(images, asked)
    assert asked.times == 2


def test_a_teacher_gives_the_same_bits_with_them_and_without():
    teacher = load_teacher(TeacherConfig(EMBEDDED), ("0", "1", "2"))
    plain = teacher.logits(IMAGES)
    teacher.answers = Answers()
    for _ in range(2):
        assert torch.equal(teacher.logits(IMAGES), plain)
    assert not teacher.logits(IMAGES).requires_grad
