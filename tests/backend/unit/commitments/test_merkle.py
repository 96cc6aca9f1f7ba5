import hashlib

import pytest
from assay.commitments import merkle
from hypothesis import given
from hypothesis import strategies as st


def naive_root(leaf_datas: list[bytes]) -> bytes:
    """SPEC.md §2 word for word."""
    level = [hashlib.sha256(b"\x00" + data).digest() for data in leaf_datas]
    width = 1
    while width < len(level):
        width *= 2
    level += [bytes(32)] * (width - len(level))
    while len(level) > 1:
        level = [hashlib.sha256(b"\x01" + level[i] + level[i + 1]).digest() for i in range(0, len(level), 2)]
    return level[0]


def leaves(count: int) -> list[bytes]:
    return [i.to_bytes(4, "big") for i in range(count)]


@given(st.lists(st.binary(max_size=40), min_size=1, max_size=70))
def test_merkle_root__any_leaves__equals_the_definition(leaf_datas: list[bytes]) -> None:
    assert merkle.merkle_root(leaf_datas) == naive_root(leaf_datas)
    assert merkle.MerkleTree(leaf_datas).root == naive_root(leaf_datas)


@pytest.mark.parametrize("count", [255, 256, 257, 511, 512, 513, 769, 4096, 12_289])
def test_merkle_root__around_stream_blocks__equals_the_definition(count: int) -> None:
    expected = naive_root(leaves(count))
    assert merkle.merkle_root(iter(leaves(count))) == expected
    assert merkle.MerkleTree(leaves(count)).root == expected


def test_merkle_root__one_leaf__is_the_leaf() -> None:
    assert merkle.merkle_root([b"a"]) == merkle.leaf_hash(b"a")


def test_merkle_root__no_leaves__raises() -> None:
    with pytest.raises(ValueError, match="1 to 2"):
        merkle.merkle_root([])
    with pytest.raises(ValueError, match="1 to 2"):
        merkle.MerkleTree([])


def test_merkle_root__leaves_swapped__differs() -> None:
    assert merkle.merkle_root([b"a", b"b"]) != merkle.merkle_root([b"b", b"a"])


@given(st.integers(1, 200), st.data())
def test_proof__any_leaf__verifies_there_and_nowhere_else(count: int, data: st.DataObject) -> None:
    tree = merkle.MerkleTree(leaves(count))
    index = data.draw(st.integers(0, count - 1))
    proof = tree.proof(index)
    assert len(proof) == tree.depth == merkle.depth_of(count)
    assert merkle.verify_proof(tree.root, leaves(count)[index], proof, index, depth=tree.depth)
    other = data.draw(st.integers(-2, 2 * count + 2).filter(lambda i: i != index))
    assert not merkle.verify_proof(tree.root, leaves(count)[index], proof, other)
    assert not merkle.verify_proof(tree.root, leaves(count)[index] + b"x", proof, index)


@pytest.mark.parametrize("index", [-1, 5, 8])
def test_proof__index_outside__raises(index: int) -> None:
    with pytest.raises(IndexError, match="5 leaves"):
        merkle.MerkleTree(leaves(5)).proof(index)


def test_verify_proof__wrong_depth__is_refused() -> None:
    tree = merkle.MerkleTree(leaves(5))
    assert not merkle.verify_proof(tree.root, leaves(5)[0], tree.proof(0), 0, depth=4)


def test_verify_proof__sibling_not_32_bytes__is_refused() -> None:
    tree = merkle.MerkleTree(leaves(2))
    sibling = tree.proof(0)[0]
    assert not merkle.verify_proof(tree.root, leaves(2)[0], [sibling + b"\x00"], 0)


def test_verify_proof__more_than_32_siblings__is_refused() -> None:
    root: bytes = merkle.leaf_hash(b"a")
    for _ in range(33):
        root = merkle.node_hash(root, bytes(32))
    assert not merkle.verify_proof(root, b"a", [bytes(32)] * 33, 0)


@pytest.mark.parametrize(("count", "depth"), [(1, 0), (2, 1), (3, 2), (4, 2), (5, 3), (1 << 32, 32)])
def test_depth_of__count__is_log2_rounded_up(count: int, depth: int) -> None:
    assert merkle.depth_of(count) == depth


@pytest.mark.parametrize("count", [0, -1, (1 << 32) + 1])
def test_depth_of__count_outside__raises(count: int) -> None:
    with pytest.raises(ValueError, match="leaves"):
        merkle.depth_of(count)


@given(st.integers(1, 70), st.data())
def test_node__any_place__hashes_from_its_children(count: int, data: st.DataObject) -> None:
    tree = merkle.MerkleTree(leaves(count))
    height = data.draw(st.integers(0, tree.depth))
    index = data.draw(st.integers(0, (1 << tree.depth - height) - 1))
    if height:
        children = (tree.node(height - 1, 2 * index), tree.node(height - 1, 2 * index + 1))
        assert tree.node(height, index) == merkle.node_hash(*children)
    else:
        assert tree.node(0, index) == (merkle.leaf_hash(leaves(count)[index]) if index < count else bytes(32))


@pytest.mark.parametrize(("height", "index"), [(-1, 0), (4, 0), (3, 1), (0, 8), (0, -1)])
def test_node__outside_the_tree__raises(height: int, index: int) -> None:
    with pytest.raises(IndexError, match="depth 3"):
        merkle.MerkleTree(leaves(5)).node(height, index)
