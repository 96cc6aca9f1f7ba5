# pragma version 0.4.3
# pragma evm-version cancun
# pragma nonreentrancy on
# SPDX-License-Identifier: AGPL-3.0-only
"""
@title Dispute game
@license GNU Affero General Public License v3.0 only
@notice Anyone disputes an exact receipt for a bond. The node reveals its computation from the top down, the challenger
        points at the leftmost difference, and one step decides. Nobody owns this contract. Rules: SPEC.md §11.
"""


from ethereum.ercs import IERC20


from .interfaces import IDisputeGame
from .interfaces import IModelRegistry
from .interfaces import INodeRegistry
from .interfaces import ISettlement
from .interfaces import IStepVerifier
implements: IDisputeGame


from .modules import elements
from .modules import merkle
from .modules import receipts
from .modules import signatures


from .modules import payouts
initializes: payouts


exports: (payouts.token, payouts.claimable, payouts.claim)


# @dev Levels of a tree that one `reveal` goes down.
LEVELS: public(constant(uint256)) = 4
# @dev Most segments that one `reveal_partials` cuts a reduction into.
PARTS: public(constant(uint256)) = 256
# @dev Moves after `open` for 2^16 kernels, 2^22 chunks and 2^24 steps.
MAX_MOVES: public(constant(uint256)) = 29
# @dev Chunks of one tensor, as a power of two.
MAX_DEPTH: constant(uint256) = 22
CHUNK_BYTES: constant(uint256) = 1024


# @dev Which move is owed.
ASSERT_TRACE: constant(uint256) = 1
REVEAL: constant(uint256) = 2
SELECT: constant(uint256) = 3
REVEAL_TENSOR: constant(uint256) = 4
REVEAL_CHUNK: constant(uint256) = 5
SELECT_ELEMENT: constant(uint256) = 6
REVEAL_PARTIALS: constant(uint256) = 7
SELECT_SEGMENT: constant(uint256) = 8
PROVE_STEP: constant(uint256) = 9
FORFEIT: constant(uint256) = 10


# @dev What `disputes` holds of a closed one.
NODE_WON: constant(bytes32) = 0x0000000000000000000000000000000000000000000000000000000000000001
CHALLENGER_WON: constant(bytes32) = 0x0000000000000000000000000000000000000000000000000000000000000002


models: public(immutable(IModelRegistry))
nodes: public(immutable(INodeRegistry))
settlement: public(immutable(ISettlement))
verifier: public(immutable(IStepVerifier))
# @dev What a challenger puts in, in the token's base unit; the node's if the dispute is lost.
bond: public(immutable(uint256))
# @dev What a fraud costs the node, in the token's base unit.
slash_amount: public(immutable(uint256))
# @dev Seconds for each move.
move_window: public(immutable(uint256))


dispute_count: public(uint256)
# @dev dispute -> keccak256 of its state, or how it ended; zero: there is none. Numbered from 1.
disputes: public(HashMap[uint256, bytes32])
# @dev (node, consumer, version, sequence) or (node, version, input hash), hashed -> slashed for.
_punished: HashMap[bytes32, bool]


@deploy
def __init__(
    token_: IERC20,
    models_: IModelRegistry,
    nodes_: INodeRegistry,
    settlement_: ISettlement,
    verifier_: IStepVerifier,
    bond_: uint256,
    slash_amount_: uint256,
    move_window_: uint256,
):
    """
    @param token_ ERC-20 that stakes are in, and so bonds and rewards.
    @param models_ Registry that knows each version's program root.
    @param nodes_ Registry whose stakes are slashed; it must name this contract.
    @param settlement_ Contract whose receipts are disputed; it must name this contract.
    @param verifier_ The exact profile's arithmetic.
    @param bond_ What a challenger puts in, in base units.
    @param slash_amount_ What a fraud costs the node, in base units; at least twice the bond.
    @param move_window_ Seconds for each move.
    """
    payouts.__init__(token_)
    assert models_.address.is_contract, "disputes: model registry has no code"
    assert verifier_.address.is_contract, "disputes: verifier has no code"
    assert staticcall nodes_.dispute_game() == self, "disputes: node registry has another dispute game"
    assert staticcall settlement_.dispute_game() == self, "disputes: settlement has another dispute game"
    assert staticcall nodes_.token() == token_.address, "disputes: stakes are in another token"
    assert bond_ != 0, "disputes: bond is zero"
    assert slash_amount_ >= 2 * bond_, "disputes: slash is below twice the bond"
    minimum: uint256 = convert(staticcall nodes_.min_stake(), uint256)
    assert slash_amount_ <= minimum, "disputes: slash is above the minimum stake"
    assert move_window_ != 0, "disputes: move window is zero"
    longest: uint256 = staticcall settlement_.dispute_window() + MAX_MOVES * move_window_
    assert staticcall nodes_.thaw_period() >= longest, "disputes: stake thaws before a dispute can end"
    models = models_
    nodes = nodes_
    settlement = settlement_
    verifier = verifier_
    bond = bond_
    slash_amount = slash_amount_
    move_window = move_window_


# ------------------------------------------------------------------------------------------------------------
#                                                permissionless
# ------------------------------------------------------------------------------------------------------------


@external
def open(
    receipt: ISettlement.Receipt,
    signature: Bytes[65],
    in_batch: bool,
    siblings: DynArray[bytes32, 32],
    index: uint256,
) -> uint256:
    """
    @notice Disputes a receipt; takes the bond from the caller, who is the challenger.
    @param receipt The receipt, of a version with a program.
    @param signature The node's, 65 bytes r, s, v.
    @param in_batch Whether the receipt is in a posted batch; if not, the window runs from its execution.
    @param siblings The receipt's proof in its batch, from the leaf up.
    @param index The receipt's place in its batch.
    @return The dispute's number.
    """
    digest: bytes32 = self._check_signed(receipt, signature)
    assert not staticcall settlement.is_void(digest), "disputes: receipt is already void"
    program_root: bytes32 = self._program_root(receipt.version_id)
    batch_id: bytes32 = empty(bytes32)
    start: uint256 = convert(receipt.executed_at, uint256)
    if in_batch:
        root: bytes32 = merkle._root(merkle._leaf_hash(digest), siblings, index)
        batch_id = receipts._batch_id(receipt.node, receipt.version_id, root)
        start = convert((staticcall settlement.batches(batch_id)).posted_at, uint256)
        assert start != 0, "disputes: receipt is not in a posted batch"
    assert block.timestamp < start + staticcall settlement.dispute_window(), "disputes: dispute window is over"
    state: IDisputeGame.State = empty(IDisputeGame.State)
    state.challenger = msg.sender
    state.node = receipt.node
    state.batch_id = batch_id
    state.digest = digest
    state.program_root = program_root
    state.phase = ASSERT_TRACE
    state.deadline = block.timestamp + move_window
    dispute_id: uint256 = self.dispute_count + 1
    self.dispute_count = dispute_id
    self.disputes[dispute_id] = keccak256(abi_encode(state))
    log IDisputeGame.DisputeOpened(
        dispute_id=dispute_id,
        node=receipt.node,
        challenger=msg.sender,
        receipt=receipt,
        signature=signature,
        state=state,
    )
    if in_batch:
        extcall settlement.hold(batch_id)
    extcall nodes.freeze(receipt.node)
    payouts._take(bond)
    return dispute_id


@external
def claim_timeout(dispute_id: uint256, state: IDisputeGame.State, receipt: ISettlement.Receipt):
    """
    @notice Closes a dispute against the side whose move is overdue; a forfeited one at once.
    @param dispute_id The dispute.
    @param state Its state.
    @param receipt The receipt that it is about.
    """
    self._check_current(dispute_id, state)
    if state.phase != FORFEIT:
        assert block.timestamp > state.deadline, "disputes: move is not overdue"
    if state.phase in [SELECT, SELECT_ELEMENT, SELECT_SEGMENT]:
        self._acquit(dispute_id, state)
    else:
        self._convict(dispute_id, state, receipt)


@external
def prove_equivocation(
    first: ISettlement.Receipt, first_signature: Bytes[65], second: ISettlement.Receipt, second_signature: Bytes[65]
):
    """
    @notice Slashes a node that signed two receipts for one channel and sequence; half goes to the caller.
    @param first One receipt.
    @param first_signature The node's, 65 bytes r, s, v.
    @param second Another one of the same node, consumer, version and sequence.
    @param second_signature The node's.
    """
    first_digest: bytes32 = self._check_signed(first, first_signature)
    second_digest: bytes32 = self._check_signed(second, second_signature)
    channel: bytes32 = keccak256(abi_encode(first.node, first.consumer, first.version_id, first.sequence))
    other: bytes32 = keccak256(abi_encode(second.node, second.consumer, second.version_id, second.sequence))
    assert channel == other, "disputes: receipts are of different channels or sequences"
    assert first_digest != second_digest, "disputes: receipts are the same"
    slashed: uint256 = 0
    to_reporter: uint256 = 0
    slashed, to_reporter = self._punish(channel, first.node)
    log IDisputeGame.Equivocated(
        node=first.node,
        reporter=msg.sender,
        first_digest=first_digest,
        second_digest=second_digest,
        slashed=slashed,
        to_reporter=to_reporter,
    )


@external
def prove_contradiction(
    first: ISettlement.Receipt, first_signature: Bytes[65], second: ISettlement.Receipt, second_signature: Bytes[65]
):
    """
    @notice Slashes a node that signed two outputs of one exact version for one input; half goes to the caller.
    @param first One receipt.
    @param first_signature The node's, 65 bytes r, s, v.
    @param second Another one of the same node, version and input, with another output.
    @param second_signature The node's.
    """
    first_digest: bytes32 = self._check_signed(first, first_signature)
    second_digest: bytes32 = self._check_signed(second, second_signature)
    program_root: bytes32 = self._program_root(first.version_id)
    question: bytes32 = keccak256(abi_encode(first.node, first.version_id, first.input_hash))
    other: bytes32 = keccak256(abi_encode(second.node, second.version_id, second.input_hash))
    assert question == other, "disputes: receipts are of different nodes, versions or inputs"
    assert first.output_hash != second.output_hash, "disputes: outputs are the same"
    slashed: uint256 = 0
    to_reporter: uint256 = 0
    slashed, to_reporter = self._punish(question, first.node)
    log IDisputeGame.Contradicted(
        node=first.node,
        reporter=msg.sender,
        first_digest=first_digest,
        second_digest=second_digest,
        slashed=slashed,
        to_reporter=to_reporter,
    )


# ------------------------------------------------------------------------------------------------------------
#                                                     node
# ------------------------------------------------------------------------------------------------------------


@external
def assert_trace(
    dispute_id: uint256,
    state: IDisputeGame.State,
    receipt: ISettlement.Receipt,
    header: Bytes[1024],
    header_siblings: DynArray[bytes32, 17],
    rows: uint32,
    input_roots: DynArray[bytes32, 8],
    output_roots: DynArray[bytes32, 8],
    output_siblings: DynArray[DynArray[bytes32, 16], 8],
    trace_root: bytes32,
    children: DynArray[bytes32, 16],
):
    """
    @notice The node states its trace and reveals its first children.
    @param dispute_id The dispute.
    @param state Its state.
    @param receipt The receipt that it is about.
    @param header The program's header.
    @param header_siblings Its proof in the program, from the leaf up.
    @param rows Rows of the request; 1 unless the program is batched.
    @param input_roots Roots of the inputs, in the program's order.
    @param output_roots Roots of the outputs, in the program's order.
    @param output_siblings Their proofs in the trace.
    @param trace_root The trace.
    @param children The nodes that its root hashes from; none if the program has one kernel.
    """
    self._check_node(dispute_id, state, ASSERT_TRACE)
    self._check_receipt(state, receipt)
    kernels: uint256 = staticcall verifier.check_trace(
        state.program_root,
        header,
        header_siblings,
        convert(rows, uint256),
        input_roots,
        output_roots,
        output_siblings,
        trace_root,
        receipt.input_hash,
        receipt.output_hash,
    )
    next: IDisputeGame.State = state
    next.trace_root = trace_root
    next.inputs = keccak256(slice(abi_encode(input_roots), 64, 32 * len(input_roots)))
    next.claim = trace_root
    next.rows = convert(rows, uint256)
    next.kernels = kernels
    next.level = self._depth(kernels)
    next.phase = REVEAL_TENSOR if next.level == 0 else SELECT
    self._check_children(next, children)
    self._advance(dispute_id, ASSERT_TRACE, next, self._joined(children))


@external
def reveal(dispute_id: uint256, state: IDisputeGame.State, children: DynArray[bytes32, 16]):
    """
    @notice The node reveals the nodes that the claim hashes from.
    @param dispute_id The dispute.
    @param state Its state.
    @param children The nodes LEVELS below the claim, or the leaves where they are nearer.
    """
    self._check_node(dispute_id, state, REVEAL)
    self._check_children(state, children)
    next: IDisputeGame.State = state
    next.phase = SELECT
    self._advance(dispute_id, REVEAL, next, self._joined(children))


@external
def reveal_tensor(
    dispute_id: uint256,
    state: IDisputeGame.State,
    record: Bytes[2048],
    record_siblings: DynArray[bytes32, 17],
    tensor_root: bytes32,
    children: DynArray[bytes32, 16],
    chunk: Bytes[1024],
):
    """
    @notice The node opens the kernel's record and tensor.
    @param dispute_id The dispute.
    @param state Its state.
    @param record The kernel's record.
    @param record_siblings Its proof in the program, from the leaf up.
    @param tensor_root The root that the leaf under dispute is of.
    @param children The nodes that it hashes from; none if the tensor has one chunk.
    @param chunk The tensor's only chunk; empty if there are more.
    """
    self._check_node(dispute_id, state, REVEAL_TENSOR)
    assert merkle._leaf_hash(tensor_root) == state.claim, "disputes: tensor root is not the claimed one"
    shape: IStepVerifier.Shape = staticcall verifier.kernel_shape(
        state.program_root, record, record_siblings, state.kernel
    )
    next: IDisputeGame.State = state
    next.record = keccak256(record)
    next.claim = tensor_root
    next.length = shape.elements * state.rows * elements._width(shape.dtype)
    next.level = self._depth(max(next.length + CHUNK_BYTES - 1, CHUNK_BYTES) // CHUNK_BYTES)
    next.position = 0
    next.dtype = shape.dtype
    next.high = shape.steps
    next.before = shape.initial
    assert next.level <= MAX_DEPTH, "disputes: tensor is too large"
    self._check_children(next, children)
    data: Bytes[1024] = chunk
    if next.level == 0:
        self._check_chunk(next, chunk)
        next.phase = SELECT_ELEMENT
    else:
        assert len(chunk) == 0, "disputes: chunk has another length"
        next.phase = SELECT
        data = self._joined(children)
    self._advance(dispute_id, REVEAL_TENSOR, next, data)


@external
def reveal_chunk(dispute_id: uint256, state: IDisputeGame.State, chunk: Bytes[1024]):
    """
    @notice The node reveals the chunk under dispute.
    @param dispute_id The dispute.
    @param state Its state.
    @param chunk The chunk's bytes.
    """
    self._check_node(dispute_id, state, REVEAL_CHUNK)
    self._check_chunk(state, chunk)
    next: IDisputeGame.State = state
    next.phase = SELECT_ELEMENT
    self._advance(dispute_id, REVEAL_CHUNK, next, chunk)


@external
def reveal_partials(dispute_id: uint256, state: IDisputeGame.State, partials: Bytes[2048]):
    """
    @notice The node reveals the accumulator at the inner ends of the segments.
    @param dispute_id The dispute.
    @param state Its state.
    @param partials The accumulators in the kernel's data type, little-endian.
    """
    self._check_node(dispute_id, state, REVEAL_PARTIALS)
    expected: uint256 = (self._parts(state.high - state.low) - 1) * elements._width(state.dtype)
    assert len(partials) == expected, "disputes: partials have another length"
    next: IDisputeGame.State = state
    next.claim = keccak256(partials)
    next.phase = SELECT_SEGMENT
    self._advance(dispute_id, REVEAL_PARTIALS, next, partials)


@external
def prove_step(
    dispute_id: uint256,
    state: IDisputeGame.State,
    record: Bytes[2048],
    input_roots: DynArray[bytes32, 8],
    openings: DynArray[IStepVerifier.Opening, 8],
):
    """
    @notice The node opens the operands of the one step; if it computes to the claim, the node has won.
    @param dispute_id The dispute.
    @param state Its state.
    @param record The kernel's record, as it was opened before.
    @param input_roots The inputs' roots, as they were stated before.
    @param openings The chunk of each operand's element; empty where the operand reads its pad value.
    """
    self._check_node(dispute_id, state, PROVE_STEP)
    assert keccak256(record) == state.record, "disputes: record is another one"
    inputs: bytes32 = keccak256(slice(abi_encode(input_roots), 64, 32 * len(input_roots)))
    assert inputs == state.inputs, "disputes: input roots are others"
    task: IStepVerifier.Step = IStepVerifier.Step(
        kernel=state.kernel,
        kernels=state.kernels,
        rows=state.rows,
        element=state.element,
        step=state.low,
        before=state.before,
        trace_root=state.trace_root,
    )
    result: int256 = staticcall verifier.step(record, task, input_roots, openings)
    assert result == state.after, "disputes: step computes to another value"
    self._acquit(dispute_id, state)


# ------------------------------------------------------------------------------------------------------------
#                                                  challenger
# ------------------------------------------------------------------------------------------------------------


@external
def select(
    dispute_id: uint256, state: IDisputeGame.State, index: uint256, child: bytes32, siblings: DynArray[bytes32, 4]
):
    """
    @notice The challenger points at the leftmost child that differs.
    @param dispute_id The dispute.
    @param state Its state.
    @param index Which of the children that were revealed last.
    @param child That child.
    @param siblings Its proof under the claim, from the child up.
    """
    self._check_challenger(dispute_id, state, SELECT)
    down: uint256 = min(LEVELS, state.level)
    assert len(siblings) == down, "disputes: proof has another length"
    assert merkle._root(child, siblings, index) == state.claim, "disputes: child is not under the claim"
    next: IDisputeGame.State = state
    next.claim = child
    next.position = (state.position << down) | index
    next.level = state.level - down
    next.phase = REVEAL
    if next.level == 0:
        next = self._at_leaf(next)
    self._advance(dispute_id, SELECT, next, b"")


@external
def select_element(dispute_id: uint256, state: IDisputeGame.State, chunk: Bytes[1024], index: uint256):
    """
    @notice The challenger points at the first element of the chunk that differs.
    @param dispute_id The dispute.
    @param state Its state.
    @param chunk The chunk that was revealed last.
    @param index The element's place in it.
    """
    self._check_challenger(dispute_id, state, SELECT_ELEMENT)
    self._check_chunk(state, chunk)
    width: uint256 = elements._width(state.dtype)
    assert index < len(chunk) // width, "disputes: element is not in the chunk"
    next: IDisputeGame.State = state
    next.element = state.position * (CHUNK_BYTES // width) + index
    next.after = elements._element(chunk, index, state.dtype)
    next.phase = PROVE_STEP if state.high == 1 else REVEAL_PARTIALS
    self._advance(dispute_id, SELECT_ELEMENT, next, b"")


@external
def select_segment(dispute_id: uint256, state: IDisputeGame.State, partials: Bytes[2048], index: uint256):
    """
    @notice The challenger points at the first segment whose end differs.
    @param dispute_id The dispute.
    @param state Its state.
    @param partials The accumulators that were revealed last.
    @param index The segment.
    """
    self._check_challenger(dispute_id, state, SELECT_SEGMENT)
    assert keccak256(partials) == state.claim, "disputes: partials are others"
    steps: uint256 = state.high - state.low
    parts: uint256 = self._parts(steps)
    assert index < parts, "disputes: there is no such segment"
    next: IDisputeGame.State = state
    next.low = state.low + steps * index // parts
    next.high = state.low + steps * (index + 1) // parts
    if index != 0:
        next.before = elements._element(partials, index - 1, state.dtype)
    if index != parts - 1:
        next.after = elements._element(partials, index, state.dtype)
    next.phase = PROVE_STEP if next.high - next.low == 1 else REVEAL_PARTIALS
    self._advance(dispute_id, SELECT_SEGMENT, next, b"")


# ------------------------------------------------------------------------------------------------------------
#                                                  internals
# ------------------------------------------------------------------------------------------------------------


@internal
@view
def _check_current(dispute_id: uint256, state: IDisputeGame.State):
    assert self.disputes[dispute_id] == keccak256(abi_encode(state)), "disputes: state is not current"


@internal
@view
def _check_move(dispute_id: uint256, state: IDisputeGame.State, phase: uint256):
    self._check_current(dispute_id, state)
    assert state.phase == phase, "disputes: another move is owed"
    assert block.timestamp <= state.deadline, "disputes: move is too late"


@internal
@view
def _check_node(dispute_id: uint256, state: IDisputeGame.State, phase: uint256):
    self._check_move(dispute_id, state, phase)
    if msg.sender != state.node:
        signer: address = empty(address)
        active: bool = False
        signer, active = staticcall nodes.standing(state.node)
        assert msg.sender == signer, "disputes: caller is not the node"


@internal
@view
def _check_challenger(dispute_id: uint256, state: IDisputeGame.State, phase: uint256):
    self._check_move(dispute_id, state, phase)
    assert msg.sender == state.challenger, "disputes: caller is not the challenger"


@internal
@view
def _check_signed(receipt: ISettlement.Receipt, signature: Bytes[65]) -> bytes32:
    digest: bytes32 = staticcall settlement.receipt_digest(receipt)
    signer: address = signatures._signer_of(digest, signature)
    assert staticcall nodes.was_signer(
        receipt.node, signer, receipt.executed_at
    ), "disputes: receipt is not signed by its node"
    return digest


@internal
@view
def _check_receipt(state: IDisputeGame.State, receipt: ISettlement.Receipt):
    assert staticcall settlement.receipt_digest(receipt) == state.digest, "disputes: receipt is another one"


@internal
@pure
def _check_children(state: IDisputeGame.State, children: DynArray[bytes32, 16]):
    """
    @dev A leaf has none.
    """
    expected: uint256 = 0 if state.level == 0 else 1 << min(LEVELS, state.level)
    assert len(children) == expected, "disputes: children have another number"
    if expected != 0:
        assert merkle._root_of(children) == state.claim, "disputes: children do not hash to the claim"


@internal
@pure
def _check_chunk(state: IDisputeGame.State, chunk: Bytes[1024]):
    """
    @dev The claim of a tensor with one chunk is its root, which is that chunk's leaf.
    """
    expected: uint256 = min(state.length - state.position * CHUNK_BYTES, CHUNK_BYTES)
    assert len(chunk) == expected, "disputes: chunk has another length"
    assert merkle._bytes_hash(chunk) == state.claim, "disputes: chunk does not hash to the claim"


@internal
@view
def _program_root(version_id: bytes32) -> bytes32:
    payee: address = empty(address)
    royalty_bps: uint16 = 0
    program_root: bytes32 = empty(bytes32)
    payee, royalty_bps, program_root = staticcall models.royalty_info(version_id)
    assert program_root != empty(bytes32), "disputes: version has no program"
    return program_root


@internal
@pure
def _depth(leaves: uint256) -> uint256:
    """
    @dev Of a tree of so many leaves, at least one.
    """
    depth: uint256 = 0
    for _: uint256 in range(64):
        if 1 << depth >= leaves:
            break
        depth += 1
    return depth


@internal
@pure
def _parts(steps: uint256) -> uint256:
    """
    @dev As few rounds as there can be, and in two rounds as few partials: about the root of the steps in each.
    """
    if steps <= PARTS:
        return steps
    return isqrt(steps - 1) + 1 if steps <= PARTS**2 else PARTS


@internal
@pure
def _joined(children: DynArray[bytes32, 16]) -> Bytes[576]:
    return slice(abi_encode(children), 64, 32 * len(children))


@internal
@pure
def _at_leaf(state: IDisputeGame.State) -> IDisputeGame.State:
    """
    @dev A leaf of the trace or of a tensor was selected; beyond the last, nothing but zero is honest.
    """
    in_tensor: bool = state.record != empty(bytes32)
    count: uint256 = state.kernels
    if in_tensor:
        count = max(state.length + CHUNK_BYTES - 1, CHUNK_BYTES) // CHUNK_BYTES
    next: IDisputeGame.State = state
    if state.position >= count:
        assert state.claim != empty(bytes32), "disputes: leaf is padding, as it should be"
        next.phase = FORFEIT
    elif in_tensor:
        next.phase = REVEAL_CHUNK
    else:
        next.kernel = state.position
        next.phase = REVEAL_TENSOR
    return next


@internal
def _advance(dispute_id: uint256, move: uint256, state: IDisputeGame.State, data: Bytes[2048]):
    next: IDisputeGame.State = state
    next.deadline = block.timestamp + move_window
    self.disputes[dispute_id] = keccak256(abi_encode(next))
    log IDisputeGame.Moved(dispute_id=dispute_id, move=move, data=data, state=next)


@internal
def _acquit(dispute_id: uint256, state: IDisputeGame.State):
    self.disputes[dispute_id] = NODE_WON
    log IDisputeGame.DisputeClosed(
        dispute_id=dispute_id,
        node=state.node,
        challenger=state.challenger,
        digest=state.digest,
        phase=state.phase,
        node_won=True,
        slashed=0,
        to_challenger=0,
        to_consumer=0,
        to_treasury=0,
    )
    self._let_go(state)
    payouts._pay(state.node, bond)


@internal
def _convict(dispute_id: uint256, state: IDisputeGame.State, receipt: ISettlement.Receipt):
    """
    @dev The first to win a receipt gets the whole slash; who wins it after that is paid for the gas and the trouble.
    """
    self._check_receipt(state, receipt)
    self.disputes[dispute_id] = CHALLENGER_WON
    owed: uint256 = 0
    due: uint256 = 2 * bond
    if not staticcall settlement.is_void(state.digest):
        due = slash_amount
        returned: uint256 = extcall settlement.void(state.batch_id, receipt)
        if receipt.consumer != empty(address):
            owed = convert(receipt.price, uint256) - returned
    slashed: uint256 = self._slash(state.node, due)
    to_challenger: uint256 = slashed // 2
    to_consumer: uint256 = min(owed, slashed // 4)
    to_treasury: uint256 = slashed - to_challenger - to_consumer
    log IDisputeGame.DisputeClosed(
        dispute_id=dispute_id,
        node=state.node,
        challenger=state.challenger,
        digest=state.digest,
        phase=state.phase,
        node_won=False,
        slashed=slashed,
        to_challenger=to_challenger,
        to_consumer=to_consumer,
        to_treasury=to_treasury,
    )
    self._let_go(state)
    payouts._pay(state.challenger, bond + to_challenger)
    payouts._pay(receipt.consumer, to_consumer)
    payouts._pay(staticcall settlement.treasury(), to_treasury)


@internal
def _let_go(state: IDisputeGame.State):
    if state.batch_id != empty(bytes32):
        extcall settlement.release(state.batch_id)
    extcall nodes.unfreeze(state.node)


@internal
def _slash(node: address, amount: uint256) -> uint256:
    """
    @dev What arrives, should the token take a fee.
    """
    before: uint256 = staticcall payouts.token.balanceOf(self)
    extcall nodes.slash(node, amount, self)
    return staticcall payouts.token.balanceOf(self) - before


@internal
def _punish(fraud: bytes32, node: address) -> (uint256, uint256):
    assert not self._punished[fraud], "disputes: node was slashed for it before"
    self._punished[fraud] = True
    slashed: uint256 = self._slash(node, slash_amount)
    assert slashed != 0, "disputes: node has no stake"
    to_reporter: uint256 = slashed // 2
    payouts._pay(msg.sender, to_reporter)
    payouts._pay(staticcall settlement.treasury(), slashed - to_reporter)
    return slashed, to_reporter
