"""Where the tensors of a planned function lie."""

from __future__ import annotations

import pytest
from tvm import relax, tirx
from tvm.relax.op import memory

from tflite2q.lower.entry import ALIGNMENT
from tflite2q.lower.sequence import WORKSPACE, Place, plan


def _places(sizes: tuple[int, ...]) -> list[Place]:
    """The places of tensors of so many bytes that lie in one storage one after the other, each filled by a call."""
    builder = relax.BlockBuilder()
    with builder.function("main", []):
        storage = builder.emit(memory.alloc_storage(relax.ShapeExpr([max(sizes)]), 0, "global", "uint8"))
        for size in sizes:
            tensor = builder.emit(memory.alloc_tensor(storage, 0, relax.ShapeExpr([size]), "uint8"))
            target = tirx.decl_buffer((size,), "uint8", "target")
            store = tirx.BufferStore(target, tirx.IntImm("uint8", 0), [0])
            fill = builder.add_func(tirx.PrimFunc([target], store), f"fill{size}")
            builder.emit(relax.Call(fill, [tensor]))
        builder.emit_func_output(builder.emit(relax.Tuple([tensor])))
    module = builder.get()
    found = plan(module, module["main"])
    assert found is not None
    return [place for _, (place,) in found.calls]


@pytest.mark.parametrize("sizes", [(4096, 1024, 2048), (100, 64, 1, 99), (640, 65, 513)])
def test_tensors_of_a_storage_have_the_same_middle(sizes: tuple[int, ...]) -> None:
    """Within a line's length, and none leaves the storage."""
    for size, place in zip(sizes, _places(sizes), strict=True):
        assert place.buffer == WORKSPACE and place.offset % ALIGNMENT == 0
        assert place.offset >= 0 and place.offset + size <= -(-max(sizes) // ALIGNMENT) * ALIGNMENT
        assert abs(place.offset + size / 2 - max(sizes) / 2) <= ALIGNMENT
