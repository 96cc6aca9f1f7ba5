"""Schema 4 of the receipts log: batches as ranges of their channels' sequences, sums by channel and by batch,
what gas has cost.

So a batch of a million receipts is closed by writing to as many rows as it has channels.
"""

from __future__ import annotations

from typing import Final

RANGES: Final = """
-- of channels: receipts up to the sequence `closed` are in batches, or gone; `closed_charged` is the sum of
-- their prices; `prepaid` was paid for outside of the vouchers
ALTER TABLE channels ADD COLUMN closed INTEGER NOT NULL DEFAULT 0;
ALTER TABLE channels ADD COLUMN closed_charged BLOB NOT NULL DEFAULT x'00000000000000000000000000000000';
ALTER TABLE channels ADD COLUMN prepaid BLOB NOT NULL DEFAULT x'00000000000000000000000000000000';
-- of batches: the sum of its receipts' prices; what became of the amount; `kept`: 3: receipts with their
-- tensors, 2: receipts, 1: going, 0: gone
ALTER TABLE batches ADD COLUMN value BLOB NOT NULL DEFAULT x'00000000000000000000000000000000';
ALTER TABLE batches ADD COLUMN node_amount BLOB;
ALTER TABLE batches ADD COLUMN royalty BLOB;
ALTER TABLE batches ADD COLUMN fee BLOB;
ALTER TABLE batches ADD COLUMN kept INTEGER NOT NULL DEFAULT 3;
ALTER TABLE disputes ADD COLUMN slashed BLOB;       -- stake lost by it

CREATE TABLE batch_ranges (
    batch INTEGER NOT NULL REFERENCES batches (id),
    position INTEGER NOT NULL,                    -- leaves are these ranges one after another
    channel INTEGER NOT NULL REFERENCES channels (id),
    first_sequence INTEGER NOT NULL,
    last_sequence INTEGER NOT NULL,
    PRIMARY KEY (batch, position)
) STRICT, WITHOUT ROWID;
INSERT INTO batch_ranges (batch, position, channel, first_sequence, last_sequence)
SELECT batch, row_number() OVER (PARTITION BY batch ORDER BY first_id) - 1, channel, first_sequence,
    last_sequence
FROM (
    SELECT batch, channel, min(id) AS first_id, min(sequence) AS first_sequence,
        max(sequence) AS last_sequence
    FROM (
        SELECT id, batch, channel, sequence,
            row_number() OVER (PARTITION BY batch ORDER BY id) - sequence AS run
        FROM receipts WHERE batch IS NOT NULL
    ) AS leaves GROUP BY batch, channel, run
) AS runs;
CREATE UNIQUE INDEX batch_ranges_by_channel ON batch_ranges (channel, last_sequence);

UPDATE channels SET closed = coalesce(
    (SELECT max(r.sequence) FROM receipts r WHERE r.channel = channels.id
        AND (r.batch IS NOT NULL OR r.retired = 1)), 0
);
DROP INDEX receipts_open;
DROP INDEX receipts_due;
DROP INDEX receipts_by_batch;
ALTER TABLE receipts DROP COLUMN batch;
ALTER TABLE receipts DROP COLUMN retired;
CREATE INDEX channels_open ON channels (version_id) WHERE sequence > closed;
CREATE INDEX batches_kept ON batches (kept, id) WHERE state = 'collected';

CREATE TABLE spending (
    tx_hash TEXT NOT NULL,
    batch INTEGER NOT NULL,                       -- 0: of none
    version_id BLOB,                              -- NULL: for all of them
    kind TEXT NOT NULL,
    gas INTEGER NOT NULL,                         -- this batch's part
    wei BLOB NOT NULL,
    PRIMARY KEY (tx_hash, batch)
) STRICT, WITHOUT ROWID;
CREATE INDEX spending_by_batch ON spending (batch, kind);
"""
