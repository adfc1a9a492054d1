"""What an executable is compiled from: the graph, the target, and the stages between them and machine code."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tflite2q.dialect.graph import Graph
from tflite2q.dialect.text import digest
from tflite2q.errors import TargetError
from tflite2q.execution import libraries, manifest
from tflite2q.execution.manifest import Manifest
from tflite2q.lower import targets
from tflite2q.version import __version__

if TYPE_CHECKING:
    from tflite2q.lower.build import Built
    from tflite2q.lower.codegen import Objects
    from tflite2q.lower.graph import Lowered


@dataclass(frozen=True)
class Source:
    """What an executable is compiled from; each stage is made when it is asked for."""

    graph: Graph
    named: targets.Target
    target: Any  # the same as a tvm.target.Target
    use_kernels: bool
    exec_mode: str

    @cached_property
    def key(self) -> str:
        """The name of the library in the cache."""
        from tflite2q.lower.target import features

        facts = {
            "graph": digest(self.graph),
            "target": [self.named.name, self.named.spec, str(self.target), sorted(features(self.target))],
            "options": [self.use_kernels, self.exec_mode],
            "tvm": metadata.version("apache-tvm"),
        }
        return libraries.key(facts)

    @property
    def triple(self) -> str:
        """LLVM's triple of the target, also of this machine."""
        return str(self.target.attrs["mtriple"])

    @cached_property
    def lowered(self) -> Lowered:
        from tflite2q.lower.graph import lower

        return lower(self.graph, self.target, self.use_kernels)

    @cached_property
    def description(self) -> Manifest:
        from tflite2q.lower.target import features

        return Manifest(
            __version__,
            self.graph.name,
            self.named.name,
            {**self.named.spec, "mtriple": self.triple},
            tuple(sorted(features(self.target) & targets.instruction_features())),
            manifest.bare([self.graph[name] for name in self.graph.inputs]),
            manifest.bare([self.graph[name] for name in self.graph.outputs]),
            tuple((choice.op, choice.kernel) for choice in self.lowered.choices),
            manifest.initial_states(self.graph),
        )

    @cached_property
    def built(self) -> Built:
        if not self.linked:
            return self._built()
        from tflite2q.lower.build import EXEC_MODES
        from tflite2q.lower.codegen import Objects
        from tflite2q.lower.graph import lower

        with Objects(self.target) as objects:
            if self.exec_mode == EXEC_MODES[0]:  # kernels are compiled meanwhile, always in this order
                vars(self)["lowered"] = lower(self.graph, self.target, self.use_kernels, objects.add)
            return self._built(objects)

    @cached_property
    def linked(self) -> bool:
        """Whether the code becomes a library, before it is run here, and not machine code in memory."""
        from tflite2q.lower.link import linker

        try:
            linker(self.named.spec.get("mtriple"))
        except TargetError:
            return False
        return libraries.place() is not None

    def in_memory(self) -> Any:
        """An executable that can be run as it is."""
        return (self._built() if self.linked else self.built).executable

    def _built(self, objects: Objects | None = None) -> Built:
        from tflite2q.lower.build import build

        return build(self.lowered.module, self.target, self.exec_mode, self.description.encode(), objects)

    def export(self, path: Path) -> None:
        """Write the library, in the form that the ending of `path` says, sealed."""
        from tflite2q.lower.export import export

        export(self.built.executable, str(path), self.named.spec.get("mtriple"))
        manifest.seal(path)
