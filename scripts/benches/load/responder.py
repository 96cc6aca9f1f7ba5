"""A server that does nothing but answer: `python -m scripts.benches.load.responder REQUEST ANSWER` (bytes).

It reads requests of REQUEST bytes and sends a constant 200 of ANSWER bytes. What the generator reaches
against it is the most that it can measure of any server. Prints its port.
"""

from __future__ import annotations

import select
import socket
import sys


def build_answer(size: int) -> bytes:
    """A 200 of `size` bytes in all, or a little more if its head needs them."""
    head = b"HTTP/1.1 200 OK\r\ncontent-type: application/octet-stream\r\ncontent-length: %05d\r\n\r\n"
    body = max(0, size - len(head % 0))
    return head % body + bytes(body)


def serve(listener: socket.socket, request_bytes: int, answer: bytes) -> None:
    """Until the process is ended."""
    poll = select.epoll()
    poll.register(listener, select.EPOLLIN)
    sockets: dict[int, socket.socket] = {}
    waiting: dict[int, int] = {}
    while True:
        for number, _ in poll.poll():
            one = sockets.get(number)
            if one is None:
                one, _ = listener.accept()
                one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                poll.register(one, select.EPOLLIN)
                sockets[one.fileno()], waiting[one.fileno()] = one, request_bytes
                continue
            size = len(one.recv(1 << 15))
            if not size:
                poll.unregister(one)
                one.close()
                del sockets[number], waiting[number]
            elif size == waiting[number]:
                one.send(answer)
                waiting[number] = request_bytes
            else:
                waiting[number] -= size


if __name__ == "__main__":
    with socket.create_server(("127.0.0.1", 0), backlog=128) as listener:
        print(listener.getsockname()[1], flush=True)
        serve(listener, int(sys.argv[1]), build_answer(int(sys.argv[2])))
