"""Two consumers ask for every held-out row through the SDK, while one node is killed and comes back."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from assay import Client
from assay.client import Result
from assay.types import Address

from scripts.training.datasets import Split, load_breast_cancer_split, load_digits_split

from .evidence import Answer
from .processes import DemoError
from .world import Person, World

MAX_PRICE = 10**16
PATIENCE_SECONDS = 90.0


@dataclass(frozen=True)
class Question:
    model: str
    inputs: npt.NDArray[np.float32]
    label: int


def build_questions(limit: int | None) -> dict[str, list[Question]]:
    """Per consumer: half of each model's held-out rows (the first `limit` of them), models taking turns."""
    digits, cancer = load_digits_split(), load_breast_cancer_split()
    questions: dict[str, list[Question]] = {}
    for i, name in enumerate(("alice", "bob")):
        lists = [
            half_of(model, split, limit, i)
            for model, split in (("digits", digits), ("digits-int8", digits), ("breast-cancer", cancer))
        ]
        questions[name] = interleave(lists)
    return questions


def half_of(model: str, split: Split, limit: int | None, half: int) -> list[Question]:
    rows = range(half, len(split.held_out_labels[:limit]), 2)
    inputs = split.held_out_inputs.astype(np.float32)
    return [Question(model, inputs[row : row + 1], int(split.held_out_labels[row])) for row in rows]


def interleave(lists: Sequence[list[Question]]) -> list[Question]:
    """All questions, each list spread evenly over the whole."""
    placed = [
        ((i + 0.5) / len(items), n, item) for n, items in enumerate(lists) for i, item in enumerate(items)
    ]
    return [item for _, _, item in sorted(placed, key=lambda entry: entry[:2])]


def predicted_label(model: str, result: Result) -> int:
    outputs = result.outputs
    return int(outputs["label"][0]) if model == "breast-cancer" else int(outputs["logits"][0].argmax())


class Consumer:
    """One person with a client of their own, asking one question after the other."""

    def __init__(self, world: World, person: Person, questions: Sequence[Question]) -> None:
        self.name = person.name
        self.questions = list(questions)
        self.answers: list[Answer] = []
        self.client = Client(
            key=person.key,
            rpc_urls=[world.urls["chain"]],
            deployments=world.folder / "deployments",
            hub_url=world.urls["hub"],
            api_url=world.urls["api"],
            data=world.client_data(person),
        )
        self._publisher = world.publisher.address

    def ask(self, count: int, on_answer: Callable[[], None]) -> None:
        """The next `count` questions; then tell the nodes that all receipts are accepted."""
        done = len(self.answers)
        for question in self.questions[done : done + count]:
            self.answers.append(self.ask_one(question)[0])
            on_answer()
        self.client.acknowledge()  # a node that is down hears it later

    def ask_one(self, question: Question) -> tuple[Answer, dict[str, npt.NDArray[Any]]]:
        """One question, marked public so that anybody can check its answer: the answer and the outputs."""
        started = time.perf_counter()
        result = self.client.infer(
            f"{self._publisher}/{question.model}@1", question.inputs, max_price=MAX_PRICE, public=True
        )
        answer = Answer(
            self.name,
            question.model,
            question.label,
            predicted_label(question.model, result),
            result.node,
            result.digest,
            (time.perf_counter() - started) * 1000,
            len(result.attempts),
        )
        return answer, dict(result.outputs)

    def avoids(self, node: Address) -> bool:
        """Whether this consumer still passes over a node that failed it."""
        return self.client.health.is_down(node)


class Traffic:
    """Both consumers at once, each in a thread."""

    def __init__(self, consumers: Sequence[Consumer], on_progress: Callable[[int], None]) -> None:
        self.consumers = consumers
        self._on_progress = on_progress
        self._lock = threading.Lock()
        self._answered = 0
        self.changed = threading.Condition(self._lock)

    @property
    def total(self) -> int:
        return sum(len(consumer.questions) for consumer in self.consumers)

    def run(self, share: float, meanwhile: Callable[[], None] = lambda: None) -> None:
        """Ask until `share` of each consumer's questions is answered; `meanwhile` runs beside it.

        Raises the first error of a consumer, or of `meanwhile`.
        """
        errors: list[BaseException] = []

        def work(consumer: Consumer) -> None:
            count = round(share * len(consumer.questions)) - len(consumer.answers)
            try:
                consumer.ask(count, self._note)
            except BaseException as error:
                errors.append(error)
                self._note(0)

        threads = [
            threading.Thread(target=work, args=(consumer,), daemon=True) for consumer in self.consumers
        ]
        for thread in threads:
            thread.start()
        meanwhile()
        for thread in threads:
            while thread.is_alive():  # join in slices, so that Ctrl-C is heard
                thread.join(0.2)
        if errors:
            raise errors[0]

    def _note(self, answers: int = 1) -> None:
        with self.changed:
            self._answered += answers
            self._on_progress(self._answered)
            self.changed.notify_all()

    def wait_for(self, answers: int) -> None:
        """Until so many questions are answered. Raises DemoError when nothing moves any more."""
        with self.changed:
            while self._answered < answers:
                if not self.changed.wait(PATIENCE_SECONDS):
                    raise DemoError(f"no answer within {PATIENCE_SECONDS:.0f} s, {self._answered} so far")

    def wait_until_trusted(self, node: Address) -> None:
        """Until no consumer passes over the node any more. Raises DemoError."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while any(consumer.avoids(node) for consumer in self.consumers):
            if time.monotonic() > deadline:
                raise DemoError(f"consumers still avoid node {node} after {PATIENCE_SECONDS:.0f} s")
            time.sleep(0.2)

    def close(self) -> None:
        """Acknowledge what is left, and disconnect."""
        for consumer in self.consumers:
            consumer.client.close()
