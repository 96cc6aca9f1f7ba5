"""What a node published for a batch, receipt by receipt.

`assay.index.verify` says whether a batch as a whole is what its root commits to; a watcher also wants the
receipts of a batch that is not: each signature is evidence by itself.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from typing import Final

from assay.index.batch_file import NO_SIGNER, UNLISTED, BatchFile
from assay.index.verify import Validity
from assay.types import Address, Hash32
from assay.watch.values import PostedBatch, SeenReceipt

MAX_SIGNERS: Final = 64
"""More keys than a node rotates through in a batch's time. If there are more, it is the node's that are
looked for: strangers' must not hide them."""


def signers_of(published: BatchFile, keys: Callable[[], list[Address]]) -> list[Address]:
    """Distinct signers, the most frequent first; if they are more than MAX_SIGNERS, those that are `keys` of
    the node."""
    found = _signers(published)
    if len(found) <= MAX_SIGNERS:
        return found
    known = keys()
    published.tell_apart(known)
    return [signer for signer in _signers(published) if signer in set(known)]


def _signers(published: BatchFile) -> list[Address]:
    numbers, names = published.signers
    counts = Counter(number for number in numbers if number not in (NO_SIGNER, UNLISTED))
    return [names[number] for number, _ in counts.most_common()]


def is_signed(published: BatchFile, validities: Mapping[Address, Validity]) -> bytearray:
    """Of each receipt 1, if a key of the node's signed it while it was valid."""
    numbers, names = published.signers
    valid = {number: validities[name] for number, name in enumerate(names) if name in validities}
    return bytearray(
        (known := valid.get(number)) is not None and known.covers(executed_at)
        for number, executed_at in zip(numbers, published.executed_at, strict=True)
    )


def public_digests(published: BatchFile, signed: bytearray) -> Iterator[Hash32]:
    """Of the receipts that anybody may check."""
    for index, (is_public, by_node) in enumerate(zip(published.public, signed, strict=True)):
        if is_public and by_node:
            yield published.digest(index)


def signed_by_node(batch: PostedBatch, published: BatchFile, signed: bytearray) -> Iterator[SeenReceipt]:
    """Those of `is_signed`, read one after another; with their leaf, if the posted root is theirs."""
    is_root = published.is_whole
    for index, receipt in enumerate(published.receipts()):
        if signed[index]:
            leaf, is_public = index if is_root else None, bool(published.public[index])
            yield SeenReceipt(published.digest(index), receipt, batch.batch_id, leaf, is_public)
