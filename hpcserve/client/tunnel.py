"""The near side of a tunnel: sockets on this host, which lead through one ssh process to the daemon's.

A thread of its own carries the bytes. The sockets are Unix sockets in a directory that only the user may enter, there
only while a client connects. Nothing is decrypted on the way.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

from hpcserve.auth.private import storage_error
from hpcserve.client import ssh_words
from hpcserve.client.pump import Pump
from hpcserve.client.ssh_address import SshAddress
from hpcserve.client.ssh_process import SshProcess
from hpcserve.errors import HpcserveError, ProtocolError
from hpcserve.wire.frames import error_from_wire
from hpcserve.wire.record import ServiceRecord, checked
from hpcserve.wire.tunnel import ANSWER, Frame, Greeting, Kind, common_version, decode_greeting

READ_S = 15.0  # so long the far side may take to read the record anew
PING_S, SILENT_S = 15.0, 90.0
FAREWELL_S = 1.0  # so long what was said last may take to leave
FOREVER = float("inf")
LONGEST_PATH_BYTES = 100  # a Unix socket's, on every system


class Ends(NamedTuple):
    """ZeroMQ addresses on this host that lead to the daemon's sockets."""

    admission: str
    front: str


class Tunnel:
    """A tunnel that stands.

    Args:
        address: Where it leads.
        ssh: The process, which is the tunnel's from now on.
        greeting: What it has said.
        rest: What came after that.

    Raises:
        Unreached: ssh has ended again.
    """

    def __init__(self, address: SshAddress, ssh: SshProcess, greeting: Greeting, rest: bytes) -> None:
        self._address, self._ssh = address, ssh
        self._changed = threading.Condition()
        self._answer: Greeting | None = greeting
        self._late = 0  # so many answers nobody waits for any more
        self._lost: str | None = None
        self._refusal = self._why = ""
        self._listeners: set[socket.socket] = set()
        self._wishes: deque[Callable[[], None]] = deque()
        self._last_channel = 0
        self._leaves_by: float | None = None
        self._pinged_at = time.monotonic()
        try:
            os.write(ssh.outgoing, ANSWER + b"%d\n" % (common_version(greeting.versions) or 0))
        except OSError as error:
            raise ssh_words.Unreached(ssh_words.lost(address, ssh.said, error.strerror or "")) from error
        self._wake_read, self._wake_write = os.pipe()
        os.set_blocking(self._wake_read, False)
        os.set_blocking(self._wake_write, False)
        self._pump = Pump(ssh.incoming, ssh.outgoing, self._take, self._refused)
        self._pump.watch(self._wake_read, self._hear_wishes)
        self._pump.watch(ssh.complaints, self._hear_complaints)
        self._pump.hear(rest)
        self._thread = threading.Thread(target=self._carry, name="hpcserve-ssh", daemon=True)
        self._thread.start()

    @property
    def pid(self) -> int:
        """The process id of its ssh."""
        return self._ssh.pid

    @property
    def lost(self) -> str | None:
        """Why it does not stand any more; None: it does."""
        return self._lost

    def trouble(self) -> str:
        """What is wrong with it, or with the far side's way to the daemon; empty when nothing is known."""
        return self._lost or self._refusal

    def record(self) -> ServiceRecord:
        """The record as the far side reads it now; the first time, as it was greeted with.

        Raises:
            HpcserveError: Why there is none.
        """
        with self._changed:
            if self._answer is None:
                self._wish(partial(self._pump.say, Kind.READ, 0))
                if not self._changed.wait_for(lambda: self._answer is not None or self._lost is not None, READ_S):
                    self._late += 1
            answer, self._answer = self._answer, None
            self._refusal = ""
        if answer is None:
            raise ssh_words.Unreached(
                self._lost or f"{self._address.host} did not read the service record within {READ_S:g} s"
            )
        if answer.error is not None:
            raise _told(self._address, error_from_wire(answer.error))
        if answer.record is None:
            raise ProtocolError(f"{self._address.host} told neither a record nor an error")
        return checked(answer.record, self._address.text)

    @contextlib.contextmanager
    def ends(self) -> Iterator[Ends]:
        """Sockets to connect to, for as long as the context lasts; connections outlast it.

        Raises:
            Unreached: The tunnel is lost.
        """
        place = _private_place()
        paths = [place / name for name in Ends._fields]
        try:
            listeners = [self._listener(path) for path in paths]
            try:
                yield Ends(*(f"ipc://{path}" for path in paths))
            finally:
                for listener in listeners:
                    self._wish(partial(self._unlisten, listener))
        finally:
            shutil.rmtree(place, ignore_errors=True)

    def abandon(self) -> None:
        """Has it end, without a farewell; does not wait for that."""
        self._wish(partial(self._leave, 0.0))

    def close(self) -> None:
        """Lets what was said leave, for a moment at most, and ends ssh."""
        self._wish(partial(self._leave, FAREWELL_S))
        self._thread.join()

    # --- in the thread --------------------------------------------------------------------------------

    def _carry(self) -> None:
        try:
            while self._pump.ended is None and not self._has_left():
                self._pump.step(PING_S if self._leaves_by is None else FAREWELL_S / 10)
                self._beat()
            why = self._pump.ended or self._why
        except Exception as error:  # noqa: BLE001 (whatever it is, the client has to know that the tunnel is gone)
            why = repr(error)
        finally:
            self._pump.close()
            self._ssh.end()
        with self._changed:
            self._lost = ssh_words.lost(self._address, self._ssh.said, why)
            self._wishes.clear()
            for listener in self._listeners:
                listener.close()
            os.close(self._wake_read)
            os.close(self._wake_write)
            self._changed.notify_all()

    def _beat(self) -> None:
        now = time.monotonic()
        if now - self._pump.heard_at > SILENT_S:
            self._why, self._leaves_by = f"nothing was heard for {SILENT_S:g} s", now
        elif now - self._pinged_at >= PING_S:
            self._pinged_at = now
            self._pump.say(Kind.PING, 0)

    def _has_left(self) -> bool:
        if self._leaves_by is None:
            return False
        is_done = not self._pump.channels and self._pump.is_flushed
        return is_done or time.monotonic() >= self._leaves_by

    def _hear_wishes(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.read(self._wake_read, 4096)
        while self._wishes:
            self._wishes.popleft()()

    def _hear_complaints(self) -> None:
        if not self._ssh.hear_complaints():
            self._pump.unwatch(self._ssh.complaints)

    def _leave(self, within_s: float) -> None:
        self._leaves_by = min(self._leaves_by or FOREVER, time.monotonic() + within_s)

    def _listen(self, listener: socket.socket, name: str) -> None:
        self._pump.watch(listener.fileno(), partial(self._accept, listener, name))

    def _unlisten(self, listener: socket.socket) -> None:
        self._pump.unwatch(listener.fileno())
        with self._changed:
            self._listeners.discard(listener)
        listener.close()

    def _accept(self, listener: socket.socket, name: str) -> None:
        try:
            end, _ = listener.accept()
        except OSError:  # whoever it was has gone
            return
        self._last_channel += 1
        self._pump.say(Kind.OPEN, self._last_channel, name.encode())
        self._pump.add(self._last_channel, end)

    def _refused(self, _channel: int, reason: str) -> None:
        if reason:
            self._refusal = reason

    def _take(self, frame: Frame) -> None:
        if frame.kind == Kind.RECORD:
            answer = decode_greeting(frame.payload)
            with self._changed:
                if self._late:  # it tells how things were when that was asked
                    self._late -= 1
                    return
                self._answer = answer
                self._changed.notify_all()

    # --- in any thread --------------------------------------------------------------------------------

    def _wish(self, wish: Callable[[], None]) -> None:
        """Has the thread do something, if it still lives."""
        with self._changed, contextlib.suppress(BlockingIOError):  # the pipe is full: it will wake anyway
            if self._lost is None:
                self._wishes.append(wish)
                os.write(self._wake_write, b"w")

    def _listener(self, path: Path) -> socket.socket:
        listener = _bound(path)
        with self._changed:
            if self._lost is not None:
                listener.close()
                raise ssh_words.Unreached(self._lost)
            self._listeners.add(listener)
            self._wish(partial(self._listen, listener, path.name))
        return listener


def _told(address: SshAddress, error: HpcserveError) -> HpcserveError:
    """What the far side has told, with where that was."""
    return type(error)(f"{address.host}: {error.message}")


def _private_place() -> Path:
    """A new directory for Unix sockets, which only the user may enter."""
    try:
        place = Path(tempfile.mkdtemp(prefix="hpcserve-ssh-"))
        if len(os.fsencode(place)) + len("/admission") > LONGEST_PATH_BYTES:
            place.rmdir()
            place = Path(tempfile.mkdtemp(prefix="hpcserve-ssh-", dir="/tmp"))
    except OSError as error:
        raise storage_error(error, "cannot make a directory for sockets") from error
    return place


def _bound(path: Path) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        listener.bind(str(path))
        listener.listen()
        listener.setblocking(False)
    except OSError as error:
        listener.close()
        raise storage_error(error, f"cannot make the socket {path}") from error
    return listener
