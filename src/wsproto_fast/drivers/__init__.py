"""Drivers: what moves bytes between transports and the engine.

All that knows sockets, loops, or locks is here. The engine needs none of these modules, and
importing this package imports none of them. ``asyncio`` drives connections with the transports of
an event loop, and ``coroutines`` are what its users await; ``threads`` drives them with blocking
sockets, for any number of threads. ``tls`` is TLS through memory; ``liveness`` tells what the
operating system knows about a silent peer; ``schedule`` has the deadlines of many connections.
For tests, ``endpoints`` stand for sockets of threads, and ``clocked`` are engines on a clock.

A driver of one's own, in Python or compiled, uses what ``wsproto_fast`` documents, in its stub and
in ``__init__.pxd``. It owns the transport and the clock. It calls the engine, from one thread at a
time, when one of these happens:

- the network brings something: ``get_buffer``, then ``buffer_updated``; or ``receive_data``; and
  ``receive_eof``;
- the application wants something: ``send``, ``ping``, ``close``, ...;
- the time of ``next_timeout`` has come: ``handle_timeout``.

After each of these it does what follows: it sends what ``take_output`` gives until that is empty,
does to the transport what ``transport_action`` says (KEEP, HALF_CLOSE, CLOSE, or ABORT, of
``activity``), and wakes who waits for what there is now, of ``next_message`` or
``acknowledged_pings``. The activity bits that these calls return tell what needn't be looked at.
While ``reading_wanted`` is false it doesn't read; messages that are taken make room, and
``receive_kept``, if ``can_receive_kept``, or ``handle_timeout`` goes on with what was kept. When
the transport is gone it calls ``connection_lost``.

A driver over a blocking socket, for one thread, which reads only while it waits for a message::

    class Driver:
        def __init__(self, sock, protocol):
            self.sock, self.protocol = sock, protocol
            protocol.queue_messages()
            timeouts = {"ping_interval": 20, "ping_timeout": 20, "close_timeout": 10}
            protocol.set_timeouts(**timeouts, now=monotonic())

        def recv(self):
            while (message := self.protocol.next_message(now=monotonic())) is None:
                if self.protocol.state is State.CLOSED:
                    raise self.protocol.close_exc
                self.read()
            return message

        def send(self, message):
            self.protocol.send(message)
            self.update()

        def close(self):
            self.protocol.close(now=monotonic())
            self.update()
            while self.protocol.state is not State.CLOSED:
                self.read()

        def read(self):
            deadline = self.protocol.next_timeout()
            timeout = None if deadline is None else max(deadline - monotonic(), 0)
            if not (self.protocol.reading_wanted and select([self.sock], [], [], timeout)[0]):
                self.protocol.handle_timeout(monotonic())
            elif size := self.sock.recv_into(self.protocol.get_buffer()):
                self.protocol.buffer_updated(size, monotonic())
            else:
                self.protocol.receive_eof(monotonic())
            self.update()

        def update(self):
            while data := self.protocol.take_output():
                self.sock.sendall(data)
            if self.protocol.transport_action >= CLOSE:
                self.sock.close()
                self.protocol.connection_lost()
            elif self.protocol.transport_action == HALF_CLOSE:
                self.sock.shutdown(SHUT_WR)

``Protocol`` is open from the beginning. The opening handshake, of ``ClientProtocol.connect`` or
``ServerProtocol.accept``, is driven in the same way.
"""

__all__: list[str] = []
