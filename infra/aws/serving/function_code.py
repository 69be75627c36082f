"""The code of a Lambda function: FLO's own modules that score a record, and one compiled model.

A linear model needs nothing else. A network also needs NumPy and ONNX Runtime, which are taken from
this installation: so it must be Linux with the processor and the minor version of Python that the
function will have. The same model gives the same bytes. Modules are compiled, since a function's
folder cannot be written to and each cold start would compile them again.
"""

from __future__ import annotations

import importlib.metadata
import io
import json
import py_compile
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import flo
from flo.errors import UsageError

_PROGRAM, HANDLER = "flo_handler.py", "flo_handler.handle"
MOST_UNPACKED = 250 << 20  # AWS Lambda quotas: "Deployment package size"
MOST_SENT = 50 << 20  # of a package that is sent with the request itself
_MODULES = (
    "__init__.py",
    "scoring/__init__.py",
    "scoring/compiled.py",
    "scoring/curve.py",
    "scoring/record.py",
    "scoring/request.py",
    "study/__init__.py",
    "study/cell_rules.py",
)
_OF_ARRAYS = ("arrays.py", "scoring/network.py", "study/features.py", "study/scattering.py")
_NOT_NEEDED = (  # of the libraries: tests, tools, and what trains or converts
    *("/tests/", "/_pyinstaller/", "/f2py/", "/distutils/", "/include/", "/testing/"),
    *("onnxruntime/tools/", "onnxruntime/transformers/", "onnxruntime/quantization/"),
    *("onnxruntime/datasets/", "onnxruntime/backend/", ".pyi"),
)
_WHEN = (1980, 1, 1, 0, 0, 0)


def function_code(document: dict[str, Any], onnx: bytes = b"") -> bytes:
    """Return the ZIP archive of a function.

    ``document``: of ``flo.published.compile``. ``onnx``: the network, if it is one.

    Raises:
        UsageError: it would be larger than Lambda allows, or a library is not installed here.
    """
    root = Path(flo.__file__).parent
    names = (*_MODULES, *(_OF_ARRAYS if libraries(document, onnx) else ()))
    files = {f"flo/{name}": root / name for name in names}
    files[_PROGRAM] = Path(__file__).with_name("deployed") / _PROGRAM
    files |= dict(_files_of(libraries(document, onnx)))
    packed, size = io.BytesIO(), 0
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        data = {"model.json": json.dumps(document, sort_keys=True).encode()}
        data |= {"model.onnx": onnx} if onnx else {}
        for name, path in sorted(files.items()):
            source = path.read_bytes()
            data[name] = source
            if name.endswith(".py"):
                data[_cached(name)] = _compiled(path, name)
        for name, content in sorted(data.items()):
            member = zipfile.ZipInfo(name, _WHEN)
            member.external_attr = 0o644 << 16  # Lambda's user must be able to read it
            member.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(member, content)
            size += len(content)
    if size > MOST_UNPACKED:
        raise UsageError(
            f"the function would have {size >> 20} MiB, and Lambda allows {MOST_UNPACKED >> 20}",
            hint="deploy it to an endpoint: --on sagemaker",
        )
    return packed.getvalue()


def runtime() -> str:
    """Return the name of Lambda's runtime with this installation's Python."""
    return f"python{sys.version_info.major}.{sys.version_info.minor}"


def libraries(document: dict[str, Any], onnx: bytes) -> tuple[str, ...]:
    """Return the libraries that a function needs beside Python's own."""
    if onnx:
        return ("numpy", "onnxruntime")
    images = any(column["kind"] == "image" for column in document["columns"])
    return ("numpy",) if images else ()


def _files_of(several: tuple[str, ...]) -> Iterator[tuple[str, Path]]:
    for library in several:
        try:
            found = importlib.metadata.files(library) or []
        except importlib.metadata.PackageNotFoundError as error:
            raise UsageError(
                f"a function with a network needs {library}",
                hint="pip install 'flo-federated[onnx]'",
            ) from error
        for file in found:
            name = file.as_posix()
            unwanted = name.startswith("..") or "__pycache__" in name
            if not unwanted and not any(part in name for part in _NOT_NEEDED):
                yield name, Path(str(file.locate()))


def _compiled(path: Path, name: str) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        made = Path(folder) / "compiled.pyc"
        mode = py_compile.PycInvalidationMode.UNCHECKED_HASH
        py_compile.compile(str(path), str(made), dfile=name, doraise=True, invalidation_mode=mode)
        return made.read_bytes()


def _cached(name: str) -> str:
    folder, _, file = name.rpartition("/")
    tag = sys.implementation.cache_tag
    return f"{folder}{'/' if folder else ''}__pycache__/{file.removesuffix('.py')}.{tag}.pyc"
