"""Other inference servers of the same model, each from the package index in an environment of its own."""

from scripts.benches.peers.install import Peer, install_all
from scripts.benches.peers.running import Running, started

__all__ = ["Peer", "Running", "install_all", "started"]
