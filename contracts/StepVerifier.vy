# pragma version 0.4.3
# pragma evm-version cancun
# pragma nonreentrancy on
# SPDX-License-Identifier: AGPL-3.0-only
"""
@title Step verifier
@license GNU Affero General Public License v3.0 only
@notice The exact profile on the chain: whether a trace belongs to a program and a receipt, and one step of one kernel
        computed again from its opened operands. Stateless. Rules: SPEC.md §10.
"""


from .interfaces import IStepVerifier
implements: IStepVerifier


from .modules import expressions
from .modules import merkle
from .modules import programs
from .modules import tensors


_MAX_SIGNATURE: constant(uint256) = 8
_MAX_ROWS: constant(uint256) = 2**32 - 1


@external
@pure
def check_trace(
    program_root: bytes32,
    header: Bytes[1024],
    header_siblings: DynArray[bytes32, 17],
    rows: uint256,
    input_roots: DynArray[bytes32, 8],
    output_roots: DynArray[bytes32, 8],
    output_siblings: DynArray[DynArray[bytes32, 16], 8],
    trace_root: bytes32,
    input_hash: bytes32,
    output_hash: bytes32,
) -> uint256:
    """
    @notice Reverts unless the trace is one of the program for these inputs and outputs, as far as roots tell.
    @param program_root The version's.
    @param header Leaf 0 of the program.
    @param header_siblings Its proof.
    @param rows Of the request; 1 if the program is not batched.
    @param input_roots The inputs' tensor roots, in signature order.
    @param output_roots The outputs' tensor roots, in signature order.
    @param output_siblings Their proofs in the trace, at the header's kernels.
    @param trace_root The trace's.
    @param input_hash The receipt's.
    @param output_hash The receipt's.
    @return The program's number of kernels.
    """
    data: Bytes[1056] = concat(header, empty(bytes32))
    parsed: programs.Header = programs._header(data)
    in_program: bool = merkle._is_depth(len(header_siblings), unsafe_add(parsed.kernels, 1))
    if in_program:
        in_program = merkle._root(merkle._bytes_hash(header), header_siblings, 0) == program_root
    assert in_program, "steps: header is not the program's"
    assert rows != 0 and rows <= (_MAX_ROWS if parsed.batched else 1), "steps: rows are none or too many"

    assert parsed.inputs == len(input_roots), "steps: one root for each input"
    at: uint256 = parsed.at
    commitments: DynArray[bytes32, 8] = []
    for root: bytes32 in input_roots:
        tensor: programs.Signature = programs._signature(data, at)
        commitments.append(self._commitment(tensor, parsed.batched, rows, root))
        at = tensor.at
    assert tensors._hash_of(commitments) == input_hash, "steps: inputs are not the receipt's"

    outputs: uint256 = extract32(data, min(at, len(header)), output_type=uint256) >> 248
    at = unsafe_add(at, 1)
    matching: bool = outputs == len(output_roots) and outputs == len(output_siblings)
    assert matching, "steps: one root and one proof for each output"
    commitments = []
    for i: uint256 in range(outputs, bound=_MAX_SIGNATURE):
        kernel: uint256 = extract32(data, min(at, len(header)), output_type=uint256) >> 224
        assert merkle._is_depth(len(output_siblings[i]), parsed.kernels), "steps: output's proof has the wrong depth"
        found: bytes32 = merkle._root(merkle._leaf_hash(output_roots[i]), output_siblings[i], kernel)
        assert kernel < parsed.kernels and found == trace_root, "steps: output is not in the trace"
        tensor: programs.Signature = programs._signature(data, unsafe_add(at, 4))
        commitments.append(self._commitment(tensor, parsed.batched, rows, output_roots[i]))
        at = tensor.at
    assert at == len(header), "steps: header has the wrong length"
    assert tensors._hash_of(commitments) == output_hash, "steps: outputs are not the receipt's"
    return parsed.kernels


@external
@pure
def kernel_shape(
    program_root: bytes32, record: Bytes[2048], siblings: DynArray[bytes32, 17], kernel: uint256
) -> IStepVerifier.Shape:
    """
    @notice Reverts unless the record is that of the program's kernel.
    @param program_root The version's.
    @param record Leaf 1 + kernel of the program.
    @param siblings Its proof.
    @param kernel Its number.
    @return The shape of its tensor, per row.
    """
    assert kernel < programs.MAX_KERNELS, "steps: kernel is not the program's"
    # @dev The proof's length needs no check beside the index: under a leaf or over one there is no leaf. Zero is
    #      what an index outside leads to.
    found: bytes32 = merkle._root(merkle._bytes_hash(record), siblings, unsafe_add(kernel, 1))
    assert found == program_root and found != empty(bytes32), "steps: kernel is not the program's"
    parsed: programs.Kernel = programs._kernel(concat(record, empty(bytes32)))
    tensors._size(parsed.dtype)
    return IStepVerifier.Shape(
        dtype=parsed.dtype, elements=parsed.elements, steps=parsed.steps, initial=parsed.initial
    )


@external
@pure
def step(
    record: Bytes[2048],
    task: IStepVerifier.Step,
    input_roots: DynArray[bytes32, 8],
    openings: DynArray[IStepVerifier.Opening, 8],
) -> int256:
    """
    @notice Recomputes one step. The record must have been checked by `kernel_shape`.
    @param record The kernel's.
    @param task Which step, from which accumulator.
    @param input_roots The tensor roots of the request's inputs.
    @param openings One for each operand, in order.
    @return The accumulator after the step.
    """
    data: Bytes[2080] = concat(record, empty(bytes32))
    kernel: programs.Kernel = programs._kernel(data)
    assert task.rows != 0 and task.rows <= _MAX_ROWS, "steps: rows are none or too many"
    assert task.kernel < task.kernels and task.kernels <= programs.MAX_KERNELS, "steps: kernel is outside the program"
    assert task.element < unsafe_mul(task.rows, kernel.elements), "steps: element is outside the tensor"
    assert task.step < kernel.steps, "steps: step is outside the reduction"
    assert len(openings) == kernel.operands, "steps: one opening for each operand"
    row: uint256 = task.element // kernel.elements
    variables: DynArray[int256, programs.MAX_AXES] = programs._variables(
        kernel, task.element % kernel.elements, task.step
    )
    values: DynArray[int256, programs.MAX_OPERANDS] = []
    at: uint256 = kernel.at
    for opening: IStepVerifier.Opening in openings:
        operand: programs.Operand = programs._operand(data, at, variables, values)
        values.append(self._value(operand, opening, task, row, input_roots))
        at = operand.at
    return tensors._wrap(expressions._run(data, at, task.before, values, variables), kernel.dtype)


@internal
@pure
def _value(
    operand: programs.Operand,
    opening: IStepVerifier.Opening,
    task: IStepVerifier.Step,
    row: uint256,
    input_roots: DynArray[bytes32, 8],
) -> int256:
    """
    @dev What an operand reads: its pad value, or the opened element of the tensor that it names.
    """
    root: bytes32 = operand.root
    if operand.source == programs.FROM_KERNEL:
        assert operand.index < task.kernel, "steps: operand is not an earlier kernel"
        root = opening.root
    elif operand.source == programs.FROM_INPUT:
        assert operand.index < len(input_roots), "steps: input is not there"
        root = input_roots[operand.index]
    if not operand.inside:
        empty_opening: bool = len(opening.chunk) == 0 and len(opening.siblings) == 0
        assert empty_opening and len(opening.trace_siblings) == 0, "steps: padding has no opening"
        tensors._size(operand.dtype)
        return operand.pad
    count: uint256 = operand.elements
    element: uint256 = convert(operand.element, uint256)
    if operand.source != programs.FROM_CONSTANT:
        count = unsafe_mul(task.rows, operand.elements)
        element = unsafe_add(unsafe_mul(row, operand.elements), element)
    if operand.source == programs.FROM_KERNEL:
        assert merkle._is_depth(len(opening.trace_siblings), task.kernels), "steps: operand's proof has the wrong depth"
        found: bytes32 = merkle._root(merkle._leaf_hash(root), opening.trace_siblings, operand.index)
        assert found == task.trace_root, "steps: operand is not in the trace"
    return tensors._element(operand.dtype, count, element, root, opening.chunk, opening.siblings)


@internal
@pure
def _commitment(tensor: programs.Signature, batched: bool, rows: uint256, root: bytes32) -> bytes32:
    """
    @dev The commitment to an input or output of the request, its rows first if the program is batched.
    """
    length: uint256 = unsafe_mul(unsafe_mul(rows, tensor.elements), tensors._size(tensor.dtype))
    assert length <= tensors.MAX_TENSOR_BYTES, "steps: tensor is too large"
    dtype: bytes1 = convert(convert(tensor.dtype, uint8), bytes1)
    if not batched:
        return tensors._commitment(dtype, convert(convert(tensor.rank, uint8), bytes1), tensor.dims, root)
    rank: bytes1 = convert(convert(unsafe_add(tensor.rank, 1), uint8), bytes1)
    return tensors._commitment(dtype, rank, concat(convert(convert(rows, uint32), bytes4), tensor.dims), root)
