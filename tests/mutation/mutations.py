"""Mistakes that must not pass: what to write in place of what, and tests that have to notice."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Mutation:
    """`wrong` in place of the only `right` in `file`; at least one of `tests` (arguments of pytest) must fail."""

    file: str
    right: str
    wrong: str
    tests: tuple[str, ...]


MUTATIONS = {
    "fixed point rounds once instead of twice": Mutation(
        "tflite2q/arithmetic/rescale.py",
        "return rounding_shift_right(core, core.right_shift(product, int_const(core, 31)), right)",
        "return shift_rounding(core, core.multiply(wide, core.const(m)), 31 + right)",
        ("tests/test_double_rounding.py",),
    ),
    "convolutions pad with something that counts": Mutation(
        "tflite2q/dialect/ops/conv.py",
        "geometry.pad(core, image, 0),",
        "geometry.pad(core, image, 1),",
        ("tests/exactness/test_single_ops.py", "-k", "dozen and CONV_2D-uint8"),
    ),
    "kernels pad with code 0 instead of the zero point": Mutation(
        "tflite2q/kernels/generic/conv.py",
        "contract.x_zero_point",
        "0 * contract.x_zero_point",
        ("tests/kernels/test_kernels_conv.py", "-k", "generic and convolution"),
    ),
    "means round ties down": Mutation(
        "tflite2q/dialect/ops/pool.py",
        "core.const(counts // 2)",
        "core.const((counts - 1) // 2)",
        ("tests/exactness/test_single_ops.py", "-k", "dozen and AVERAGE_POOL_2D"),
    ),
    "scales per channel lie on the first axis, whatever the op": Mutation(
        "tflite2q/rewrites/weights.py",
        "Quantization.per_channel(scales, axis)",
        "Quantization.per_channel(scales, 0)",
        ("tests/rewrites/test_weights.py",),
    ),
    "the smaller of the two operator codes counts": Mutation(
        "tflite2q/flatbuffer/schema.py",
        "number = max(",
        "number = min(",
        ("tests/flatbuffer/test_reader.py", "tests/flatbuffer/test_writer.py"),
    ),
    "bias correction has the wrong sign": Mutation(
        "tflite2q/rewrites/apply.py",
        "[-float(v) for v in (per_filter * split)",
        "[float(v) for v in (per_filter * split)",
        ("tests/rewrites/test_scheme_keys.py", "-k", "bias_correction"),
    ),
    "operator versions stay what they were": Mutation(
        "tflite2q/rewrites/apply.py",
        "version=max(op.version, *changed, 1)",
        "version=max(op.version, 1)",
        ("tests/rewrites/test_versions.py",),
    ),
    "dense layers round in fixed point": Mutation(
        "tflite2q/dialect/ops/dense.py",
        'arithmetic = "float64" if self.rescale == "tflite" else self.rescale',
        'arithmetic = "fixed" if self.rescale == "tflite" else self.rescale',
        ("tests/exactness/test_dense_ties.py",),
    ),
    "int16 has a zero point": Mutation(
        "tflite2q/rewrites/parameters.py",
        "zero_point = 0 if symmetric else low - ",
        "zero_point = 0 if symmetric and low != -32768 else low - ",
        ("tests/rewrites/test_scheme_keys.py", "-k", "int16"),
    ),
    "softmax keeps elements beyond what its fixed point holds": Mutation(
        "tflite2q/dialect/ops/softmax.py",
        "np.where(difference < -radius",
        "np.where(difference < -256 - radius",
        ("tests/dialect/ops/test_softmax.py",),
    ),
    "biases round half down": Mutation(
        "tflite2q/rewrites/biases.py",
        "whole = (2 * abs(over) + under) // (2 * under)",
        "whole = -((under - 2 * abs(over)) // (2 * under))",
        ("tests/rewrites/test_biases.py",),
    ),
    "a percentile is taken of one tail": Mutation(
        "tflite2q/rewrites/statistics.py",
        "tail = (1 - settings.percentile / 100) / 2",
        "tail = 1 - settings.percentile / 100",
        ("tests/rewrites/test_scheme_keys.py", "-k", "activations and percentile"),
    ),
    "compiled epilogues do not correct negative numbers": Mutation(
        "tflite2q/kernels/epilogue.py",
        "return self.right and self.low < self.zero_point",
        "return False",
        ("tests/kernels/test_kernels_conv.py", "-k", "generic and (convolution or multipliers)"),
    ),
}
