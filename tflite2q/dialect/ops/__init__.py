"""All ops of the dialect, in one explicit tuple."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from tflite2q.dialect.op import CONTRACTS, ROLES, Builtin, Op
from tflite2q.dialect.ops.binary import Div, Extremum, FloorDiv, Prelu, SquaredDifference
from tflite2q.dialect.ops.control import If, While
from tflite2q.dialect.ops.conv import Conv2D, DepthwiseConv2D
from tflite2q.dialect.ops.dense import BatchMatmul, Dense
from tflite2q.dialect.ops.detection import DetectionPostprocess
from tflite2q.dialect.ops.eltwise import Add, Dequantize, Mul, Requantize
from tflite2q.dialect.ops.embedding import EmbeddingLookup
from tflite2q.dialect.ops.hlo import HloBinary, HloCompare, HloConvert, HloSelect, HloUnary
from tflite2q.dialect.ops.hlo_movement import (
    HloBroadcast,
    HloConcat,
    HloDynamicSlice,
    HloDynamicUpdateSlice,
    HloGather,
    HloIota,
    HloPad,
    HloReshape,
    HloSlice,
    HloTranspose,
)
from tflite2q.dialect.ops.hlo_products import HloConvolution, HloDot
from tflite2q.dialect.ops.indices import BroadcastArgs, Bucketize, Range, Unique, Where
from tflite2q.dialect.ops.logic import Compare, Logical, Select
from tflite2q.dialect.ops.lookup import Lookup
from tflite2q.dialect.ops.movement import BroadcastTo, Gather, GatherNd, Pack, Reverse, Split, Tile, Transpose, Unpack
from tflite2q.dialect.ops.normalize import L2Norm, LocalResponse, LogSoftmax
from tflite2q.dialect.ops.numbers import AddN, Bitwise, CumulativeSum, FakeQuant, RealFunction, ZerosLike
from tflite2q.dialect.ops.opaque import Opaque
from tflite2q.dialect.ops.placement import (
    Bitcast,
    Dilate,
    DynamicUpdateSlice,
    MatrixDiag,
    MatrixSetDiag,
    ReverseSequence,
)
from tflite2q.dialect.ops.plain import Cast, Fill, OneHot, ShapeOf
from tflite2q.dialect.ops.pool import AveragePool2D, L2Pool2D, MaxPool2D
from tflite2q.dialect.ops.recurrent import Lstm, Svdf
from tflite2q.dialect.ops.reduce import ArgExtremum, Mean, Product, ReduceExtremum, ReduceLogical, Sum, TopK
from tflite2q.dialect.ops.resize import ResizeBilinear, ResizeNearest
from tflite2q.dialect.ops.scatter import ScatterNd, Segment, SparseToDense
from tflite2q.dialect.ops.sequence import BasicLstm, BidirectionalLstm, BidirectionalRnn, Rnn, SequenceRnn
from tflite2q.dialect.ops.shape import Concat, Pad, Reshape
from tflite2q.dialect.ops.slicing import Slice, StridedSlice
from tflite2q.dialect.ops.softmax import Softmax
from tflite2q.dialect.ops.space import MirrorPad, SpaceBatch, SpaceDepth
from tflite2q.dialect.ops.spectral import ComplexPart, RealTransform
from tflite2q.dialect.ops.state import AssignVariable, ReadVariable
from tflite2q.dialect.ops.suppression import NonMaxSuppression
from tflite2q.dialect.ops.transpose_conv import TransposeConv
from tflite2q.dialect.ops.volume import Conv3D, Conv3DTranspose
from tflite2q.dialect.ops.windows import ReduceWindow

OPS: tuple[type[Op], ...] = (
    Conv2D,
    DepthwiseConv2D,
    TransposeConv,
    Dense,
    BatchMatmul,
    Conv3D,
    Conv3DTranspose,
    AveragePool2D,
    L2Pool2D,
    MaxPool2D,
    ReduceWindow,
    Mean,
    Sum,
    ReduceExtremum,
    Product,
    ReduceLogical,
    ArgExtremum,
    TopK,
    CumulativeSum,
    Add,
    AddN,
    Mul,
    Div,
    FloorDiv,
    SquaredDifference,
    Extremum,
    Prelu,
    Compare,
    Logical,
    Select,
    RealFunction,
    Bitwise,
    FakeQuant,
    Bucketize,
    Lookup,
    Requantize,
    Dequantize,
    Softmax,
    LogSoftmax,
    L2Norm,
    LocalResponse,
    ResizeBilinear,
    ResizeNearest,
    Reshape,
    Transpose,
    Slice,
    StridedSlice,
    Split,
    Concat,
    Pack,
    Unpack,
    Gather,
    GatherNd,
    EmbeddingLookup,
    Tile,
    BroadcastTo,
    Reverse,
    ReverseSequence,
    DynamicUpdateSlice,
    ScatterNd,
    SparseToDense,
    Segment,
    MatrixDiag,
    MatrixSetDiag,
    Dilate,
    Bitcast,
    SpaceDepth,
    SpaceBatch,
    Pad,
    MirrorPad,
    Cast,
    ShapeOf,
    Fill,
    ZerosLike,
    Range,
    BroadcastArgs,
    Where,
    Unique,
    OneHot,
    Lstm,
    Svdf,
    ReadVariable,
    AssignVariable,
    Rnn,
    SequenceRnn,
    BidirectionalRnn,
    BidirectionalLstm,
    BasicLstm,
    DetectionPostprocess,
    NonMaxSuppression,
    RealTransform,
    ComplexPart,
    HloUnary,
    HloBinary,
    HloCompare,
    HloSelect,
    HloConvert,
    HloReshape,
    HloTranspose,
    HloBroadcast,
    HloSlice,
    HloConcat,
    HloIota,
    HloPad,
    HloDynamicSlice,
    HloDynamicUpdateSlice,
    HloGather,
    HloDot,
    HloConvolution,
    If,
    While,
    Opaque,
)


def check(ops: Sequence[type[Op]]) -> None:
    """Raise TypeError where a class names a role or a contract that nobody knows, or repeats another's name."""
    mnemonics: set[str] = set()
    builtins: set[str] = set()
    for op in ops:
        for slot in op.operands:
            if slot.role not in ROLES:
                raise TypeError(f"{op.mnemonic}: operand {slot.name} has the unknown role {slot.role!r}")
        names = [slot.name for slot in op.operands]
        if len(set(names)) < len(names):
            raise TypeError(f"{op.mnemonic}: two operands have the same name")
        if op.contract is not None and op.contract not in CONTRACTS:
            raise TypeError(f"{op.mnemonic} names the unknown contract {op.contract!r}")
        if op.mnemonic in mnemonics:
            raise TypeError(f"two ops are called {op.mnemonic}")
        mnemonics.add(op.mnemonic)
        for builtin in op.builtins:
            if builtin.name in builtins:
                raise TypeError(f"{op.mnemonic}: another op or entry already stands for {builtin.name}")
            builtins.add(builtin.name)


check(OPS)

BY_MNEMONIC: Mapping[str, type[Op]] = {op.mnemonic: op for op in OPS}
BY_BUILTIN: Mapping[str, tuple[type[Op], Builtin]] = {b.name: (op, b) for op in OPS for b in op.builtins}
