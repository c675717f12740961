"""Call into the process that runs the solution, from the tests' side, and represent its objects."""

import os
import select
import signal
import time
from collections.abc import Callable, Iterator, Mapping, MutableSequence
from contextlib import contextmanager

from passk.verifiers.code.remote_values import builtin_type, decode, encode, pack, unpack


class SolutionEnded(BaseException):
    """The solution's process is gone; not an Exception, so that tests do not catch it."""


class Link:
    """Connection to the solution's process, with the reason of its end.

    `deadline` is a time of `time.monotonic` at which the process is killed.
    """

    def __init__(self, pid: int, requests: int, replies: int, deadline: float, cpu_seconds: int):
        self.pid, self._requests, self._replies = pid, requests, replies
        self.deadline, self._cpu_seconds = deadline, cpu_seconds
        self.ended = ""  # the reason once the process has ended: `timeout`, `error` or `wrong`
        self.num_calls = 0

    def end(self, reason: str | None = None) -> None:
        """Kill and reap the solution. Without a reason, derive it from how the process ended."""
        if self.pid == 0:
            return
        os.kill(self.pid, signal.SIGKILL)  # has no effect on one that has ended
        _, status, used = os.wait4(self.pid, 0)
        self.pid = 0
        if os.WIFSIGNALED(status):
            out_of_time = used.ru_utime + used.ru_stime >= self._cpu_seconds - 0.1
            self.ended = reason or ("timeout" if out_of_time else "error")
        else:
            self.ended = reason or "wrong"

    def _read(self, size: int) -> bytes:
        chunks = []
        while size:
            left = self.deadline - time.monotonic()
            if left <= 0 or not select.select([self._replies], [], [], left)[0]:
                self.end("timeout")
                raise SolutionEnded
            chunks.append(os.read(self._replies, min(size, 2**20)))
            if not chunks[-1]:
                self.end()
                raise SolutionEnded
            size -= len(chunks[-1])
        return b"".join(chunks)

    @contextmanager
    def reading(self) -> Iterator[None]:
        """End the solution if its message is malformed.

        The tests must not see the exception of a failed read: they may expect one.
        """
        try:
            yield
        except Exception:
            self.end("wrong")
            raise SolutionEnded from None

    def receive(self) -> dict[str, object]:
        """Return the next message of the solution."""
        if self.ended:
            raise SolutionEnded
        with self.reading():
            return unpack(self._read)

    def send(self, message: Mapping[str, object]) -> None:
        """Send a message to the solution."""
        if self.ended:
            raise SolutionEnded
        data = memoryview(pack(message))
        try:
            while data:
                data = data[os.write(self._requests, data) :]
        except BrokenPipeError:
            self.end()
            raise SolutionEnded from None

    def value(self, encoded: object) -> object:
        """Decode a value of the solution; objects that stay there become `Remote`."""
        return decode(encoded, lambda reference: Remote(self, reference))

    def call(self, operation: str, args: tuple[object, ...], kwargs: object = None) -> object:
        """Run one of `solution.OPERATIONS` in the solution, and change arguments as it did."""
        self.num_calls += 1
        request = {
            "operation": operation,
            "args": encode(args, _reference),
            "kwargs": encode(kwargs or {}, _reference),
        }
        self.send(request)
        reply = self.receive()
        with self.reading():
            if "args" in reply:
                _change_in_place(args, self.value(reply["args"]))
            error = _exception(reply, may_stop=operation == "next") if "raised" in reply else None
            value = self.value(reply["value"]) if error is None else None
        if error is not None:
            raise error
        return value


class Remote:
    """An object of the solution: a function, class, instance or iterator.

    It equals another `Remote` if the solution says so, but never a plain value.
    """

    _link: Link
    _number: int

    def __init__(self, link: Link, reference: int):
        self.__dict__.update(_link=link, _number=reference)

    def __call__(self, *args: object, **kwargs: object) -> object:
        return self._link.call("call", (self, *args), kwargs)

    def __getattr__(self, name: str) -> object:
        if name.startswith("__"):
            raise AttributeError(name)
        return self._link.call("getattr", (self, name))

    def __setattr__(self, name: str, value: object) -> None:
        self._link.call("setattr", (self, name, value))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Remote) and self._link.call("eq", (self, other)) is True

    def __hash__(self) -> int:
        number = self._link.call("hash", (self,))
        if not isinstance(number, int):
            raise TypeError("a hash is a number")
        return hash(number)

    def __instancecheck__(self, instance: object) -> bool:
        kept = isinstance(instance, Remote)
        return kept and self._link.call("isinstance", (instance, self)) is True


def _operation(name: str) -> Callable[..., object]:
    return lambda self, *args: self._link.call(name, (self, *args))


for _name in ("getitem", "setitem", "iter", "next", "len", "bool", "str", "repr"):
    setattr(Remote, f"__{_name}__", _operation(_name))


def _reference(value: object) -> int:
    if not isinstance(value, Remote):
        raise TypeError(f"a test cannot hand over a {type(value).__name__}")
    return int(value._number)


def _exception(reply: Mapping[str, object], may_stop: bool) -> BaseException:
    """Return the solution's exception, as the nearest built-in one.

    StopIteration may come only from an iterator: raised by a function, it would end a `map` of the
    tests, and the rest of them would count as passed.
    """
    names, arguments = reply["raised"], reply["arguments"]
    assert isinstance(names, list) and isinstance(arguments, list)
    kinds = [kind for kind in map(builtin_type, names) if issubclass(kind, BaseException)]
    kind = next(kind for kind in kinds if not issubclass(kind, BaseExceptionGroup))
    if issubclass(kind, StopIteration) and not may_stop:
        return RuntimeError("the solution raised StopIteration")
    return kind.__new__(kind, *arguments)


def _change_in_place(before: tuple[object, ...], after: object) -> None:
    assert isinstance(after, tuple)
    for old, new in zip(before, after, strict=True):
        if isinstance(old, dict | set) and isinstance(new, dict | set):
            old.clear()
            old.update(new)  # type: ignore[arg-type]
        elif isinstance(old, MutableSequence) and isinstance(new, MutableSequence):
            while old:
                old.pop()
            old.extend(new)
