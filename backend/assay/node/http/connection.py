"""One HTTP/1.1 connection: bytes in, requests out in order, replies back in order, every wait bounded.

One request of a connection is served at a time. What is pipelined behind it waits, parsed, while nothing more
is read from the socket. Source: RFC 9112; the parser is llhttp.
"""

from __future__ import annotations

import asyncio
from collections import deque
from math import inf
from time import perf_counter
from typing import cast

import httptools

from assay.node.http import exchange as limits_of
from assay.node.http.exchange import MAX_HEAD, Application, Exchange, Loss
from assay.node.http.known_heads import KNOWN_BYTES, remember
from assay.node.http.messages import CLOSE, KEEP_ALIVE, Reply, Request, render_head
from assay.node.http.parser import Parser
from assay.node.http.streaming import write_stream
from assay.node.remote_host import remote_host


class Connection(asyncio.Protocol):
    """`deadline` (loop time) is when the wait under way ends; the server looks after it."""

    def __init__(self, app: Application, loop: asyncio.AbstractEventLoop) -> None:
        self._app = app
        self._limits = app.limits
        self._loop = loop
        self._parser = Parser(self)
        self._head_bytes = 0
        self._is_between = True  # the parser has read whole requests alone
        self._raw_head = b""
        self._incoming: Exchange | None = None
        self._waiting: deque[Exchange] = deque()
        self._current: Exchange | None = None
        self._stream: asyncio.Task[None] | None = None
        self._drained: asyncio.Future[None] | None = None
        self._is_excess = self._has_asked = False
        self._is_paused = self._is_stepping = False
        self._has_ended = False  # no further request is taken
        self._is_closing = False
        self.peer = ""
        self.deadline = inf

    @property
    def loss(self) -> Loss | None:
        is_taking = self._drained is not None
        if self.deadline == inf or self._is_closing or (self._has_ended and not is_taking):
            return None
        if is_taking or not self._has_asked or not self._is_between:
            return Loss.AN_EXCHANGE
        spare_at = self.deadline - self._limits.idle_seconds + limits_of.SPARE_SECONDS
        return Loss.A_REQUEST if self._loop.time() < spare_at else Loss.NOTHING

    # Called by the transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is none by inheritance
        address = transport.get_extra_info("peername")
        self.peer = remote_host(str(address[0])) if isinstance(address, tuple) else ""
        self._is_excess = not self._app.opened(self)
        self.deadline = self._loop.time() + self._limits.head_seconds

    def connection_lost(self, exc: Exception | None) -> None:
        self._has_ended = self._is_closing = True
        if self._stream is not None:
            self._stream.cancel()
        self._wake()
        left = [self._incoming, *self._waiting]
        if self._current is not None and not self._current.is_started:  # else it is held until its reply
            left.append(self._current)
        self._incoming = self._current = None
        self._waiting.clear()
        for exchange in left:
            self._release(exchange)
        self._app.closed(self)

    def data_received(self, data: bytes) -> None:
        if self._has_ended:
            return
        self._has_asked = True
        if self._is_between and not self._is_excess and self._take_known(data):
            return
        self._head_bytes += len(data)
        try:
            if not self._parser.feed(data):
                self._has_ended = True
        except httptools.HttpParserError as error:
            self._refuse_head(limits_of.not_http(error))
        if self._head_bytes > MAX_HEAD and (self._parser.in_head or self._incoming is not None):
            self._refuse_head(limits_of.head_too_large())

    def _take_known(self, data: bytes) -> bool:
        """A whole request, alone in what arrived, with the very head of one that was parsed before: what the
        parser would say of it is known. Nothing waits then, and the parser is between two requests."""
        end = data.find(b"\r\n\r\n", 0, KNOWN_BYTES) + 4
        if end < 4 or self._current is not None or self._waiting or self._drained is not None:
            return False
        raw = data[:end]
        known = self._app.heads.get(raw)
        if known is None:
            self._raw_head = raw if data.startswith(b"POST ") else b""
            return False
        if len(data) != end + known.length:
            return False
        request = Request("POST", known.path, known.query, known.headers, self.peer, data[end:])
        exchange = Exchange(request, self, perf_counter(), known.target)
        try:
            exchange.max_body = self._app.begin(exchange, known.length)
            exchange.is_admitted = True
        except Exception as error:
            exchange.refusal = self._app.refuse(error, request)
        self._waiting.append(exchange)
        self._step()
        return True

    def eof_received(self) -> bool:
        """Whoever has sent everything may still wait for answers."""
        self._has_ended = True
        self._release(self._incoming)
        self._incoming = None
        return (self._current is not None or bool(self._waiting)) and not self._is_closing

    def pause_writing(self) -> None:
        self._drained = self._loop.create_future()
        size = self._transport.get_write_buffer_size()
        self.deadline = self._loop.time() + self._limits.write_seconds + size / self._limits.body_rate

    def resume_writing(self) -> None:
        self._wake()
        if self._is_closing:
            return
        if self._current is None:
            self._step()
        else:
            self.deadline = inf  # what the reply waits for now is not the client

    def _wake(self) -> None:
        drained, self._drained = self._drained, None
        if drained is not None and not drained.done():
            drained.set_result(None)

    # Called by the parser

    def on_message_begin(self) -> None:
        self._is_between = False
        self._head_bytes = 0  # what came before belongs to the body of the last request
        if self._current is None and self._drained is None:
            self.deadline = self._loop.time() + self._limits.head_seconds

    def on_headers_complete(self) -> None:
        self._head_bytes, parser = 0, self._parser
        if self._has_ended:
            return
        if parser.size > MAX_HEAD:
            self._refuse_head(limits_of.head_too_large())
            return
        path, _, query = limits_of.origin_form(parser.target).partition(b"?")
        request = Request(parser.method, path, query, parser.headers, self.peer)
        exchange = self._incoming = Exchange(request, self, perf_counter())
        exchange.close, exchange.is_http_1_0 = request.method == "CONNECT", parser.is_http_1_0
        length = None
        try:
            if self._is_excess:
                exchange.close = True
                raise limits_of.too_many_connections(self._limits.max_connections)
            length = limits_of.content_length(request)
            limits_of.check_head(exchange)
            exchange.max_body = self._app.begin(exchange, length)
            exchange.is_admitted = True
            if length is not None and length > exchange.max_body:
                raise limits_of.body_too_large(exchange.max_body, length)
        except Exception as error:
            self._refuse(exchange, error, length)
            return
        if self._current is None:
            self._await_body(exchange)

    def on_body(self, body: bytes) -> None:
        self._head_bytes, exchange = 0, self._incoming  # counts what is read between two parts: trailers, too
        if exchange is None or self._has_ended:
            return
        exchange.size += len(body)
        if exchange.refusal is not None:
            if exchange.size > limits_of.DRAINED:
                self._refuse_now(exchange)
            return
        if exchange.size > exchange.max_body:
            try:
                exchange.max_body = self._app.grow(exchange)
            except Exception as error:
                self._refuse(exchange, error, None)
                return
        exchange.take(body)
        if self._current is None:
            self.deadline += len(body) / self._limits.body_rate

    def on_message_complete(self) -> None:
        exchange, self._incoming = self._incoming, None
        self._is_between = True
        if exchange is None or self._has_ended:
            return
        exchange.put_together()
        if not self._parser.keeps_alive:
            exchange.close = True
        raw, self._raw_head = self._raw_head, b""
        if raw and exchange.refusal is None:
            remember(self._app.heads, raw, exchange)
        self._waiting.append(exchange)
        if self._current is None and self._drained is None:
            self._step()
        elif not self._is_paused:
            self._is_paused = True
            self._transport.pause_reading()

    # One request after another

    def _await_body(self, exchange: Exchange) -> None:
        limits = self._limits
        self.deadline = self._loop.time() + limits.body_seconds + exchange.size / limits.body_rate
        if exchange.waits_for_continue:
            self._transport.write(limits_of.CONTINUE)

    def _step(self) -> None:
        """Serve what waits, until a reply is not there at once."""
        if self._is_stepping:
            return
        self._is_stepping = True
        try:
            while self._waiting and self._current is None and self._drained is None and not self._is_closing:
                exchange = self._current = self._waiting.popleft()
                self.deadline = inf
                if exchange.refusal is not None:
                    self.send(exchange, exchange.refusal)
                else:
                    self._app.serve(exchange)
        finally:
            self._is_stepping = False
        if self._current is None and self._drained is None and not self._is_closing:
            self._await_more()

    def _await_more(self) -> None:
        if self._is_paused:
            self._is_paused = False
            self._transport.resume_reading()
        incoming = self._incoming
        if self._has_ended:
            self._close()
        elif incoming is None:
            seconds = self._limits.head_seconds if self._parser.in_head else self._limits.idle_seconds
            self.deadline = self._loop.time() + seconds
        elif incoming.refusal is not None and incoming.close:
            self._refuse_now(incoming)
        else:
            self._await_body(incoming)

    def _is_wanted(self, exchange: Exchange) -> bool:
        """Whether it is the request that is being served; of any other no reply is wanted any more, and what
        it held is free."""
        exchange.close |= self._has_ended and not self._waiting
        if exchange is self._current and not self._is_closing:
            return True
        self._release(exchange)
        return False

    def send(self, exchange: Exchange, reply: Reply) -> None:
        if not self._is_wanted(exchange):
            return
        exchange.close |= reply.stream is not None and exchange.is_http_1_0
        head = render_head(reply, keep_alive=not exchange.close, http_1_0=exchange.is_http_1_0)
        if exchange.request.method == "HEAD":
            self._transport.write(head)
        elif reply.stream is not None:
            self._transport.write(head)
            self._stream = self._loop.create_task(self._send_stream(exchange, reply))
            return
        else:
            self._transport.write(head + reply.body)
        self._complete(exchange)

    def send_raw(self, exchange: Exchange, head: bytes, body: bytes) -> None:
        """`head`: status line and headers, without the empty line at their end."""
        if not self._is_wanted(exchange):
            return
        end = CLOSE if exchange.close else KEEP_ALIVE if exchange.is_http_1_0 else b""
        self._transport.write(b"".join((head, end, b"\r\n", body)))
        self._complete(exchange)

    async def _send_stream(self, exchange: Exchange, reply: Reply) -> None:
        """A reply whose body ends early ends the connection, so that nobody takes it for whole."""
        assert reply.stream is not None
        try:
            chunked = not exchange.is_http_1_0
            await write_stream(self._transport, reply.stream, lambda: self._drained, chunked=chunked)
        except BaseException:
            self.abort()
            raise
        finally:
            self._stream = None
        self._complete(exchange)

    def _complete(self, exchange: Exchange) -> None:
        self._current = None
        self._release(exchange)
        if exchange.close:
            self._close()
        elif not self._is_stepping:
            self._step()

    def _release(self, exchange: Exchange | None) -> None:
        if exchange is not None and exchange.is_admitted:
            exchange.is_admitted = False
            self._app.end(exchange)

    # Refusing and ending

    def _refuse(self, exchange: Exchange, error: Exception, length: int | None) -> None:
        """Answer in its turn, without serving it: after its body if that is short, else before."""
        exchange.refusal = self._app.refuse(error, exchange.request)
        self._release(exchange)
        exchange.parts = []
        chunked = b"transfer-encoding" in exchange.request.headers
        if max(exchange.size, length or 0) > limits_of.DRAINED or b"expect" in exchange.request.headers:
            self._refuse_now(exchange)
        elif (length or chunked) and self._current is None:
            self.deadline = self._loop.time() + self._limits.body_seconds

    def _refuse_now(self, exchange: Exchange) -> None:
        exchange.close = True
        if self._current is not None or self._waiting or self._has_ended:
            return  # in its turn
        assert exchange.refusal is not None
        self._has_ended = True
        self._incoming = None
        body = b"" if exchange.request.method == "HEAD" else exchange.refusal.body
        self._transport.write(render_head(exchange.refusal, keep_alive=False) + body)
        if self._transport.can_write_eof():
            self._transport.write_eof()
        self.deadline = self._loop.time() + limits_of.LINGER_SECONDS

    def _refuse_head(self, error: Exception) -> None:
        """Nothing that follows can be understood."""
        if self._has_ended:
            return
        self._release(self._incoming)
        self._parser.in_head = False
        exchange = self._incoming = Exchange(Request("", b"", b"", {}, self.peer), self, perf_counter())
        exchange.refusal = self._app.refuse(error, None)
        self._refuse_now(exchange)

    def expire(self) -> None:
        self._end_wait(limits_of.body_too_slow(self._limits))

    def give_way(self) -> None:
        self._end_wait(limits_of.too_many_connections(self._limits.max_connections))

    def _end_wait(self, error: Exception) -> None:
        """Politely for who is sending, who is told why; at once for who does not take its answer."""
        self.deadline = inf
        if self._is_closing or self._has_ended or self._drained is not None:
            self.abort()
        elif (incoming := self._incoming) is not None and not self._parser.in_head:
            incoming.refusal = self._app.refuse(error, incoming.request)
            self._release(incoming)
            self._refuse_now(incoming)
        else:
            self._close()

    def finish(self) -> None:
        """Take no more; close when what is whole is answered."""
        self._has_ended = True
        self._release(self._incoming)
        self._incoming = None
        if self._current is None and not self._waiting:
            self._close()

    def _close(self) -> None:
        """Close when what was written is sent, for which there is a time, too."""
        self._has_ended = self._is_closing = True
        for exchange in self._waiting:
            self._release(exchange)
        self._waiting.clear()
        size = self._transport.get_write_buffer_size()
        self.deadline = self._loop.time() + self._limits.write_seconds + size / self._limits.body_rate
        self._transport.close()

    def abort(self) -> None:
        self._has_ended = self._is_closing = True
        self._transport.abort()
