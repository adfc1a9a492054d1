"""Tasks: how the answers of models are read and compared, one class for each task."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tflite2q.dialect.graph import Graph
from tflite2q.dialect.types import Value
from tflite2q.errors import UsageError
from tflite2q.evaluation.figures import TaskInfo
from tflite2q.evaluation.tasks import label_names
from tflite2q.evaluation.tasks.base import Interface as Interface
from tflite2q.evaluation.tasks.base import Task
from tflite2q.evaluation.tasks.classification import Classification
from tflite2q.evaluation.tasks.detection import Detection
from tflite2q.evaluation.tasks.keypoints import Keypoints
from tflite2q.evaluation.tasks.numbers import Embedding, Regression
from tflite2q.evaluation.tasks.segmentation import Segmentation

# In the order in which they are guessed; the last one takes every model.
TASKS: tuple[type[Task[Any]], ...] = (Detection, Segmentation, Keypoints, Classification, Embedding, Regression)
AUTO = "auto"


def choose(
    inputs: Sequence[Value],
    outputs: Sequence[Value],
    graph: Graph | None = None,
    task: str = AUTO,
    names: Any = None,
    labelled: bool = False,
) -> tuple[Task[Any], TaskInfo]:
    """The task of a model, as asked for or guessed, and why.

    `names` of classes: a file of one name a line or a sequence; without, those in the model's own file.  Raises
    UsageError for a task that does not exist or that the outputs do not fit, DataError for names that do not fit.
    """
    given = None if names is None else label_names.read(names)
    model = Interface(tuple(inputs), tuple(outputs), graph, given or label_names.of(graph, outputs), labelled)
    if task == AUTO:
        for kind in TASKS:
            why = kind.guess(model)
            if why is not None:
                return _made(kind, model, why, True)
    kinds = {kind.name: kind for kind in TASKS}
    if task not in kinds:
        raise UsageError(f"there is no task {task!r}; choose auto, {', '.join(sorted(kinds))}")
    obstacle = kinds[task].obstacle(model)
    if obstacle is not None:
        raise UsageError(f"the model cannot be read as {task}: {obstacle}")
    return _made(kinds[task], model, "asked for", False)


def _made(kind: type[Task[Any]], model: Interface, why: str, guessed: bool) -> tuple[Task[Any], TaskInfo]:
    made = kind(model)
    return made, TaskInfo(made.name, why, guessed, made.names is not None)
