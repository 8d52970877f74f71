"""
The whole public exception tree.

Three families, never mixed::

    Exception
    └── PolosError
        ├── PolosUsageError              the caller's mistake; raised before anything is written
        │   ├── StoreInUse               another engine owns the data directory
        │   ├── NotAPolosStore           the directory holds something else
        │   ├── StoreFormatTooNew        the directory was written by a newer polos
        │   ├── StoreReadOnly            the directory can't be written
        │   ├── ForkedStore              a forked child touched its parent's store
        │   ├── EngineNotRunning         the command needs an owner and there is none
        │   ├── UnknownRun               no run with that id
        │   │   └── RunArchived          there was one, it has ended and lies in the archive
        │   ├── UnknownWorkflow          no workflow with that id is registered
        │   ├── UnknownSchedule          no schedule with that id
        │   ├── UnknownQueue             no queue with that name
        │   ├── NondeterministicCall     real I/O, threads or an undurable wait in a workflow body
        │   ├── WorkflowNeverWaits       a workflow body keeps its loop busy without ever waiting
        │   ├── CommandRefused           the engine decided the command and said no
        │   ├── QueueFull                as many runs wait in a queue as may
        │   ├── UpdateRejected           the workflow's validator refused an update
        │   └── ValueRefused             a value can't be recorded, or a record doesn't fit its type
        ├── PolosStoreError              the world: disk, file system, damage
        │   ├── StoreFull                no space left; nothing was written
        │   ├── StoreFailed              an append failed; ``maybe_happened`` tells whether it may be there
        │   ├── StoreDamaged             bytes on disk aren't what was written
        │   ├── BlobMissing              a blob that an event names isn't there
        │   ├── RecordsSealed            records were archived; the log has only their leaves
        │   ├── StoreClosed              the store was closed
        │   ├── StoreFenced              a newer epoch owns the log
        │   └── ClientTimeout            no engine answered in time; the command is kept
        ├── ModelError                   the world: a model gave no reply
        │   ├── ModelRateLimited         too much was asked for; says when to come back, if it was told
        │   ├── ModelUnavailable         the provider failed or is overloaded
        │   ├── ModelConnectionFailed    the provider couldn't be reached, or fell silent
        │   ├── ModelReplyTruncated      a reply ended before it was whole
        │   ├── ModelReplyMalformed      what came is no reply
        │   └── ModelRequestRefused      final: the same request will never be answered
        │       ├── ContextTooLong       the conversation is longer than the model can read
        │       ├── ModelAccessDenied    the key is missing, wrong or not allowed to; or there is no money left
        │       ├── ModelContentRefused  the provider's policy forbids the content
        │       └── RecordingDiffers     a recorded model was asked what isn't in the recording
        ├── StepExecutionError           a step, child or wait ended in failure
        ├── WorkflowTimeoutError         ``Workflow.run`` waited longer than its timeout
        ├── ExecutionCancelledError      a step method was called after the grace period of a cancellation
        └── PolosInternalError           our bug
    BaseException
    └── RunEvicted                       the run left memory; its code is being closed

Every error of the world answers two questions: ``retryable`` (may the same call work later?)
and ``maybe_happened`` (may the effect be there although the call failed?).
"""

from __future__ import annotations

from typing import ClassVar

__all__ = [
    "BlobMissing",
    "ClientTimeout",
    "CommandRefused",
    "ContextTooLong",
    "EngineNotRunning",
    "ExecutionCancelledError",
    "ForkedStore",
    "ModelAccessDenied",
    "ModelConnectionFailed",
    "ModelContentRefused",
    "ModelError",
    "ModelRateLimited",
    "ModelReplyMalformed",
    "ModelReplyTruncated",
    "ModelRequestRefused",
    "ModelUnavailable",
    "NondeterministicCall",
    "NotAPolosStore",
    "PolosError",
    "PolosInternalError",
    "PolosStoreError",
    "PolosUsageError",
    "QueueFull",
    "RecordingDiffers",
    "RecordsSealed",
    "RunArchived",
    "RunEvicted",
    "StepExecutionError",
    "StoreClosed",
    "StoreDamaged",
    "StoreFailed",
    "StoreFenced",
    "StoreFormatTooNew",
    "StoreFull",
    "StoreInUse",
    "StoreReadOnly",
    "UnknownQueue",
    "UnknownRun",
    "UnknownSchedule",
    "UnknownWorkflow",
    "UpdateRejected",
    "ValueRefused",
    "WorkflowNeverWaits",
    "WorkflowTimeoutError",
]


class PolosError(Exception):
    """Something in polos went wrong."""

    def __init__(self, message: str = "") -> None:
        """Take the message; the class docstring's first line stands in for an empty one."""
        super().__init__(message or (type(self).__doc__ or "").strip().splitlines()[0])


class PolosUsageError(PolosError):
    """The call was wrong; nothing was written."""


class StoreInUse(PolosUsageError):
    """Another engine owns this data directory."""


class NotAPolosStore(PolosUsageError):
    """The directory isn't a polos store."""


class StoreFormatTooNew(PolosUsageError):
    """The store was written by a newer polos."""


class StoreReadOnly(PolosUsageError):
    """The data directory can't be written."""


class ForkedStore(PolosUsageError):
    """A forked child can't use the store that its parent opened."""


class EngineNotRunning(PolosUsageError):
    """
    No engine is running on this data directory.

    Attributes:
        command_id: the command that is kept for the next engine, if one is; `take_back` takes it.
    """

    def __init__(self, message: str = "", *, command_id: str | None = None) -> None:
        """Take the message and the command that is kept."""
        super().__init__(message)
        self.command_id = command_id


class UnknownRun(PolosUsageError):
    """There is no run with that id."""


class RunArchived(UnknownRun):
    """The run has ended and was archived; it can be read, and nothing can happen to it any more."""


class UnknownWorkflow(PolosUsageError):
    """No workflow with that id is registered."""


class UnknownSchedule(PolosUsageError):
    """No schedule with that id exists."""


class UnknownQueue(PolosUsageError):
    """No workflow names that queue, no run ever did, and nothing was said of it."""


class NondeterministicCall(PolosUsageError):
    """A workflow body did real I/O; wrap it in ctx.step.run."""


class WorkflowNeverWaits(PolosUsageError):
    """A workflow body never stopped to wait; the run is stopped instead of hanging the program."""


class CommandRefused(PolosUsageError):
    """The engine refused the command."""


class QueueFull(PolosUsageError):
    """So many runs wait in a queue that it takes no more (`max_queued`); nothing was created."""


class UpdateRejected(PolosUsageError):
    """The workflow's validator refused the update."""


class ValueRefused(PolosUsageError):
    """
    A value can't be recorded, or a record doesn't fit its type.

    Attributes:
        path: where in the value, such as ``$.items[3].price``; ``$`` for the value itself.
    """

    def __init__(self, message: str = "", *, path: str = "$") -> None:
        """Take the message and the place in the value."""
        super().__init__(message)
        self.path = path


class PolosStoreError(PolosError):
    """The store failed."""

    retryable: ClassVar[bool] = False
    maybe_happened: bool = False


class StoreFull(PolosStoreError):
    """No space is left on the device; nothing was written."""

    retryable = True


class StoreFailed(PolosStoreError):
    """An append failed."""

    retryable = True

    def __init__(self, message: str = "", *, maybe_happened: bool = False) -> None:
        """Take the message and whether the append may be on disk all the same."""
        super().__init__(message)
        self.maybe_happened = maybe_happened


class StoreDamaged(PolosStoreError):
    """
    Bytes on disk aren't what was written.

    Attributes:
        position: the record where it was found, if it was a record.
    """

    def __init__(self, message: str = "", *, position: int | None = None) -> None:
        """Take the message and the position of the damaged record."""
        super().__init__(message)
        self.position = position


class BlobMissing(PolosStoreError):
    """A blob that an event names isn't there."""


class RecordsSealed(PolosStoreError):
    """These records were archived: their leaves are here, what they say is in a segment."""


class StoreClosed(PolosStoreError):
    """The store was closed."""


class StoreFenced(PolosStoreError):
    """A newer epoch owns the log; this engine may no longer append."""


class ClientTimeout(PolosStoreError):
    """
    No engine answered the command in time; the command is kept.

    Attributes:
        command_id: the command; `take_back` takes it back if no engine has it yet.
    """

    retryable = True
    maybe_happened = True

    def __init__(self, message: str = "", *, command_id: str | None = None) -> None:
        """Take the message and the command that is kept."""
        super().__init__(message)
        self.command_id = command_id


class ModelError(PolosError):
    """
    A model gave no reply.

    Its text never holds a key: what providers say is scrubbed before it gets here.

    Attributes:
        provider: who was asked.
        model: which model.
        status: the HTTP status of the answer, if there was one.
        retry_after_seconds: how long the provider asks to be left alone, if it says so.
        request_id: the provider's name of the request, to ask it about.
    """

    retryable: ClassVar[bool] = False
    maybe_happened: ClassVar[bool] = False

    def __init__(
        self,
        message: str = "",
        *,
        provider: str | None = None,
        model: str | None = None,
        status: int | None = None,
        retry_after_seconds: float | None = None,
        request_id: str | None = None,
    ) -> None:
        """Take the message and what is known of the call."""
        super().__init__(message)
        self.provider = provider
        self.model = model
        self.status = status
        self.retry_after_seconds = retry_after_seconds
        self.request_id = request_id


class ModelRateLimited(ModelError):
    """The provider was asked too much at once; `retry_after_seconds` says when to come back, if it told."""

    retryable = True


class ModelUnavailable(ModelError):
    """The provider failed, or is overloaded."""

    retryable = True
    maybe_happened = True


class ModelConnectionFailed(ModelError):
    """The provider couldn't be reached, the connection broke, or nothing came for too long."""

    retryable = True
    maybe_happened = True


class ModelReplyTruncated(ModelError):
    """A reply ended before it was whole; what had come is thrown away."""

    retryable = True
    maybe_happened = True


class ModelReplyMalformed(ModelError):
    """What came isn't a reply as the provider's interface promises it."""

    retryable = True
    maybe_happened = True


class ModelRequestRefused(ModelError):
    """The provider refused the request; the same request will never be answered."""


class ContextTooLong(ModelRequestRefused):
    """The conversation is longer than the model can read."""


class ModelAccessDenied(ModelRequestRefused):
    """The key is missing or wrong, may not use the model, or has no money left."""


class ModelContentRefused(ModelRequestRefused):
    """The provider's policy forbids what was asked."""


class RecordingDiffers(ModelRequestRefused):
    """
    A recorded model was asked something that the recording doesn't hold next.

    Attributes:
        index: which call of the recording was expected, from 0; its length if all had been made.
        paths: where the request differs from it, such as ``items[3]``; empty if nothing more was expected.
    """

    def __init__(self, message: str = "", *, index: int, paths: tuple[str, ...] = ()) -> None:
        """Take the message, the place in the recording, and what differs."""
        super().__init__(message, provider="recorded")
        self.index = index
        self.paths = paths


class StepExecutionError(PolosError):
    """
    A step, a child run or a wait ended in failure.

    ```python run
    import asyncio, tempfile
    from polos import Polos, StepExecutionError, workflow

    @workflow
    async def divide(ctx):
        try:
            return await ctx.step.run("divide", lambda: 1 / 0, max_retries=0)
        except StepExecutionError as error:
            return [error.error_type, error.reason]

    async def main():
        with tempfile.TemporaryDirectory() as folder:
            async with Polos(folder) as polos:
                print(await divide.run(polos))

    asyncio.run(main())
    ```

    Attributes:
        reason: what happened, as text; the same live and in replay.
        error_type: name of the original exception type, if there was one.
        traceback: text of the original traceback, if there was one.
    """

    def __init__(self, reason: str = "", *, error_type: str | None = None, traceback: str | None = None) -> None:
        """Take the reason and what is known of the original exception."""
        super().__init__(reason)
        self.reason = reason
        self.error_type = error_type
        self.traceback = traceback


class WorkflowTimeoutError(PolosError):
    """
    The run didn't end within the timeout.

    ```python run
    import asyncio, tempfile
    from polos import Polos, WorkflowTimeoutError, workflow

    @workflow
    async def patient(ctx):
        await ctx.step.wait_for_signal("go")

    async def main():
        with tempfile.TemporaryDirectory() as folder:
            async with Polos(folder) as polos:
                try:
                    await patient.run(polos, timeout=0.05)
                except WorkflowTimeoutError as error:
                    print(error.timeout_seconds)

    asyncio.run(main())
    ```

    Attributes:
        execution_id: the run.
        timeout_seconds: the timeout.
        waiting_reason: what the run waits for, if it does.
    """

    def __init__(
        self,
        execution_id: str | None = None,
        timeout_seconds: float | None = None,
        *,
        waiting_reason: str | None = None,
    ) -> None:
        """Take the run, the timeout in seconds, and why the run is waiting, if it is."""
        text = f"run {execution_id} didn't end within {timeout_seconds} s"
        if waiting_reason:
            text += f" (it waits: {waiting_reason})"
        super().__init__(text)
        self.execution_id = execution_id
        self.timeout_seconds = timeout_seconds
        self.waiting_reason = waiting_reason


class ExecutionCancelledError(PolosError):
    """The run was cancelled and its grace period is over."""


class PolosInternalError(PolosError):
    """This is a bug in polos, not in your program; please report it with the text below."""


class RunEvicted(BaseException):
    """
    The run left memory and its code is being closed; nothing is recorded any more.

    A BaseException, so that ``except Exception`` in a workflow body doesn't swallow it.
    """
