"""
What a workflow body can't do: everything of an event loop that touches the world.

A body is run again against its history, so whatever it learns must be in that history. Sockets, pipes,
signals, processes and threads aren't; each door to them raises `NondeterministicCall` at the line that
opened it and says what to do instead. The doors are plain functions even where asyncio has coroutines, so
that the error comes with the call and not with an await that may never happen.

The loop's owner is the engine: what would run, stop or close it from inside is refused the same way.
"""

from __future__ import annotations

import asyncio
from typing import Any, NoReturn

from polos.errors import NondeterministicCall

__all__ = ["PureLoop", "refusal"]


def refusal(what: str) -> NondeterministicCall:
    """Make the error for a call that can't be replayed."""
    return NondeterministicCall(
        f"{what} does real I/O or uses threads, and a workflow body is replayed: its outcome would be another one "
        f"each time. Put it into a function and wrap it in ctx.step.run(name, function, ...)"
    )


# Both give Any, because what they make stands for methods of every signature.


def _does_io(name: str) -> Any:
    def refuse(*_: object, **__: object) -> NoReturn:
        raise refusal(f"{name}()")

    refuse.__name__ = name
    refuse.__doc__ = "Refuse: this is real I/O or a thread."
    return refuse


def _owned(name: str) -> Any:
    def refuse(*_: object, **__: object) -> NoReturn:
        raise NondeterministicCall(f"{name}() isn't for workflow bodies: the engine runs their event loop")

    refuse.__name__ = name
    refuse.__doc__ = "Refuse: the engine owns this loop."
    return refuse


class PureLoop(asyncio.AbstractEventLoop):
    """An event loop without a world: the base of `WorkflowLoop` and the mark by which it is known."""

    def next_number(self) -> int:
        """Give the next creation number of this loop."""
        raise NotImplementedError

    def tasks(self) -> list[asyncio.Task[Any]]:
        """Give the tasks that aren't done, in creation order."""
        raise NotImplementedError

    # Every door of asyncio.AbstractEventLoop (3.11 to 3.14). tests/test_loop.py compares this with the base class of
    # the Python it runs on, so that a new door is noticed.

    add_reader = _does_io("add_reader")
    remove_reader = _does_io("remove_reader")
    add_writer = _does_io("add_writer")
    remove_writer = _does_io("remove_writer")
    sock_recv = _does_io("sock_recv")
    sock_recv_into = _does_io("sock_recv_into")
    sock_recvfrom = _does_io("sock_recvfrom")
    sock_recvfrom_into = _does_io("sock_recvfrom_into")
    sock_sendall = _does_io("sock_sendall")
    sock_sendto = _does_io("sock_sendto")
    sock_connect = _does_io("sock_connect")
    sock_accept = _does_io("sock_accept")
    sock_sendfile = _does_io("sock_sendfile")
    sendfile = _does_io("sendfile")
    start_tls = _does_io("start_tls")
    create_connection = _does_io("create_connection")
    create_server = _does_io("create_server")
    create_unix_connection = _does_io("create_unix_connection")
    create_unix_server = _does_io("create_unix_server")
    create_datagram_endpoint = _does_io("create_datagram_endpoint")
    connect_accepted_socket = _does_io("connect_accepted_socket")
    connect_read_pipe = _does_io("connect_read_pipe")
    connect_write_pipe = _does_io("connect_write_pipe")
    subprocess_shell = _does_io("subprocess_shell")
    subprocess_exec = _does_io("subprocess_exec")
    add_signal_handler = _does_io("add_signal_handler")
    remove_signal_handler = _does_io("remove_signal_handler")
    getaddrinfo = _does_io("getaddrinfo")
    getnameinfo = _does_io("getnameinfo")
    run_in_executor = _does_io("run_in_executor")

    # What is the engine's business. An exception handler is, because what it is told comes when garbage is
    # collected, and that is no moment of the history.

    run_forever = _owned("run_forever")
    run_until_complete = _owned("run_until_complete")
    stop = _owned("stop")
    close = _owned("close")
    shutdown_asyncgens = _owned("shutdown_asyncgens")
    shutdown_default_executor = _owned("shutdown_default_executor")
    set_default_executor = _owned("set_default_executor")
    set_task_factory = _owned("set_task_factory")
    set_exception_handler = _owned("set_exception_handler")
    set_debug = _owned("set_debug")
