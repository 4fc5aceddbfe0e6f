"""One ``ssh`` process: its start, its greeting, what it complains of, and its end.

Its pipes are all that it shares with us, and no other process has them: however we end, its standard input ends, and
with it ``hpcserve connect`` and ssh itself. It has a session of its own, so a Ctrl-C is not for it.
"""

from __future__ import annotations

import os
import select
import subprocess
import threading
import time

from hpcserve.client import forks, ssh_words
from hpcserve.client.ssh_address import SshAddress
from hpcserve.errors import Cancelled, ConfigError, HpcserveError
from hpcserve.wire.tunnel import MARKER, Greeting, Preamble, decode_greeting

LOOK_S = 0.1
LEAVES_S = 2.0  # an ssh whose streams have ended is given so long to end, and as long again after SIGTERM
KEPT_BYTES = 8192


class SshProcess:
    """An ssh that was started.

    Args:
        address: Where it leads.

    Attributes:
        incoming: The descriptor of its standard output.
        outgoing: That of its standard input.
        complaints: That of its standard error.
        said: The end of what it has written there.

    Raises:
        ConfigError: There is no ssh here.
        Unreached: It cannot be started now.
    """

    def __init__(self, address: SshAddress) -> None:
        self._address = address
        self.said = b""
        stdin, self.outgoing = os.pipe()
        self.incoming, stdout = os.pipe()
        self.complaints, stderr = os.pipe()
        try:
            self._process = subprocess.Popen(
                address.argv(), stdin=stdin, stdout=stdout, stderr=stderr, start_new_session=True
            )
        except OSError as error:
            _close(self.outgoing, self.incoming, self.complaints)
            raise _not_started(address, error) from error
        finally:
            _close(stdin, stdout, stderr)
        self._is_open = True
        os.set_blocking(self.complaints, False)
        forks.watch(self, SshProcess._forked, self._process)

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    def greet(self, within_s: float, over: threading.Event) -> tuple[Greeting, bytes]:
        """Waits for the greeting; returns it, and what came after it.

        Args:
            within_s: How long, in seconds.
            over: Set when nobody wants it any more.

        Raises:
            HpcserveError: ssh ended, or is silent, or something else than a greeting came.
        """
        preamble = Preamble(MARKER)
        poller = select.poll()
        poller.register(self.incoming, select.POLLIN)
        poller.register(self.complaints, select.POLLIN)
        until = time.monotonic() + within_s
        while not over.is_set():
            if time.monotonic() >= until:
                raise ssh_words.silent(self._address, within_s, self.said, preamble.chatter())
            for descriptor, _ in poller.poll(LOOK_S * 1000):
                if descriptor == self.complaints:
                    if not self.hear_complaints():
                        poller.unregister(self.complaints)
                    continue
                data = os.read(self.incoming, 1 << 16)
                if not data:
                    raise ssh_words.ended(self._address, self._code(), self.said, preamble.chatter())
                found = preamble.feed(data)
                if found is not None:
                    return decode_greeting(found[0]), found[1]
        raise Cancelled("the client was closed before ssh had connected it")

    def hear_complaints(self) -> bool:
        """Takes in what there is on standard error; False when it has ended."""
        try:
            data = os.read(self.complaints, KEPT_BYTES)
        except BlockingIOError:
            return True
        self.said = (self.said + data)[-KEPT_BYTES:]
        return bool(data)

    def end(self) -> None:
        """Closes its streams, and waits until it is gone, which it is soon."""
        if not self._is_open:
            return
        self._is_open = False
        _close(self.outgoing, self.incoming)
        self._code()
        _close(self.complaints)

    def _code(self) -> int:
        """The exit code; it is ended if it does not end. Takes in its last words."""
        for stop in (self._process.terminate, self._process.kill):
            try:
                code = self._process.wait(LEAVES_S)
            except subprocess.TimeoutExpired:
                stop()
            else:
                break
        else:
            code = self._process.wait()
        # Not to the end: a process that keeps the connection for further ones (ControlPersist) has the pipe, too.
        self.hear_complaints()
        return code

    def _forked(self) -> None:
        """In a forked child: ssh must not wait for the child's end, too."""
        if self._is_open:
            self._is_open = False
            _close(self.outgoing, self.incoming, self.complaints)


def _not_started(address: SshAddress, error: OSError) -> HpcserveError:
    if isinstance(error, FileNotFoundError | PermissionError):
        return ConfigError(f"cannot run ssh to reach {address.text}: {error.strerror}; install OpenSSH's client")
    return ssh_words.Unreached(f"cannot run ssh to reach {address.text}: {error.strerror}")


def _close(*descriptors: int) -> None:
    for descriptor in descriptors:
        os.close(descriptor)
