"""A model's C as a package: one layout that CMake, Zephyr (as a module) and Arduino (as a library) take as it is."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping

from tflite2q.micro.program import Program
from tflite2q.version import __version__

EPOCH = (1980, 1, 1, 0, 0, 0)  # equal packages for equal models


def places(stem: str) -> list[str]:
    """Where files lie in the package of a model whose files are called `stem`."""
    return ["CMakeLists.txt", "zephyr/module.yml", "library.properties", f"src/{stem}.c", f"src/{stem}.h"]


def contents(program: Program, text: str, header: str) -> Mapping[str, str]:
    """Texts by their place in the package."""
    stem, name = program.stem, program.name
    quoted = f'"src/{stem}.c"'
    texts = (
        (
            "# add_subdirectory(...) and link with it; in Zephyr, add this folder to ZEPHYR_EXTRA_MODULES.\n"
            f"if(DEFINED ZEPHYR_BASE)\n  zephyr_library_named({name})\n  zephyr_library_sources({quoted})\n"
            "  zephyr_include_directories(src)\nelse()\n  cmake_minimum_required(VERSION 3.13)\n"
            f"  project({name} C)\n  add_library({name} STATIC {quoted})\n"
            f"  target_include_directories({name} PUBLIC src)\n  target_compile_options({name} PRIVATE -O3)\nendif()\n"
        ),
        f"name: {name}\nbuild:\n  cmake: .\n",
        (
            f"name={name}\nversion={__version__.split('.dev')[0]}\nauthor=tflite2q\nmaintainer=tflite2q\n"
            f"sentence=A neural network as C.\nparagraph=Made by tflite2q {__version__}.\ncategory=Data Processing\n"
            f"url=\narchitectures=*\nincludes={stem}.h\n"
        ),
        text,
        header,
    )
    return dict(zip(places(stem), texts, strict=True))


def archive(program: Program, text: str, header: str) -> bytes:
    """The package as a zip file, in a folder of the model's name."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as packed:
        for place, content in contents(program, text, header).items():
            packed.writestr(zipfile.ZipInfo(f"{program.stem}/{place}", EPOCH), content, zipfile.ZIP_DEFLATED)
    return stream.getvalue()
