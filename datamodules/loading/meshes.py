"""Meshes of others, bounded: vertices and triangles of OBJ, OFF, PLY, STL and glTF files.

Counts that a file declares are compared with its size before anything is allocated, indices with the number
of vertices. Of a scene the triangles of all objects are one mesh; colours, normals and textures are not read,
nor any other file that it names.
"""

from __future__ import annotations

import base64
import json
import math
import struct
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from datamodules.loading.files import one_line
from datamodules.loading.limits import LIFT, limit

Array = np.ndarray[Any, Any]
Mesh = tuple[Array, Array]
SIZE_LIMIT = 2**28
"""Bytes of the largest file that is read: texts take ten times as much in memory;
``ZOO_LIMITS=off`` lifts it."""
COPIES_LIMIT = 10**7
"""Triangles that a glTF scene may show its meshes with."""
_ERRORS = (
    ValueError,
    IndexError,
    KeyError,
    TypeError,
    AttributeError,
    OverflowError,
    RecursionError,
    MemoryError,
    struct.error,
)


def read_mesh(path: Path) -> Mesh:
    """Vertices float64 (V, 3) and triangles int64 (F, 3) of a file, by its suffix; polygons become fans.

    Raises:
        FileNotFoundError, PermissionError, ValueError: one line on a file that cannot be read, holds no
            triangle, or one whose vertices are not finite or not there.
    """
    size = path.stat().st_size
    if size > (most := limit(SIZE_LIMIT)):
        raise ValueError(
            f"{path} has {size:,} bytes, the limit of a mesh is {most:,}; simplify it, or lift the "
            f"limit with {LIFT}=off in the environment"
        )
    try:
        content = path.read_bytes()
    except PermissionError:
        raise PermissionError(f"{path} cannot be opened: no right to read it") from None
    try:
        vertices, faces = READERS[path.suffix.lower()](content)
        if not len(faces):
            raise ValueError("no triangles")
        if faces.min() < 0 or faces.max() >= len(vertices):
            worst = int(faces.min() if faces.min() < 0 else faces.max())
            raise ValueError(f"a face names vertex {worst} of {len(vertices)}")
        if not np.isfinite(vertices[np.unique(faces)]).all():
            raise ValueError("a vertex is NaN or infinite")
    except _ERRORS as error:
        raise ValueError(f"{path} is no mesh that can be read: {_reason(error)}") from None
    return vertices, faces


def _reason(error: Exception) -> str:
    if isinstance(error, IndexError | struct.error):
        return "it ends, or a line of it, before its numbers do"
    if isinstance(error, KeyError):
        return f"{one_line(error)} is missing, or not known"
    if isinstance(error, RecursionError):
        return "its brackets are too deep"
    return one_line(error)


def _fans(polygons: Any) -> Array:
    """Triangles of polygons, each a fan around its first corner."""
    sizes = {len(p) for p in polygons}
    if sizes == {3}:
        return np.array(polygons, dtype=np.int64)
    found = [(p[0], p[i], p[i + 1]) for p in polygons for i in range(1, len(p) - 1)]
    return np.array(found, dtype=np.int64).reshape(-1, 3)


def _numbers(rows: Sequence[Sequence[Any]]) -> Array:
    return np.array(rows, dtype=np.float64).reshape(-1, 3)


def _obj(content: bytes) -> Mesh:
    """Indices begin at 1; a negative one counts back from the last vertex so far."""
    vertices: list[list[bytes]] = []
    polygons: list[list[int]] = []
    for line in content.replace(b"\\\r\n", b" ").replace(b"\\\n", b" ").splitlines():
        words = line.split()
        if not words or words[0] not in (b"v", b"f"):
            continue
        if words[0] == b"v":
            vertices.append(words[1:4])
            continue
        corners = [int(word.split(b"/", 1)[0]) for word in words[1:]]
        if 0 in corners:
            raise ValueError("a face names vertex 0, they begin at 1")
        polygons.append([c - 1 if c > 0 else len(vertices) + c for c in corners])
    if any(len(v) != 3 for v in vertices):
        raise ValueError("a vertex has no three numbers")
    return _numbers(vertices), _fans(polygons)


def _off(content: bytes) -> Mesh:
    lines = [words for line in content.splitlines() if (words := line.split(b"#")[0].split())]
    head = lines[0][0] if lines else b""
    place = head.find(b"OFF")
    if place not in (0, 1, 2, 3) or b"BINARY" in lines[0]:
        raise ValueError("it does not begin with OFF, or is binary")
    # the counts follow, in some sets on the same line, or even glued to the word
    first = [w for w in [head[place + 3 :], *lines.pop(0)[1:]] if w] or lines.pop(0)
    count, polygons = int(first[0]), int(first[1])
    if count < 0 or polygons < 0 or count + polygons > len(lines):
        raise ValueError(f"it claims {count} vertices and {polygons} faces, but has {len(lines)} lines")
    corners = []
    for words in lines[count : count + polygons]:
        size = int(words[0])
        if not 0 <= size < len(words):
            raise ValueError(f"a face claims {size} corners, but has {len(words) - 1}")
        corners.append([int(w) for w in words[1 : size + 1]])
    return _numbers([words[:3] for words in lines[:count]]), _fans(corners)


def _stl(content: bytes) -> Mesh:
    if content[:5] == b"solid" and b"vertex" in content[:2000]:
        rows = [line.split()[1:] for line in content.splitlines() if line.lstrip().startswith(b"vertex")]
        if len(rows) % 3:
            raise ValueError(f"{len(rows)} vertices make no whole triangles")
        corners = _numbers(rows)
    else:
        if len(content) < 84:
            raise ValueError("it is shorter than the header of an STL file")
        (count,) = struct.unpack_from("<I", content, 80)
        if 84 + 50 * count > len(content):
            raise ValueError(f"it claims {count:,} triangles, but has {len(content):,} bytes")
        kind = np.dtype([("normal", "<f4", 3), ("corners", "<f4", (3, 3)), ("rest", "<u2")])
        corners = np.frombuffer(content, kind, count, 84)["corners"].astype(np.float64).reshape(-1, 3)
    return corners, np.arange(len(corners)).reshape(-1, 3)


_PLY_TYPES = {
    name: kind
    for names, kind in (
        ("char int8", "i1"),
        ("uchar uint8", "u1"),
        ("short int16", "i2"),
        ("ushort uint16", "u2"),
        ("int int32", "i4"),
        ("uint uint32", "u4"),
        ("float float32", "f4"),
        ("double float64", "f8"),
    )
    for name in names.split()
}
PlyElement = tuple[str, int, list[tuple[str, str, str]]]
"""Name, count, and (name, type, type of a list's length or nothing) of each property."""


def _ply(content: bytes) -> Mesh:
    end = content.find(b"end_header")
    start = content.find(b"\n", end) + 1
    if content[:3] != b"ply" or end < 0 or not start:
        raise ValueError("it does not begin with the header of a PLY file")
    form, elements = _ply_header(content[:end].decode("ascii", "replace"))
    claimed = sum(count for _, count, _ in elements)
    if claimed > len(content) - start:
        raise ValueError(f"it claims {claimed:,} elements, but has {len(content):,} bytes")
    if form == "ascii":
        found = _ply_ascii(content[start:], elements)
    elif form in ("binary_little_endian", "binary_big_endian"):
        found = _ply_binary(memoryview(content)[start:], elements, "<" if "little" in form else ">")
    else:
        raise ValueError(f"format {form} is none of PLY's")
    vertex, face = found["vertex"], found["face"]
    corners = face["vertex_indices"] if "vertex_indices" in face else face["vertex_index"]
    return np.stack([np.asarray(vertex[k], np.float64) for k in "xyz"], axis=1), _fans(corners)


def _ply_header(text: str) -> tuple[str, list[PlyElement]]:
    form = ""
    elements: list[PlyElement] = []
    for words in (line.split() for line in text.splitlines()):
        if words[:1] == ["format"]:
            form = words[1]
        elif words[:1] == ["element"]:
            elements.append((words[1], int(words[2]), []))
            if elements[-1][1] < 0:
                raise ValueError(f"it claims {words[2]} of {words[1]}")
        elif words[:2] == ["property", "list"]:
            elements[-1][2].append((words[4], _PLY_TYPES[words[3]], _PLY_TYPES[words[2]]))
        elif words[:1] == ["property"]:
            elements[-1][2].append((words[2], _PLY_TYPES[words[1]], ""))
    return form, elements


def _ply_ascii(body: bytes, elements: list[PlyElement]) -> dict[str, dict[str, list[Any]]]:
    lines = iter([words for line in body.splitlines() if (words := line.split())])
    found: dict[str, dict[str, list[Any]]] = {}
    for name, count, properties in elements:
        columns: dict[str, list[Any]] = {key: [] for key, _, _ in properties}
        for _ in range(count):
            words = next(lines, [])
            at = 0
            for key, _, length in properties:
                if length:
                    size = int(words[at])
                    if not 0 <= size <= len(words) - at - 1:
                        raise ValueError(f"a list of {name} claims {size} numbers")
                    columns[key].append([int(float(w)) for w in words[at + 1 : at + 1 + size]])
                    at += 1 + size
                else:
                    columns[key].append(float(words[at]))
                    at += 1
        found[name] = columns
    return found


def _ply_binary(body: memoryview, elements: list[PlyElement], order: str) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    at = 0
    for name, count, properties in elements:
        if not count:
            found[name] = {key: [] for key, _, _ in properties}
            continue
        # lists as long as the first one's are read at once, as nearly all files have them
        kind, lists = _ply_row(body[at:], properties, order), [k for k, _, n in properties if n]
        if at + kind.itemsize * count <= len(body):
            rows = np.frombuffer(body, kind, count, at)
            if all((rows[f"{key} length"] == kind[key].shape[0]).all() for key in lists):
                found[name] = {key: rows[key] for key, _, _ in properties}
                found[name] |= {key: rows[key].astype(np.int64) for key in lists}
                at += kind.itemsize * count
                continue
        if not lists:
            raise ValueError(f"it claims {count:,} of {name}, but has {len(body) - at:,} bytes left")
        found[name], at = _ply_lists(body, at, count, properties, order)
    return found


def _ply_row(body: memoryview, properties: list[tuple[str, str, str]], order: str) -> np.dtype[Any]:
    """The type of a row whose lists are as long as those of the first row."""
    fields: list[Any] = []
    at = 0
    for key, kind, length in properties:
        if length:
            size = int(np.frombuffer(body, order + length, 1, at)[0])
            at += int(length[1])
            if not 0 <= size * int(kind[1]) <= len(body) - at:
                raise ValueError(f"a list claims {size} numbers")
            fields += [(f"{key} length", order + length), (key, order + kind, (size,))]
            at += size * int(kind[1])
        else:
            fields.append((key, order + kind))
            at += int(kind[1])
    return np.dtype(fields)


def _ply_lists(
    body: memoryview, at: int, count: int, properties: list[tuple[str, str, str]], order: str
) -> tuple[dict[str, list[Any]], int]:
    columns: dict[str, list[Any]] = {key: [] for key, _, _ in properties}
    for _ in range(count):
        row = _ply_row(body[at:], properties, order)
        values = np.frombuffer(body, row, 1, at)[0]
        at += row.itemsize
        for key, _, length in properties:
            columns[key].append(values[key].astype(np.int64).tolist() if length else float(values[key]))
    return columns, at


_GLB, _JSON, _BIN = b"glTF", 0x4E4F534A, 0x004E4942
_COMPONENTS = {5120: "<i1", 5121: "<u1", 5122: "<i2", 5123: "<u2", 5125: "<u4", 5126: "<f4"}
_WIDTHS = {"SCALAR": 1, "VEC2": 2, "VEC3": 3, "VEC4": 4, "MAT4": 16}


def _glb(content: bytes) -> Mesh:
    if content[:4] != _GLB:
        raise ValueError("it does not begin with glTF")
    at, text, binary = 12, b"", b""
    while at + 8 <= len(content):
        size, kind = struct.unpack_from("<II", content, at)
        if size > len(content) - at - 8:
            raise ValueError(f"a chunk claims {size:,} bytes, but the file has {len(content):,}")
        part = content[at + 8 : at + 8 + size]
        text, binary = (part if kind == _JSON and not text else text), (part if kind == _BIN else binary)
        at += 8 + size
    return _gltf(text, binary)


def _gltf(content: bytes, binary: bytes = b"") -> Mesh:
    scene = json.loads(content)
    if needed := scene.get("extensionsRequired"):
        raise ValueError(f"it needs the extension {needed[0]}; export it without compression")
    buffers = [_buffer(b, binary) for b in scene.get("buffers", [])]
    vertices: list[Array] = []
    faces: list[Array] = []
    total = vertex = 0
    for matrix, mesh in _shown(scene):
        for primitive in scene["meshes"][mesh]["primitives"]:
            if primitive.get("mode", 4) not in (4, 5, 6):
                continue  # points and lines
            at = _accessor(scene, buffers, primitive["attributes"]["POSITION"], 3)
            index = np.arange(len(at))
            if "indices" in primitive:
                index = _accessor(scene, buffers, primitive["indices"], 1)[:, 0].astype(np.int64)
            corners = _triangles(index, primitive.get("mode", 4))
            total += len(corners) + len(at)
            if total > COPIES_LIMIT:
                raise ValueError(f"its scene shows more than {COPIES_LIMIT:,} triangles and vertices")
            if corners.size and corners.max() >= len(at):
                raise ValueError(f"a face names vertex {corners.max()} of {len(at)}")
            vertices.append(at.astype(np.float64) @ matrix[:3, :3].T + matrix[:3, 3])
            faces.append(corners + vertex)
            vertex += len(at)
    if not faces:
        raise ValueError("no triangles")
    return np.concatenate(vertices), np.concatenate(faces)


def _buffer(buffer: dict[str, Any], binary: bytes) -> bytes:
    where = buffer.get("uri")
    if where is None:
        return binary
    if not where.startswith("data:") or ";base64," not in where:
        raise ValueError("its numbers lie in another file, which is not read; export it as one .glb file")
    return base64.b64decode(where.split(",", 1)[1])


def _accessor(scene: dict[str, Any], buffers: list[bytes], number: int, width: int) -> Array:
    """Numbers (count, width) of an accessor, all of which lie in its buffer."""
    found = scene["accessors"][_natural(number)]
    if "sparse" in found or "bufferView" not in found:
        raise ValueError("sparse accessors are not read; export it without them")
    view = scene["bufferViews"][_natural(found["bufferView"])]
    kind = np.dtype(_COMPONENTS[found["componentType"]])
    if _WIDTHS[found["type"]] != width:
        raise ValueError(f"an accessor of {found['type']} where {width} numbers each are expected")
    count, row = _natural(found["count"]), width * kind.itemsize
    step = _natural(view.get("byteStride", 0)) or row
    start = _natural(view.get("byteOffset", 0)) + _natural(found.get("byteOffset", 0))
    buffer = buffers[_natural(view.get("buffer", 0))]
    if step < row or (count and start + (count - 1) * step + row > len(buffer)):
        raise ValueError(f"an accessor claims {count:,} rows, but its buffer has {len(buffer):,} bytes")
    if not count:
        return np.zeros((0, width))
    strides = (step, kind.itemsize)
    values: Array = np.ndarray((count, width), kind, buffer, start, strides)
    if found.get("normalized") and kind.kind != "f":
        return np.maximum(values / np.iinfo(kind).max, -1.0)
    return values


def _natural(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise ValueError(f"{value!r} where a count or a place is expected")
    return value


def _triangles(index: Array, mode: int) -> Array:
    """Corners (F, 3) of triangles, strips (every second one turned) or a fan."""
    if mode == 4:
        return index[: len(index) // 3 * 3].reshape(-1, 3)
    n = max(len(index) - 2, 0)
    if mode == 6:
        return np.stack([np.repeat(index[:1], n), index[1 : n + 1], index[2 : n + 2]], axis=1)
    found = np.stack([index[:n], index[1 : n + 1], index[2 : n + 2]], axis=1)
    found[1::2] = found[1::2, ::-1]
    return found


def _shown(scene: dict[str, Any]) -> Iterator[tuple[Array, int]]:
    """(matrix to the world, mesh) of every node of the scene; without scenes every mesh as it is."""
    nodes = scene.get("nodes", [])
    if not scene.get("scenes"):
        yield from ((np.eye(4), n) for n in range(len(scene.get("meshes", []))))
        return
    seen: set[int] = set()
    waiting = [(np.eye(4), n) for n in scene["scenes"][_natural(scene.get("scene", 0))].get("nodes", [])]
    while waiting:
        above, number = waiting.pop()
        if _natural(number) in seen:
            raise ValueError(f"node {number} hangs in two places")
        seen.add(number)
        node = nodes[number]
        matrix = above @ _matrix(node)
        if "mesh" in node:
            yield matrix, _natural(node["mesh"])
        waiting += [(matrix, child) for child in node.get("children", [])]


def _matrix(node: dict[str, Any]) -> Array:
    if "matrix" in node:
        return np.array(node["matrix"], np.float64).reshape(4, 4).T  # columns first
    x, y, z, w = map(float, node.get("rotation", (0, 0, 0, 1)))
    length = math.sqrt(x * x + y * y + z * z + w * w)
    if not length > 0:
        raise ValueError("a node's rotation has no length")
    x, y, z, w = (n / length for n in (x, y, z, w))
    found = np.eye(4)
    found[:3, :3] = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
        [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
        [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
    ]
    found[:3, :3] *= np.array(node.get("scale", (1, 1, 1)), np.float64).reshape(3)
    found[:3, 3] = np.array(node.get("translation", (0, 0, 0)), np.float64).reshape(3)
    return found


READERS: dict[str, Callable[[bytes], Mesh]] = {
    ".obj": _obj,
    ".off": _off,
    ".ply": _ply,
    ".stl": _stl,
    ".glb": _glb,
    ".gltf": _gltf,
}
"""Suffix -> vertices and faces of a file's content."""
