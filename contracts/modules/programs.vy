# pragma version 0.4.3
# pragma nonreentrancy off
# SPDX-License-Identifier: AGPL-3.0-only
"""
@title Records of programs
@license GNU Affero General Public License v3.0 only
@notice Reads headers and kernels. `data` is always a record and 32 zero bytes after it, so that a word can be read at
        each of its bytes; reads beyond its end find zeros, and the end is checked where the reading stops.
        Bytes: SPEC.md §10.
"""


from . import tensors


MAX_RECORD: constant(uint256) = 2_048
MAX_AXES: constant(uint256) = 12
MAX_OPERANDS: constant(uint256) = 8
MAX_BOUNDS: constant(uint256) = 4
MAX_RANK: constant(uint256) = 8
MAX_KERNELS: constant(uint256) = 2**16
MAX_STEPS: constant(uint256) = 2**24
MAX_ROW_ELEMENTS: constant(uint256) = 2**31 - 1
PROFILE: constant(uint256) = 1
FROM_CONSTANT: constant(uint256) = 0
FROM_INPUT: constant(uint256) = 1
FROM_KERNEL: constant(uint256) = 2


_PADDED: constant(uint256) = MAX_RECORD + 32


struct Header:
    batched: bool
    kernels: uint256
    inputs: uint256
    # @dev Where the inputs begin.
    at: uint256


# @dev A tensor of the signature: its dtype and rank bytes, dims and elements a row; `at` is what comes after it.
struct Signature:
    dtype: uint256
    rank: uint256
    dims: Bytes[32]
    elements: uint256
    at: uint256


struct Kernel:
    dtype: uint256
    axes: uint256
    # @dev Of the output's axes, then the reduction's.
    extents: DynArray[uint256, MAX_AXES]
    elements: uint256
    steps: uint256
    initial: int256
    operands: uint256
    # @dev Where the operands begin.
    at: uint256


# @dev `element` is the one that it reads in the row, if it is `inside`; `at` is what comes after it.
struct Operand:
    source: uint256
    dtype: uint256
    elements: uint256
    root: bytes32
    index: uint256
    pad: int256
    element: int256
    inside: bool
    at: uint256


@internal
@pure
def _header(data: Bytes[_PADDED]) -> Header:
    word: uint256 = extract32(data, 0, output_type=uint256)
    assert word >> 248 == PROFILE, "steps: profile is unknown"
    batched: uint256 = (word >> 240) & 255
    assert batched <= 1, "steps: header is malformed"
    kernels: uint256 = (word >> 208) % 2**32
    assert kernels != 0 and kernels <= MAX_KERNELS, "steps: program has no kernels or too many"
    return Header(batched=batched == 1, kernels=kernels, inputs=(word >> 200) & 255, at=7)


@internal
@pure
def _signature(data: Bytes[_PADDED], start: uint256) -> Signature:
    end: uint256 = unsafe_sub(len(data), 32)
    word: uint256 = extract32(data, min(start, end), output_type=uint256)
    dtype: uint256 = word >> 248
    rank: uint256 = (word >> 240) & 255
    assert rank <= MAX_RANK, "steps: rank is too high"
    at: uint256 = unsafe_add(start, 2)
    assert unsafe_add(at, unsafe_mul(4, rank)) <= end, "steps: header is cut short"
    dims: uint256 = extract32(data, at, output_type=uint256)
    elements: uint256 = 1
    for axis: uint256 in range(rank, bound=MAX_RANK):
        elements = unsafe_mul(elements, (dims >> unsafe_sub(224, unsafe_mul(32, axis))) % 2**32)
        assert elements <= MAX_ROW_ELEMENTS, "steps: row has too many elements"
    return Signature(
        dtype=dtype,
        rank=rank,
        dims=slice(convert(dims, bytes32), 0, unsafe_mul(4, rank)),
        elements=elements,
        at=unsafe_add(at, unsafe_mul(4, rank)),
    )


@internal
@pure
def _kernel(data: Bytes[_PADDED]) -> Kernel:
    end: uint256 = unsafe_sub(len(data), 32)
    word: uint256 = extract32(data, 0, output_type=uint256)
    axes: uint256 = (word >> 240) & 255
    variables: uint256 = unsafe_add(axes, (word >> 232) & 255)
    assert variables <= MAX_AXES, "steps: kernel has too many axes"
    extents: DynArray[uint256, MAX_AXES] = []
    elements: uint256 = 1
    steps: uint256 = 1
    at: uint256 = 3
    for axis: uint256 in range(variables, bound=MAX_AXES):
        extent: uint256 = extract32(data, min(at, end), output_type=uint256) >> 224
        at = unsafe_add(at, 4)
        extents.append(extent)
        if axis < axes:
            elements = unsafe_mul(elements, extent)
        else:
            steps = unsafe_mul(steps, extent)
        assert elements <= MAX_ROW_ELEMENTS, "steps: row has too many elements"
        assert steps <= MAX_STEPS, "steps: reduction has too many steps"
    assert elements != 0 and steps != 0, "steps: extent is zero"
    initial: int256 = extract32(data, min(at, end), output_type=int256) >> 192
    at = unsafe_add(at, 8)
    operands: uint256 = extract32(data, min(at, end), output_type=uint256) >> 248
    assert at < end, "steps: record is cut short"
    assert operands <= MAX_OPERANDS, "steps: kernel has too many operands"
    return Kernel(
        dtype=word >> 248,
        axes=axes,
        extents=extents,
        elements=elements,
        steps=steps,
        initial=initial,
        operands=operands,
        at=unsafe_add(at, 1),
    )


@internal
@pure
def _variables(kernel: Kernel, element: uint256, step: uint256) -> DynArray[int256, MAX_AXES]:
    """
    @dev The indices of an element of the row and of a step along their axes, both row-major.
    """
    variables: int256[MAX_AXES] = empty(int256[MAX_AXES])
    count: uint256 = len(kernel.extents)
    rest: uint256 = step
    for passed: uint256 in range(count, bound=MAX_AXES):
        axis: uint256 = unsafe_sub(unsafe_sub(count, passed), 1)
        if unsafe_add(axis, 1) == kernel.axes:
            rest = element
        extent: uint256 = kernel.extents[axis]
        variables[axis] = convert(rest % extent, int256)
        rest = rest // extent
    found: DynArray[int256, MAX_AXES] = []
    for axis: uint256 in range(count, bound=MAX_AXES):
        found.append(variables[axis])
    return found


@internal
@pure
def _operand(
    data: Bytes[_PADDED],
    start: uint256,
    variables: DynArray[int256, MAX_AXES],
    earlier: DynArray[int256, MAX_OPERANDS],
) -> Operand:
    """
    @dev The operand at `start` and the element that it reads; `earlier` are the values of the operands before it.
    """
    end: uint256 = unsafe_sub(len(data), 32)
    word: uint256 = extract32(data, min(start, end), output_type=uint256)
    operand: Operand = empty(Operand)
    operand.source = word >> 248
    operand.dtype = (word >> 240) & 255
    operand.elements = (word >> 208) % 2**32
    assert operand.source <= FROM_KERNEL, "steps: source is unknown"
    assert operand.elements <= MAX_ROW_ELEMENTS, "steps: row has too many elements"
    at: uint256 = unsafe_add(start, 6)
    word = extract32(data, min(at, end), output_type=uint256)
    if operand.source == FROM_CONSTANT:
        operand.root = convert(word, bytes32)
        at = unsafe_add(at, 32)
    else:
        operand.index = word >> 224
        at = unsafe_add(at, 4)
    operand.pad = extract32(data, min(at, end), output_type=int256) >> 192
    at = unsafe_add(at, 8)
    word = extract32(data, min(at, end), output_type=uint256)
    at = unsafe_add(at, 1)
    indirect: uint256 = word >> 248
    if indirect != 0:
        assert indirect <= len(earlier), "steps: operand follows a later one"
        at = unsafe_add(at, 4)
        coefficient: int256 = convert(convert(word << 8, bytes32), int256) >> 224
        operand.element = unsafe_mul(coefficient, earlier[unsafe_sub(indirect, 1)])
    operand.inside = True
    bounds: uint256 = 0
    for part: uint256 in range(MAX_BOUNDS + 1):
        if part > bounds:
            break
        form: int256 = extract32(data, min(at, end), output_type=int256) >> 224
        terms: uint256 = (extract32(data, min(at, end), output_type=uint256) >> 216) & 255
        assert terms <= len(variables), "steps: form has too many terms"
        at = unsafe_add(at, 5)
        least: uint256 = 0
        for term: uint256 in range(terms, bound=MAX_AXES):
            word = extract32(data, min(at, end), output_type=uint256)
            variable: uint256 = word >> 248
            assert variable < len(variables), "steps: variable is not there"
            coefficient: int256 = convert(convert(word << 8, bytes32), int256) >> 224
            assert variable >= least and coefficient != 0, "steps: form is not canonical"
            least = unsafe_add(variable, 1)
            form = unsafe_add(form, unsafe_mul(coefficient, variables[variable]))
            at = unsafe_add(at, 5)
        word = extract32(data, min(at, end), output_type=uint256)
        if part == 0:
            operand.element = unsafe_add(operand.element, form)
            bounds = word >> 248
            assert bounds <= MAX_BOUNDS, "steps: operand has too many bounds"
            at = unsafe_add(at, 1)
        else:
            if form < 0 or form >= convert(word >> 224, int256):
                operand.inside = False
            at = unsafe_add(at, 4)
    assert at <= end, "steps: record is cut short"
    if operand.element < 0 or operand.element >= convert(operand.elements, int256):
        operand.inside = False
    operand.at = at
    return operand
