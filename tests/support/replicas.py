"""Several processes of one node, on a log that they share: folders of their own, as on machines of their
own."""

from __future__ import annotations

import shutil
import threading
from typing import Any

from assay.node.config import LogConfig

from tests.support.nodes import NodeUnderTest, free_port


def add_process(node: NodeUnderTest, number: int) -> NodeUnderTest:
    """Another process of `node`, which keeps its key and its settings."""
    folder = node.folder.with_name(f"{node.folder.name}-{number}")
    folder.mkdir()
    for name in ("signer.json", "signer.password"):
        shutil.copy(node.folder / name, folder / name)
    made = NodeUnderTest(node.network, folder, node.operator, node.signer, free_port(), list(node.versions))
    made.configure(**node.options)
    return made


def share_log(node: NodeUnderTest, url: str, processes: int, **options: Any) -> list[NodeUnderTest]:
    """`node` and its further processes, configured for the log at `url`."""
    node.configure(log=LogConfig(url=url), **options)
    return [node, *(add_process(node, number) for number in range(2, processes + 1))]


def start_all(nodes: list[NodeUnderTest]) -> None:
    """At once: each takes seconds."""
    errors: list[BaseException] = []

    def start(node: NodeUnderTest) -> None:
        try:
            node.start()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=start, args=(node,)) for node in nodes]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
