from __future__ import annotations

from collections import Counter

import numpy as np

from scripts.demo_parts.traffic import build_questions, interleave
from scripts.training.datasets import load_digits_split


def test_build_questions__no_limit__asks_every_held_out_row_of_every_model_once() -> None:
    questions = [question for asked in build_questions(None).values() for question in asked]
    assert Counter(q.model for q in questions) == {"digits": 360, "digits-int8": 360, "breast-cancer": 114}
    split = load_digits_split()
    asked = Counter((q.inputs.tobytes(), q.label) for q in questions if q.model == "digits")
    rows = zip(split.held_out_inputs.astype(np.float32), split.held_out_labels, strict=True)
    assert asked == Counter((row.tobytes(), int(label)) for row, label in rows)


def test_build_questions__limit__shares_the_first_rows_between_two_consumers() -> None:
    questions = build_questions(31)
    assert {name: len(asked) for name, asked in questions.items()} == {"alice": 48, "bob": 45}
    assert questions["alice"][0].inputs.shape == (1, 1, 8, 8)


def test_interleave__lists_of_different_length__spreads_each_over_the_whole() -> None:
    few, many = build_questions(30)["alice"][:2], build_questions(30)["bob"][:8]
    mixed = interleave([few, many])
    assert len(mixed) == 10
    assert [any(item is q for q in few) for item in mixed].index(True) in (1, 2, 3)
    assert any(item is few[1] for item in mixed[5:9])
