# pragma version 0.4.3
# pragma evm-version cancun
# SPDX-License-Identifier: AGPL-3.0-only
"""
@title Proofs about NodeRegistry's guards, run symbolically by halmos
@license GNU Affero General Public License v3.0 only
@notice A `check_` function makes one call with any caller and arguments and states what must hold after it.
        The contract is the registry's token itself, so that no token stands in the way.
"""


from contracts.interfaces import INodeRegistry


interface Symbols:
    def getCode(path: String[64]) -> Bytes[24576]: nonpayable


# @dev Foundry's cheatcodes.
VM: constant(address) = 0x7109709ECfa91a80626fF3989D68f67F5b1DD12D


GAME: constant(address) = 0x00000000000000000000000000000000000000A1
OWNER: constant(address) = 0x00000000000000000000000000000000000000A2
NODE: constant(address) = 0x00000000000000000000000000000000000000A3
SIGNER: constant(address) = 0x00000000000000000000000000000000000000a4
STAKE: constant(uint256) = 1_000
THAWING: constant(uint256) = 300


nodes: INodeRegistry
balanceOf: public(HashMap[address, uint256])


@external
def transfer(recipient: address, amount: uint256) -> bool:
    return True


@external
def transferFrom(owner: address, recipient: address, amount: uint256) -> bool:
    self.balanceOf[recipient] += amount
    return True


@external
def setUp():
    code: Bytes[24576] = extcall Symbols(VM).getCode("NodeRegistry.sol:NodeRegistry")
    terms: Bytes[160] = abi_encode(self, GAME, OWNER, convert(500, uint96), empty(uint256))
    self.nodes = INodeRegistry(raw_create(concat(code, terms)))
    self._prank(NODE)
    extcall self.nodes.register(SIGNER, "https://node.example")
    extcall self.nodes.stake(NODE, STAKE)
    self._prank(NODE)
    extcall self.nodes.begin_unstake(THAWING)


@external
def check_guards(caller: address, choice: uint256, word: uint256, amount: uint256, to: address, time: uint64):
    """
    @notice Stake falls only by the dispute game or the node; the signer changes only by the node; only the
            game freezes; only the owner pauses; and nobody changes who was the signer in the past.
    """
    was_signer: bool = staticcall self.nodes.was_signer(NODE, SIGNER, time)
    self._call_anything(caller, choice, word, amount, to)
    node: INodeRegistry.Node = staticcall self.nodes.nodes(NODE)
    left: uint256 = convert(node.stake, uint256) + convert(node.thawing, uint256)
    self._check(left >= STAKE or caller == GAME or caller == NODE)
    self._check(node.signer == SIGNER or caller == NODE)
    self._check(node.frozen == 0 or caller == GAME)
    self._check(not staticcall self.nodes.paused() or caller == OWNER)
    is_same: bool = was_signer == staticcall self.nodes.was_signer(NODE, SIGNER, time)
    self._check(is_same or convert(time, uint256) >= block.timestamp)


@external
def check_control(caller: address, choice: uint256, word: uint256, amount: uint256, to: address):
    """
    @notice Wrong on purpose, so that it shows that the search reaches the game: halmos must refute it.
    """
    self._call_anything(caller, choice, word, amount, to)
    node: INodeRegistry.Node = staticcall self.nodes.nodes(NODE)
    left: uint256 = convert(node.stake, uint256) + convert(node.thawing, uint256)
    self._check(left >= STAKE or caller == NODE)


@internal
def _call_anything(caller: address, choice: uint256, word: uint256, amount: uint256, to: address):
    """
    @dev Every state-changing function but `set_endpoint` and `register`: halmos has no strings of any length.
    """
    selectors: bytes4[14] = [
        method_id("rotate_signer(address)", output_type=bytes4),
        method_id("stake(address,uint256)", output_type=bytes4),
        method_id("begin_unstake(uint256)", output_type=bytes4),
        method_id("cancel_unstake()", output_type=bytes4),
        method_id("withdraw()", output_type=bytes4),
        method_id("offer(bytes32,uint128)", output_type=bytes4),
        method_id("withdraw_offer(bytes32)", output_type=bytes4),
        method_id("slash(address,uint256,address)", output_type=bytes4),
        method_id("freeze(address)", output_type=bytes4),
        method_id("unfreeze(address)", output_type=bytes4),
        method_id("set_paused(bool)", output_type=bytes4),
        method_id("transfer_ownership(address)", output_type=bytes4),
        method_id("accept_ownership()", output_type=bytes4),
        method_id("renounce_ownership()", output_type=bytes4),
    ]
    for i: uint256 in range(14):
        if choice == i:
            self._prank(caller)
            arguments: Bytes[96] = abi_encode(word, amount, to)
            done: bool = raw_call(
                self.nodes.address, concat(selectors[i], arguments), revert_on_failure=False
            )


@internal
def _prank(caller: address):
    raw_call(VM, abi_encode(caller, method_id=method_id("prank(address)")))


@internal
def _check(holds: bool):
    raw_call(VM, abi_encode(holds, method_id=method_id("assertTrue(bool)")))
