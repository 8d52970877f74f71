"""
The registry: which workflow an id stands for, in this process.

A log outlives the program that wrote it, so it names workflows by id and the program says what the ids mean today.
This is one of the two pieces of module state there are. Decorators fill it at import time; that a later definition
silently replaces an earlier one is what makes notebooks and reloading servers work.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

    from polos.definition import Workflow

__all__ = ["get_all_workflows", "get_version", "get_workflow", "own_workflow", "register", "register_own", "restore"]

_workflows: dict[str, Workflow[Any]] = {}
_versions: dict[tuple[str, str], Workflow[Any]] = {}  # by id and version, those that were replaced, too
_owned: dict[str, Workflow[Any]] = {}  # tools of one agent, by the agent's id and their own


def register(workflow: Workflow[Any]) -> None:
    """Let an id stand for this workflow from now on."""
    _workflows[workflow.id] = workflow
    if workflow.version is not None:
        _versions[workflow.id, workflow.version] = workflow


def get_version(id: str, version: str) -> Workflow[Any] | None:
    """Give a version of a workflow, also one that an id stood for before; None if there is none."""
    return _versions.get((id, version))


def register_own(id: str, workflow: Workflow[Any]) -> None:
    """
    Keep a definition under a second id: a tool as that of one agent, whose name may come to stand for another tool.

    It is found by that id and stands in no list.
    """
    _owned[id] = workflow


def own_workflow(id: str) -> Workflow[Any] | None:
    """Give what was kept under a second id."""
    return _owned.get(id)


def restore(workflows: Mapping[str, Workflow[Any]]) -> None:
    """Let ids stand for what they stood for once, and no others for anything: what a test defined goes with it."""
    _workflows.clear()
    _workflows.update(workflows)
    for key in [key for key in _versions if key[0] not in workflows]:
        del _versions[key]


def get_workflow(id: str) -> Workflow[Any] | None:
    """
    Give the workflow that an id stands for.

    ```python run
    import polos

    @polos.workflow(id="greet")
    async def greet(ctx):
        return "hello"

    print(polos.get_workflow("greet") is greet, polos.get_workflow("nobody"))
    ```

    Args:
        id: the workflow's id.

    Returns:
        The workflow; None if there is none.
    """
    return _workflows.get(id) or _owned.get(id)


def get_all_workflows() -> dict[str, Workflow[Any]]:
    """
    Give a copy of the registry: ids and workflows, in the order in which the ids were first defined.

    ```python run
    import polos

    @polos.workflow
    async def greet(ctx):
        return "hello"

    print(list(polos.get_all_workflows()))
    ```
    """
    return dict(_workflows)
