# pragma version 0.4.3
# pragma nonreentrancy off
# SPDX-License-Identifier: AGPL-3.0-only
"""
@title dApp that asks for a receipt's status
@license GNU Affero General Public License v3.0 only
@notice Measures what `receipt_status` costs a contract that calls it.
@custom:security For tests and benches only.
"""


from ..interfaces import ISettlement


@external
@view
def measure(
    settlement: ISettlement,
    batch_id: bytes32,
    receipt: ISettlement.Receipt,
    siblings: DynArray[bytes32, 32],
    index: uint256,
) -> (uint8, uint256):
    """
    @notice A receipt's status and the gas that asking took, the call itself included.
    @param settlement Whom to ask.
    @param batch_id The batch.
    @param receipt The receipt.
    @param siblings Its proof.
    @param index Its place.
    @return The status and the gas.
    """
    before: uint256 = msg.gas
    status: uint8 = staticcall settlement.receipt_status(batch_id, receipt, siblings, index)
    return status, before - msg.gas
