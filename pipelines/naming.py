"""How a step of a pipeline is named and run."""

from typing import Any


def step(component: Any, title: str, **arguments: Any) -> Any:
    """Add a step to the pipeline being defined, named for people, and give its output parameters by name.

    Kubeflow's cache stays off: its key covers parameters, not what lies behind a URI, so late rows under the same date
    or a moved release would be answered from an old run. Our stages skip finished work by what their inputs hold.
    """
    task = component(**arguments)
    return task.set_display_name(title).set_caching_options(enable_caching=False).outputs
