"""A batch's receipts as its node published them, read from a file in a bounded amount of memory.

Of each receipt about 130 bytes stay in memory, whatever its line says: what its checks need. The lines are
read again, one after another, by who stores them.
"""

from __future__ import annotations

import contextlib
import tempfile
from array import array
from collections.abc import Callable, Iterable, Iterator
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO, Final

import numpy as np
import orjson

from assay.commitments.merkle import merkle_root
from assay.commitments.receipts import receipt_digest, receipt_from_json
from assay.commitments.signing import recover
from assay.disk import room_in
from assay.errors import RequestError, VerificationError
from assay.index.download import Interrupted
from assay.types import Address, BatchKey, Domain, Hash32, SignedReceipt

MAX_LINE: Final = 4_096
MAX_RECEIPTS: Final = 2_000_000
MAX_BATCH_BYTES: Final = 2 << 30
"""Room for MAX_RECEIPTS as nodes write them, about 700 bytes each."""
BYTES_PER_SECOND: Final = 1 << 20
"""A download that comes at least so fast is not ended."""
CHUNK: Final = 4_096
NO_SIGNER: Final = 0xFFFF
"""A signature that recovers to nobody."""
UNLISTED: Final = 0xFFFE
"""One that recovers to somebody, after so many others that he is not told apart."""


@contextlib.contextmanager
def spool(folder: Path) -> Iterator[BinaryIO]:
    """A file without a name on `folder`'s disk: gone with the process, however it ends. Raises DiskFullError
    where what is done inside does not fit there."""
    with room_in(folder):
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder, prefix="batch-") as file:
            yield file


class BatchFile:
    """The lines of `file` that are receipts of `key`'s node and version, in their order.

    `problem`: what is wrong with the first line that is not (VerificationError, steps `format`, `receipt`,
    `membership`). `lines`: how many follow the header. Raises Interrupted when `should_stop` says so.
    """

    def __init__(
        self,
        domain: Domain,
        key: BatchKey,
        file: BinaryIO,
        *,
        should_stop: Callable[[], bool] = lambda: False,
    ) -> None:
        self._domain, self._key, self._file, self._should_stop = domain, key, file, should_stop
        self.problem: VerificationError | None = None
        self.lines = 0
        self.executed_at, self.sequences = array("Q"), array("Q")
        self.consumers, self.names = array("I"), list[Address]()
        self.public = bytearray()
        self._signatures, self._digests = bytearray(), bytearray()
        self._offsets = array("Q")
        self._numbers: dict[Address, int] = {}
        self._awaited = list[Address]()
        file.seek(0)
        self.header = file.readline(MAX_LINE + 2)
        self._scan(len(self.header))

    def __len__(self) -> int:
        return len(self._offsets)

    def _scan(self, offset: int) -> None:
        if len(self.header) > MAX_LINE + 1:  # the rest of an endless line is no receipt
            self.problem = _format(f"line 1 is longer than {MAX_LINE} bytes")
            return
        while line := self._file.readline(MAX_LINE + 2):
            self.lines += 1
            if self.lines > MAX_RECEIPTS:
                self._note(_format(f"more than {MAX_RECEIPTS} lines"))
                return
            if self.lines % CHUNK == 0:
                self._look()
            try:
                self._take(line, offset)
            except VerificationError as error:
                self._note(error)
            offset += len(line)
            while line and not line.endswith(b"\n"):
                offset += len(line := self._file.readline(1 << 16))

    def _note(self, error: VerificationError) -> None:
        self.problem = self.problem or error

    def _look(self) -> None:
        if self._should_stop():
            raise Interrupted("a batch was left half read: the process is to stop")

    def _take(self, line: bytes, offset: int) -> None:
        signed, is_public = self._parse(line, self.lines + 1)
        receipt = signed.receipt
        self._digests += receipt_digest(self._domain, receipt)
        self._signatures += signed.signature
        self.executed_at.append(receipt.executed_at)
        self.sequences.append(receipt.sequence)
        self.public.append(is_public)
        number = self._numbers.setdefault(receipt.consumer, len(self.names))
        if number == len(self.names):
            self.names.append(receipt.consumer)
        self.consumers.append(number)
        self._offsets.append(offset)

    def _parse(self, line: bytes, number: int) -> tuple[SignedReceipt, bool]:
        if len(line.rstrip(b"\n")) > MAX_LINE:
            raise _format(f"line {number} is longer than {MAX_LINE} bytes")
        try:
            data: Any = orjson.loads(line)
        except orjson.JSONDecodeError as error:
            raise _format(f"line {number} is not JSON") from error
        try:
            signed = receipt_from_json(self._domain, data)
        except RequestError as error:
            raise VerificationError(f"line {number}: {error}", step="receipt") from error
        if (signed.receipt.node, signed.receipt.version_id) != (self._key.node, self._key.version_id):
            raise VerificationError(f"line {number}: receipt of another node or version", step="membership")
        return signed, data.get("public") is True

    # --- of all receipts ----------------------------------------------------------------------------------

    def digest(self, index: int) -> Hash32:
        return Hash32(bytes(self._digests[32 * index : 32 * index + 32]))

    def signature(self, index: int) -> bytes:
        return bytes(self._signatures[65 * index : 65 * index + 65])

    @property
    def all_digests(self) -> bytes:
        """32 bytes each."""
        return bytes(self._digests)

    def digests(self) -> Iterator[Hash32]:
        for index in range(len(self)):
            if index % CHUNK == 0:
                self._look()
            yield self.digest(index)

    @cached_property
    def root(self) -> Hash32 | None:
        """Of the receipts; None without any."""
        view = memoryview(self._digests)
        return merkle_root(view[i : i + 32] for i in range(0, len(view), 32)) if view else None

    @cached_property
    def is_whole(self) -> bool:
        """Whether the lines are the leaves of the posted root."""
        return self.problem is None and self.root == self._key.receipts_root

    @cached_property
    def has_duplicates(self) -> bool:
        """Whether a receipt is there twice."""
        words = np.frombuffer(bytes(self._digests), dtype=np.uint64).reshape(-1, 4)
        first = np.sort(words[:, 0])
        twice = np.unique(first[1:][first[1:] == first[:-1]])
        if not len(twice):
            return False
        suspects = [bytes(row) for row in words[np.isin(words[:, 0], twice)]]
        return len(set(suspects)) != len(suspects)

    def tell_apart(self, signers: Iterable[Address]) -> None:
        """These are in the list of `signers`, however many others are."""
        self._awaited = list(dict.fromkeys(signers))[:UNLISTED]
        self.__dict__.pop("signers", None)

    @cached_property
    def signers(self) -> tuple[array[int], list[Address]]:
        """Of each receipt the number of its signer in the list, or NO_SIGNER, UNLISTED."""
        numbers, names = array("H"), list(self._awaited)
        known = {name: number for number, name in enumerate(names)}
        for index in range(len(self)):
            if index % CHUNK == 0:
                self._look()
            try:
                signer = recover(self.digest(index), self.signature(index))
            except VerificationError:
                numbers.append(NO_SIGNER)
                continue
            number = known.get(signer)
            if number is None and len(names) < UNLISTED:
                number = known[signer] = len(names)
                names.append(signer)
            numbers.append(UNLISTED if number is None else number)
        return numbers, names

    @cached_property
    def spans(self) -> dict[Address, tuple[int, int]]:
        """First and last sequence of each consumer. Raises VerificationError, step `sequence`, where they do
        not go on one by one."""
        return spans_of(self.names, self.consumers, self.sequences)

    def receipts(self) -> Iterator[SignedReceipt]:
        """Read from the file again, in order."""
        for index, offset in enumerate(self._offsets):
            if index % CHUNK == 0:
                self._look()
            self._file.seek(offset)
            yield self._parse(self._file.readline(MAX_LINE + 2), index + 2)[0]


MAX_SEQUENCE: Final = 2**63 - 1
"""What a database's integer holds; Settlement counts to 2^40 - 1."""


def spans_of(
    names: list[Address], consumers: array[int], sequences: array[int]
) -> dict[Address, tuple[int, int]]:
    """Raises VerificationError, step `sequence`, on repeats, gaps and numbers out of range."""
    if not consumers:
        return {}
    who, what = np.frombuffer(consumers, dtype=np.uint32), np.frombuffer(sequences, dtype=np.uint64)
    order = np.lexsort((what, who))
    who, what = who[order], what[order]
    begins = np.flatnonzero(np.diff(who, prepend=np.uint32(0xFFFFFFFF)))
    ends = np.append(begins[1:], len(who)) - 1
    for low, high in ((what[begins] < 1, "below 1"), (what[ends] > MAX_SEQUENCE, f"above {MAX_SEQUENCE}")):
        if low.any():
            at = begins[low][0] if high == "below 1" else ends[low][0]
            raise _sequence(f"sequence {what[at]} of consumer {names[who[at]]} is {high}")
    steps = np.flatnonzero((who[1:] == who[:-1]) & (what[1:] != what[:-1] + 1))
    if len(steps):
        before, after, consumer = int(what[steps[0]]), int(what[steps[0] + 1]), names[who[steps[0]]]
        if before == after:
            raise _sequence(f"two receipts of consumer {consumer} have sequence {after}: equivocation")
        raise _sequence(f"sequences of consumer {consumer} jump from {before} to {after}")
    return {names[who[b]]: (int(what[b]), int(what[e])) for b, e in zip(begins, ends, strict=True)}


def _format(message: str) -> VerificationError:
    return VerificationError(message, step="format")


def _sequence(message: str) -> VerificationError:
    return VerificationError(message, step="sequence")
