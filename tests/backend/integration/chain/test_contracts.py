"""The typed contract objects through one paid life: publish, stake, fund, post, collect, claim."""

from __future__ import annotations

from pathlib import Path

import pytest
from assay.chain.contracts import read_many
from assay.chain.outbox import Outbox
from assay.chain.sender import Sender
from assay.commitments.identifiers import batch_id, model_id, version_id
from assay.commitments.receipts import receipt_digest, receipts_tree, voucher_digest
from assay.commitments.signing import SigningKey
from assay.errors import ContractRevert
from assay.types import (
    Address,
    BatchKey,
    Hash32,
    Receipt,
    ReceiptStatus,
    SignedVoucher,
    VersionStatus,
    Voucher,
)

from tests.backend.integration.chain.conftest import World

STAKE, FUNDS = 1_000 * 10**18, 10**18


def hash_of(number: int) -> Hash32:
    return Hash32(bytes([number]) * 32)


def publish(world: World, publisher: Sender) -> Hash32:
    publisher.send(world.models.register_model("digits", "ipfs://card"))
    model = model_id(publisher.address, "digits")
    receipt = publisher.send(
        world.models.publish_version(model, hash_of(1), hash_of(2), hash_of(3), 500, "hub://1")
    )
    (event,) = world.models.decode_logs(receipt.logs)
    assert (event.name, event.args["number"]) == ("VersionPublished", 1)
    return Hash32(event.args["version_id"])


def start_node(world: World, operator: Sender, signer: Address) -> None:
    operator.send(world.nodes.register(signer, "http://127.0.0.1:1"))
    operator.send(world.token.mint(operator.address, STAKE))
    operator.send(world.token.approve(world.nodes.address, STAKE))
    operator.send(world.nodes.stake(operator.address, STAKE))


def fund(world: World, consumer: Sender, node: Address) -> None:
    consumer.send(world.token.mint(consumer.address, FUNDS))
    consumer.send(world.token.approve(world.settlement.address, FUNDS))
    consumer.send(world.settlement.fund(consumer.address, node, FUNDS))


def signed_voucher(world: World, key: SigningKey, voucher: Voucher) -> SignedVoucher:
    return SignedVoucher(voucher, key.sign(voucher_digest(world.deployment.domain, voucher)))


def test_contracts__one_paid_batch__every_view_agrees(world: World, tmp_path: Path) -> None:
    with Outbox(tmp_path / "outbox.sqlite3") as outbox:
        publisher, operator, consumer = (Sender(world.client, key, outbox) for key in world.keys[1:4])
        version = publish(world, publisher)
        assert version == version_id(model_id(publisher.address, "digits"), 1)
        assert world.models.version(version).status is VersionStatus.ACTIVE
        assert world.models.version(version).has_program
        start_node(world, operator, world.keys[4].address)
        assert world.nodes.standing(operator.address).active
        assert world.nodes.signer_info(world.keys[4].address).node == operator.address
        fund(world, consumer, operator.address)
        assert world.settlement.escrow(consumer.address, operator.address).balance == FUNDS

        receipt = Receipt(
            operator.address,
            consumer.address,
            version,
            hash_of(5),
            hash_of(6),
            1_000,
            1,
            world.chain.timestamp(),
        )
        tree = receipts_tree([receipt_digest(world.deployment.domain, receipt)])
        root = Hash32(tree.root)
        voucher = Voucher(consumer.address, operator.address, version, 1_000, 1)
        wrong = Voucher(world.keys[5].address, operator.address, version, 1, 1)
        vouchers = [
            signed_voucher(world, world.keys[3], voucher),
            SignedVoucher(wrong, b"\x01" * 10),  # no 65-byte signature: goes to ERC-1271
        ]
        sent = operator.send(world.settlement.post_batch(operator.address, version, root, vouchers))
        events = {event.name: event.args for event in world.settlement.decode_logs(sent.logs)}
        assert events["BatchPosted"]["amount"] == 1_000
        assert events["VoucherSkipped"]["consumer"] == world.keys[5].address

        key = BatchKey(operator.address, version, root)
        batch = batch_id(key)
        channel, stored = read_many(
            world.client,
            [
                world.settlement.view("channel", consumer.address, operator.address, version),
                world.settlement.view("batches", batch),
            ],
        )
        assert (channel.settled, channel.count) == (1_000, 1)
        assert (stored.amount, stored.count, stored.collected) == (1_000, 1, False)
        proof = tree.proof(0)
        assert world.settlement.receipt_status(batch, receipt, proof, 0) is ReceiptStatus.PENDING
        world.chain.increase_time(101)
        assert world.settlement.receipt_status(batch, receipt, proof, 0) is ReceiptStatus.FINAL
        before = world.client.block_number()
        operator.send(world.settlement.collect([key]))
        assert world.settlement.batch(batch).collected
        assert not world.settlement.batch(batch, block=before).collected
        assert world.settlement.verified_count(version) == 1
        assert world.settlement.claimable(operator.address) == 1_000 - 10 - 50
        operator.send(world.settlement.claim(operator.address))
        assert world.token.balance_of(operator.address) == 940
        for sender in (publisher, operator, consumer):
            sender.close()


def test_royalty_info__unknown_version__revert_with_reason(world: World) -> None:
    with pytest.raises(ContractRevert) as caught:
        world.models.royalty_info(hash_of(9))
    assert caught.value.contract == "models"


def test_views__nothing_there__zero_values(world: World) -> None:
    nobody = world.keys[9].address
    assert not world.models.model(hash_of(9)).exists
    assert not world.models.version(hash_of(9)).exists
    assert not world.nodes.node(nobody).is_registered
    assert not world.settlement.batch(hash_of(9)).exists
    assert world.settlement.channels([(nobody, nobody, hash_of(9))] * 3)[2].settled == 0
