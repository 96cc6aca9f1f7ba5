"""A third node that cheats, customers who do not notice, and a watcher who was told nothing."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import onnxruntime
from assay.chain.dispute_game import DisputeGame
from assay.chain.disputes import DisputeRecord, fetch_disputes
from assay.client.directory import OFFERS_SECONDS
from assay.exact.dispute import CHALLENGER_PHASES, Phase
from assay.types import Hash32

from . import settling, setup
from .evidence import Answer, Fraud
from .processes import ASSAY, ROOT, DemoError, Processes
from .traffic import Consumer, Question
from .world import CHEAT, CHEATED_MODEL, MOVE_WINDOW, ONE_IN, UNIT, World

PATIENCE_SECONDS = 120.0
SILENCE_SECONDS = 4.0
"""A side that has not moved for so long will not; the demo lets its window pass instead of waiting for it."""
WORDS = {
    Phase.ASSERT: "states the root of its trace",
    Phase.REVEAL: "reveals hashes below the disputed one",
    Phase.SELECT: "points at the first hash that differs from its own",
    Phase.REVEAL_TENSOR: "opens the operator's tensor",
    Phase.REVEAL_CHUNK: "reveals the disputed kilobyte",
    Phase.SELECT_ELEMENT: "points at the first wrong element",
    Phase.REVEAL_PARTIALS: "reveals partial sums",
    Phase.SELECT_SEGMENT: "points at the first wrong segment",
    Phase.PROVE_STEP: "opens the operands of the last step",
}

Say = Callable[[str], None]


@dataclass
class Cheating:
    """What the consumers got from the third node, and which of it plain ONNX Runtime does not reproduce."""

    answers: list[Answer] = field(default_factory=list)
    wrong: set[Hash32] = field(default_factory=set)


def join(world: World, processes: Processes) -> None:
    """The cheat stakes, undercuts everybody and runs a node like any other but for `cheating_node`."""
    begun = time.monotonic()
    program = (sys.executable, "-m", "scripts.demo_parts.cheating_node")
    setup.start_node(world, world.cheat, processes, program)
    for consumer in world.consumers:
        setup.fund(world, consumer, [world.cheat], processes)
    path = f"/v1/versions/0x{world.versions[CHEATED_MODEL].hex()}/offers"
    settling.wait_until(
        f"the index knows {CHEAT}'s offer",
        lambda: any(offer["node"] == world.cheat.address for offer in settling.get(world, path)["items"]),
    )
    time.sleep(max(0.0, begun + OFFERS_SECONDS - time.monotonic()))  # clients ask for offers so often


def ask(world: World, consumers: Sequence[Consumer], update: Callable[[int], None]) -> Cheating:
    """ONE_IN questions in all, by turns. Raises DemoError if somebody else answered."""
    session = onnxruntime.InferenceSession(ROOT / "scripts" / "models" / CHEATED_MODEL / "model.onnx")
    found = Cheating()
    for number in range(ONE_IN):
        consumer = consumers[number % len(consumers)]
        questions = [question for question in consumer.questions if question.model == CHEATED_MODEL]
        question = questions[number // len(consumers) % len(questions)]
        answer, outputs = consumer.ask_one(question)
        if answer.node != world.cheat.address:
            raise DemoError(
                f"{consumer.name} was answered by {answer.node}, not by the cheapest node, {CHEAT}"
            )
        found.answers.append(answer)
        if not np.array_equal(next(iter(outputs.values())), true_outputs(session, question)):
            found.wrong.add(answer.digest)
        update(number + 1)
    for consumer in consumers:
        consumer.client.acknowledge()
    return found


def true_outputs(session: onnxruntime.InferenceSession, question: Question) -> npt.NDArray[np.float32]:
    outputs: list[npt.NDArray[np.float32]] = session.run(
        None, {session.get_inputs()[0].name: question.inputs}
    )
    return outputs[0]


def follow(world: World, expected: int, say: Say) -> list[DisputeRecord]:
    """Tell each move as it is mined, until `expected` disputes are closed."""
    game = DisputeGame(world.chain, world.deployment)
    told: dict[int, int] = {}
    moved = time.monotonic()
    deadline = moved + PATIENCE_SECONDS
    while True:
        records = list(fetch_disputes(world.chain, game, world.deployment.block).values())
        for record in records:
            if tell(record, told, say):
                moved = time.monotonic()
        if len(records) >= expected and not any(record.is_open for record in records):
            return records
        if time.monotonic() > deadline:
            raise DemoError(
                f"{len(records)} of {expected} disputes within {PATIENCE_SECONDS:.0f} s; see watcher.log"
            )
        if any(record.is_open for record in records) and time.monotonic() - moved > SILENCE_SECONDS:
            late = next(record for record in records if record.is_open)
            side = "watcher" if late.state.phase in CHALLENGER_PHASES else CHEAT
            say(f"  {side} is silent; its window of {MOVE_WINDOW} s passes")
            world.chain.request("evm_increaseTime", [hex(MOVE_WINDOW + 1)])
            world.chain.request("evm_mine")
            moved = time.monotonic()
        time.sleep(0.3)


def tell(record: DisputeRecord, told: dict[int, int], say: Say) -> bool:
    """Say what is new of a dispute; whether anything was."""
    lines = [
        f"[bold]dispute {record.dispute_id}[/bold]: the watcher disputes a receipt of {CHEAT}, for a bond"
    ]
    for move in record.moves:
        side = "watcher" if move.phase in CHALLENGER_PHASES else CHEAT
        lines.append(f"  {side} {WORDS[move.phase]}")
    if record.closing is not None:
        winner = CHEAT if record.closing.node_won else "the watcher"
        lines.append(f"  {winner} has won; {record.closing.slashed / UNIT:g} tokens of stake are slashed")
    new = lines[told.get(record.dispute_id, 0) :]
    told[record.dispute_id] = len(lines)
    for line in new:
        say(line)
    return bool(new)


def summarise(world: World, record: DisputeRecord, processes: Processes) -> Fraud:
    """What it was about, in the words of `assay dispute show`, and what each side paid."""
    closing = record.closing
    if closing is None:
        raise DemoError(f"dispute {record.dispute_id} is still open")
    command = [ASSAY, "dispute", "show", str(record.dispute_id), "--json"]
    shown = json.loads(processes.run("dispute-show", command, world.environment(world.watcher)))
    node_gas = challenger_gas = 0
    for transaction in dict.fromkeys(record.transactions):
        mined = world.chain.request("eth_getTransactionReceipt", [f"0x{transaction.hex()}"])
        if mined["from"].lower() == record.challenger.lower():
            challenger_gas += int(mined["gasUsed"], 16)
        else:
            node_gas += int(mined["gasUsed"], 16)
    return Fraud(
        dispute_id=record.dispute_id,
        digest=record.state.digest,
        node=record.node,
        challenger=record.challenger,
        sentence=shown["verdict"],
        moves=len(record.transactions),
        node_gas=node_gas,
        challenger_gas=challenger_gas,
        slashed=closing.slashed,
        to_challenger=closing.to_challenger,
        to_consumer=closing.to_consumer,
        to_treasury=closing.to_treasury,
    )
