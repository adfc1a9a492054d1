"""TFLite's operators that no dialect op stands for: those that go when a model is read, and those that are refused.

`REFUSED` says why, for messages and for docs/ops.md.  Together with the dialect's ops they are all operators of the
schema; a test checks that.
"""

from __future__ import annotations

from collections.abc import Mapping

# Operators that are worked out while a model is read, so that nothing is left of them.
ABSORBED: Mapping[str, str] = {
    "CALL": "the operators that it runs stand in its place",
    "CALL_ONCE": "what it initializes are the first data of variables",
    "DENSIFY": "a sparse constant becomes a dense one; bit for bit",
    "STABLEHLO_COMPOSITE": "the operators that it runs stand in its place",
    "VAR_HANDLE": "the variable itself stands in its place",
}

RANDOM = "its results are random numbers, so there is nothing to compare with"
STRINGS = "it works on strings"
TABLES = "it keeps a table of keys between runs"
REGION = "its computation is another subgraph"
SUBGRAPHS = "it runs other subgraphs"
NO_KERNEL = "no runtime has a kernel for it"

REFUSED: Mapping[str, str] = {
    "CONCAT_EMBEDDINGS": NO_KERNEL,
    "CUSTOM": "only those custom operators are known that the table names",
    "DELEGATE": "it is a part that a delegate has compiled for one machine",
    "EMBEDDING_LOOKUP_SPARSE": "its ragged lookups have a size that depends on the data",
    "HASHTABLE": TABLES,
    "HASHTABLE_FIND": TABLES,
    "HASHTABLE_IMPORT": TABLES,
    "HASHTABLE_LOOKUP": "it finds rows by keys, which may be strings, in a table of any order",
    "HASHTABLE_SIZE": TABLES,
    "LSH_PROJECTION": "it hashes the bytes of its input, which no quantization may change",
    "MULTINOMIAL": RANDOM,
    "PLACEHOLDER_FOR_GREATER_OP_CODES": "it is no operator, but a mark for codes from 127 on",
    "RANDOM_STANDARD_NORMAL": RANDOM,
    "RANDOM_UNIFORM": RANDOM,
    "SKIP_GRAM": STRINGS,
    "STABLEHLO_CASE": SUBGRAPHS,
    "STABLEHLO_CUSTOM_CALL": "it calls a function that only its own runtime knows",
    "STABLEHLO_REDUCE": REGION,
    "STABLEHLO_REDUCE_WINDOW": REGION,
    "STABLEHLO_RNG_BIT_GENERATOR": RANDOM,
    "STABLEHLO_SCATTER": REGION,
    "STABLEHLO_SORT": REGION,
    "STABLEHLO_WHILE": SUBGRAPHS,
}
