"""What is learned and measured: the task values, where their rows come from, and their metrics."""

from peft_stilts.tasks.base import FORMS, TASKS, RowFilter, Split, Task
from peft_stilts.tasks.intermediate import INTERMEDIATE
from peft_stilts.tasks.xtreme import NOT_COMPARABLE, TARGETS

__all__ = ["FORMS", "INTERMEDIATE", "NOT_COMPARABLE", "TARGETS", "TASKS", "RowFilter", "Split", "Task"]
