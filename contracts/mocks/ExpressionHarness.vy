# pragma version 0.4.3
# pragma nonreentrancy off
# SPDX-License-Identifier: AGPL-3.0-only
"""
@title Expressions without kernels around them
@license GNU Affero General Public License v3.0 only
@notice Lets tests run expressions on any operands, and see all 256 bits of what they leave.
@custom:security For tests only.
"""


from ..modules import expressions


MAX_WORDS: constant(uint256) = 4_096


@external
@pure
def run(
    code: Bytes[255], acc: int256, operands: DynArray[int256, 8], variables: DynArray[int256, 12]
) -> int256:
    """
    @notice The value that an expression leaves.
    @param code The expression.
    @param acc The accumulator.
    @param operands The operands' values.
    @param variables The loop variables.
    """
    return expressions._run(self._record(code), 0, acc, operands, variables)


@external
@pure
def run_many(code: Bytes[255], operands: DynArray[int256, MAX_WORDS], count: uint256) -> DynArray[int256, MAX_WORDS]:
    """
    @notice The values that an expression leaves on many operands.
    @param code The expression.
    @param operands The operands of the first run, of the second, …
    @param count How many operands a run has.
    """
    record: Bytes[288] = self._record(code)
    results: DynArray[int256, MAX_WORDS] = []
    run: DynArray[int256, 8] = []
    for operand: int256 in operands:
        run.append(operand)
        if len(run) == count:
            results.append(expressions._run(record, 0, 0, run, []))
            run = []
    return results


@internal
@pure
def _record(code: Bytes[255]) -> Bytes[288]:
    return concat(convert(convert(len(code), uint8), bytes1), code, empty(bytes32))
