# pragma version 0.4.3
# pragma nonreentrancy off
# SPDX-License-Identifier: AGPL-3.0-only
"""
@title Expressions of kernels
@license GNU Affero General Public License v3.0 only
@notice A stack machine over int256; a float32 is its bit pattern in the low 32 bits. Instructions: SPEC.md §10.
"""


from . import float32
from . import programs
from . import tensors


MAX_INSTRUCTIONS: constant(uint256) = 64
MAX_STACK: constant(uint256) = 16


# @dev The codes, decimal, for Vyper's hexadecimal literals are bytes.
_ACC: constant(uint256) = 0
_OPERAND: constant(uint256) = 1
_VAR: constant(uint256) = 2
_WORD: constant(uint256) = 3
_LONG: constant(uint256) = 4
_DUP: constant(uint256) = 5
_ADD: constant(uint256) = 16
_SUB: constant(uint256) = 17
_MUL: constant(uint256) = 18
_DIV: constant(uint256) = 19
_MOD: constant(uint256) = 20
_MIN: constant(uint256) = 21
_MAX: constant(uint256) = 22
_AND: constant(uint256) = 23
_OR: constant(uint256) = 24
_XOR: constant(uint256) = 25
_SHL: constant(uint256) = 26
_SHR: constant(uint256) = 27
_EQ: constant(uint256) = 28
_LT: constant(uint256) = 29
_LE: constant(uint256) = 30
_SELECT: constant(uint256) = 31
_WRAP: constant(uint256) = 32
_FADD: constant(uint256) = 48
_FSUB: constant(uint256) = 49
_FMUL: constant(uint256) = 50
_FDIV: constant(uint256) = 51
_FMIN: constant(uint256) = 52
_FMAX: constant(uint256) = 53
_FEQ: constant(uint256) = 54
_FLT: constant(uint256) = 55
_FLE: constant(uint256) = 56
_I2F: constant(uint256) = 57
_F2I: constant(uint256) = 58
_TRUNC: constant(uint256) = 59


@internal
@pure
def _run(
    data: Bytes[programs.MAX_RECORD + 32],
    start: uint256,
    acc: int256,
    operands: DynArray[int256, programs.MAX_OPERANDS],
    variables: DynArray[int256, programs.MAX_AXES],
) -> int256:
    """
    @dev The last value of the expression whose length byte stands at `start` and with which the record ends.
    """
    end: uint256 = unsafe_sub(len(data), 32)
    at: uint256 = unsafe_add(start, 1)
    length: uint256 = extract32(data, min(start, end), output_type=uint256) >> 248
    assert unsafe_add(at, length) == end, "steps: record has the wrong length"
    stack: DynArray[int256, MAX_STACK] = []
    for i: uint256 in range(MAX_INSTRUCTIONS):
        if at >= end:
            break
        word: uint256 = extract32(data, at, output_type=uint256)
        op: uint256 = word >> 248
        word = word << 8
        at = unsafe_add(at, 1)
        if op <= _DUP:
            assert len(stack) < MAX_STACK, "steps: stack is full"
            place: uint256 = word >> 248
            if op == _OPERAND:
                assert place < len(operands), "steps: operand is not there"
                stack.append(operands[place])
                at = unsafe_add(at, 1)
            elif op == _ACC:
                stack.append(acc)
            elif op == _WORD:
                stack.append(convert(word >> 224, int256))
                at = unsafe_add(at, 4)
            elif op == _VAR:
                assert place < len(variables), "steps: variable is not there"
                stack.append(variables[place])
                at = unsafe_add(at, 1)
            elif op == _LONG:
                stack.append(convert(convert(word, bytes32), int256) >> 192)
                at = unsafe_add(at, 8)
            else:
                assert place < len(stack), "steps: stack is empty"
                stack.append(stack[unsafe_sub(unsafe_sub(len(stack), place), 1)])
                at = unsafe_add(at, 1)
        elif op == _WRAP or op >= _I2F:
            assert len(stack) != 0, "steps: stack is empty"
            a: int256 = stack.pop()
            if op == _WRAP:
                stack.append(tensors._wrap(a, word >> 248))
                at = unsafe_add(at, 1)
            else:
                stack.append(self._conversion(op, a))
        else:
            assert len(stack) > 1, "steps: stack is empty"
            b: int256 = stack.pop()
            a: int256 = stack.pop()
            if op >= _FADD:
                stack.append(self._float(op, self._pattern(a), self._pattern(b)))
            elif op != _SELECT:
                stack.append(self._integer(op, a, b))
            else:
                assert len(stack) != 0, "steps: stack is empty"
                condition: int256 = stack.pop()
                stack.append(a if condition != 0 else b)
    assert at == end, "steps: expression is cut short or too long"
    assert len(stack) != 0, "steps: stack is empty"
    return stack.pop()


@internal
@pure
def _pattern(number: int256) -> uint256:
    return convert(convert(number, bytes32), uint256) % 2**32


@internal
@pure
def _conversion(op: uint256, a: int256) -> int256:
    if op == _I2F:
        return convert(float32._from_int(a), int256)
    assert op <= _TRUNC, "steps: instruction is unknown"
    return float32._to_int(self._pattern(a), op == _F2I)


@internal
@pure
def _float(op: uint256, a: uint256, b: uint256) -> int256:
    found: uint256 = 0
    if op <= _FDIV:
        if op == _FMUL:
            found = float32._mul(a, b)
        elif op == _FADD:
            found = float32._add(a, b)
        elif op == _FSUB:
            found = float32._add(a, b ^ float32.SIGN)
        else:
            found = float32._div(a, b)
    elif op == _FMIN:
        found = float32._min(a, b)
    elif op == _FMAX:
        found = float32._max(a, b)
    elif op == _FEQ:
        found = convert(float32._eq(a, b), uint256)
    elif op == _FLT:
        found = convert(float32._lt(a, b), uint256)
    else:
        found = convert(float32._le(a, b), uint256)
    return convert(found, int256)


@internal
@pure
def _integer(op: uint256, a: int256, b: int256) -> int256:
    if op <= _MOD:
        if op == _ADD:
            return unsafe_add(a, b)
        if op == _MUL:
            return unsafe_mul(a, b)
        if op == _SUB:
            return unsafe_sub(a, b)
        assert op >= _ADD, "steps: instruction is unknown"
        if op == _DIV:
            return unsafe_div(a, b)
        return a % b if b != 0 else 0
    if op <= _XOR:
        if op == _MIN:
            return min(a, b)
        if op == _MAX:
            return max(a, b)
        if op == _AND:
            return a & b
        if op == _OR:
            return a | b
        return a ^ b
    if op == _EQ:
        return convert(a == b, int256)
    if op == _LT:
        return convert(a < b, int256)
    if op == _LE:
        return convert(a <= b, int256)
    assert op <= _SHR, "steps: instruction is unknown"
    within: bool = 0 <= b and b <= 255
    if op == _SHL:
        return a << convert(b, uint256) if within else 0
    if within:
        return a >> convert(b, uint256)
    return -1 if a < 0 else 0
