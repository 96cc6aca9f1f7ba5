"""What is timed is really done: vouchers checked, receipts signed, and on disk."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from assay.commitments.receipts import receipt_digest
from assay.commitments.signing import SigningKey, verify_signer
from assay.commitments.tensors import commit_tensors
from assay.node.receipts.journal import Journal
from assay.types import Hash32, Receipt

from scripts.benches import required
from scripts.benches.least import ENTRY_BYTES
from scripts.benches.load.cores import Cores
from scripts.benches.required import DOMAIN, PARTS, POOL, Work
from scripts.benches.workloads import Raw, Workload, cnn, mlp

PRICE = 5


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    journal = Journal(tmp_path, 1 << 18)
    yield journal
    journal.close()


@pytest.fixture(scope="module")
def network() -> Workload:
    return mlp((300, 16, 10))


def payloads(journal: Journal) -> list[bytes]:
    return [frame.payload for frame in journal.frames()]


def read_receipt(raw: bytes, work: Work) -> tuple[Receipt, bytes]:
    """A receipt as the journal has it, and its signature."""
    words = [int.from_bytes(raw[at : at + 32], "big") for at in (64, 96, 128)]
    parties = work.node, work.consumer, work.version_id
    return Receipt(*parties, Hash32(raw[:32]), Hash32(raw[32:64]), *words), raw[160:225]


@pytest.mark.parametrize("price", [0, PRICE])
def test_answer__batch__signs_a_receipt_for_each_and_journals_them(
    network: Workload, journal: Journal, price: int
) -> None:
    work = Work(network, price, journal)
    spent = work.answer(3, 4)
    (payload,) = payloads(journal)
    assert len(payload) == 4 * ENTRY_BYTES
    outputs = network.run(work.rows[3:7])
    for i in range(4):
        receipt, signature = read_receipt(payload[i * ENTRY_BYTES :], work)
        verify_signer(receipt_digest(DOMAIN, receipt), signature, work.key.address)
        assert receipt.input_hash == commit_tensors([work.rows[3 + i : 4 + i]])
        assert receipt.output_hash == commit_tensors([outputs[i : i + 1]])
        assert (receipt.price, receipt.sequence) == (price, i + 1)
    assert len(spent.parts) == len(PARTS) and min(spent.parts) >= 0
    assert 0 <= spent.waited <= spent.parts[-1]


def test_answer__exact_version__journals_what_a_dispute_is_answered_from(journal: Journal) -> None:
    work = Work(image := cnn(), PRICE, journal)
    work.answer(0, 2)
    (payload,) = payloads(journal)
    outputs = image.run(work.rows[:2])
    size = ENTRY_BYTES + work.rows[0].nbytes + outputs[0].nbytes
    assert len(payload) == 2 * size
    for i in range(2):
        assert (
            payload[i * size + ENTRY_BYTES : (i + 1) * size] == work.rows[i].tobytes() + outputs[i].tobytes()
        )


@pytest.mark.parametrize("other", ["signer", "amount"])
def test_answer__voucher_not_signed_by_its_consumer__fails(
    network: Workload, journal: Journal, other: str
) -> None:
    work = Work(network, PRICE, journal)
    work.answer(0, 4)
    good = work.requests[2]
    if other == "signer":
        work.requests[2] = replace(good, signature=SigningKey.generate().sign(bytes(32)))
    else:
        work.requests[2] = replace(good, amount=good.amount + 1)
    with pytest.raises(ValueError, match="not signed by its consumer"):
        work.answer(0, 4)
    assert len(payloads(journal)) == 1


def test_work__pool__has_an_input_and_a_voucher_for_each_request(network: Workload, journal: Journal) -> None:
    work = Work(network, PRICE, journal)
    assert len({one.raw for one in work.requests}) == POOL
    assert len({one.signature for one in work.requests}) == POOL
    assert all(POOL % size == 0 for size in (*required.SIZES, *required.IMAGE_SIZES))


def test_measure_parts__batches__give_each_parts_share(network: Workload, journal: Journal) -> None:
    work = Work(network, PRICE, journal)
    parts = required.measure_parts(work, 4, 0.02)
    assert tuple(parts) == PARTS and min(parts.values()) > 0
    assert journal.number > 1
    assert parts["recover"] > 1e-6 and sum(parts.values()) < 0.02


def test_measure_capacity__sizes__counts_the_fastest_and_adds_the_socket(
    network: Workload, journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    seconds = {4: 3e-4, 8: 1e-4, 16: 2e-4}
    monkeypatch.setattr(
        required,
        "measure_parts",
        lambda work, size, _: {"sign": seconds[size] / 2, "model": seconds[size] / 2},
    )
    monkeypatch.setattr(required, "measure_raw", lambda *_: Raw(4_000, 0.25))
    found = required.measure_capacity(Work(network, PRICE, journal), (4, 8, 16), 1e-4, turns=2)
    assert found.value == pytest.approx(5_000) and found.raw == pytest.approx(4_000)


def test_measure_alone__one_after_another__is_above_the_model_alone(
    network: Workload, journal: Journal
) -> None:
    alone, rested = required.measure_alone(Work(network, PRICE, journal), turns=2, seconds=0.05)
    assert 0 < rested.value < alone.value < 100
    assert alone.raw == rested.raw > 0
    assert journal.number > 2 and {len(payload) for payload in payloads(journal)} == {ENTRY_BYTES}


def test_opened__after_it__collects_garbage_again_and_leaves_no_folder(network: Workload) -> None:
    assert gc.isenabled()
    with required.opened(network, PRICE) as work:
        assert not gc.isenabled()
        folder = work.journal.folder
        assert folder.is_dir() and work.rows.dtype == np.float32
    assert gc.isenabled() and not folder.exists()


@pytest.mark.network
def test_measure_socket__loopback__takes_some_of_the_processor() -> None:
    seconds = required.measure_socket(3_700, Cores((), ()), 0.05)
    assert 1e-6 < seconds < 1e-3
