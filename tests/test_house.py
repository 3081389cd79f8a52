"""The house rules that a machine can hold: sizes, arguments, names, rooms, docstrings, ignored types, no pickle."""

from __future__ import annotations

import ast
import functools
import itertools
import re
import sys
from collections import Counter
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import grimp
import pytest

ROOT = Path(__file__).parents[1]
SOURCES = sorted((ROOT / "scene4d").rglob("*.py"))
NATIVE = sorted(p for p in (ROOT / "cuda_ext").rglob("*") if p.suffix in {".h", ".cpp", ".cu", ".txt"})
SCRIPTS = sorted((ROOT / "scripts").iterdir())
# Signatures that a library calls by position.
FIXED_BY_A_LIBRARY = {
    "scene4d/apps/agent/server/http_server.py:send_error": "http.server",
    "scene4d/native/nearest.py:_backward": "torch.library",
    "scene4d/native/nearest.py:_setup_context": "torch.library",
    "scene4d/native/ops.py:_setup_context": "torch.library",
}

# Modules of networks, whose names begin the names of the tensors in a weights file.
KEYS_IN_WEIGHTS = {
    "scene4d/models/gaussian_flow/model.py:intent",
    "scene4d/policy/head.py:aim",
    "scene4d/policy/head.py:aimed",
}
FORBIDDEN_NAMES = {"utils", "common", "misc", "helpers", "base", "core", "manager"}
FORBIDDEN_WORDS = {
    *("told", "said", "matter", "thing", "things", "way", "ways", "door", "settle", "lining", "backdrop", "sweep"),
    *("birth", "bury", "sight", "intent", "aim", "aimed", "eyes", "seek", "seeker", "worlds", "trust", "hang", "twins"),
    "bear",
}
ALLOWED_PHRASES = ({"plane", "sweep"}, {"camera", "to", "worlds"})  # the second is nerfstudio's
MAX_LINES, MAX_FUNCTION, MAX_ARGUMENTS, MAX_POSITIONAL, MAX_ROOM, MAX_IGNORED = 400, 80, 8, 2, 9, 20
SHARED_FILE_NAMES = {"__init__", "model", "loss", "family"}
FULL_ROOMS = {"scene4d", "scene4d/data/formats", "scene4d/gaussians/formats", "scene4d/apps/verbs"}


def _name(path: Path) -> str:
    return str(path.relative_to(ROOT))


@functools.cache
def _tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


def _functions(path: Path):
    return [n for n in ast.walk(_tree(path)) if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)]


@pytest.mark.parametrize("path", [*SOURCES, *NATIVE, *SCRIPTS], ids=_name)
def test_file_is_short(path):
    assert len(path.read_text().splitlines()) <= MAX_LINES


@pytest.mark.parametrize("path", SOURCES, ids=_name)
def test_functions_are_short(path):
    long = {f.name: f.end_lineno - f.lineno + 1 for f in _functions(path) if f.end_lineno - f.lineno + 1 > MAX_FUNCTION}
    assert not long


def _arguments(path: Path) -> Iterator[tuple[str, int, int]]:
    """(function, positional arguments, all arguments) of every function and method, self and cls not counted."""

    def visit(node: ast.AST, in_class: bool) -> Iterator[tuple[str, int, int]]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
                static = any(isinstance(d, ast.Name) and d.id == "staticmethod" for d in child.decorator_list)
                own = in_class and not static
                positional = len(child.args.posonlyargs) + len(child.args.args) - own
                yield f"{_name(path)}:{child.name}", positional, positional + len(child.args.kwonlyargs)
            # An `if` in a class still holds methods; a function in a method is none.
            scope = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
            yield from visit(child, isinstance(child, ast.ClassDef) or (in_class and not scope))

    return visit(_tree(path), False)


def test_functions_take_few_arguments():
    many = {name for path in SOURCES for name, _, count in _arguments(path) if count > MAX_ARGUMENTS}
    assert not many, "a ninth argument means a missing noun"


def test_at_most_two_arguments_are_positional():
    found = {name for path in SOURCES for name, count, _ in _arguments(path) if count > MAX_POSITIONAL}
    assert found == set(FIXED_BY_A_LIBRARY)


def _words(name: str) -> list[str]:
    parts = [word for part in name.split("_") for word in re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+", part)]
    return [part.lower() for part in parts]


def _forbidden(name: str) -> bool:
    words = _words(name)
    if ("take", "in") in itertools.pairwise(words):
        return True
    bad = FORBIDDEN_WORDS.intersection(words)
    return any(not any({word, *words} >= phrase and word in phrase for phrase in ALLOWED_PHRASES) for word in bad)


def _named(path: Path) -> Iterator[str]:
    """Names that others see: of the module, its classes and functions, their arguments and attributes.

    Fields of configurations and options are left out: they are keys in the files of users.
    """
    yield path.stem
    for node in ast.walk(_tree(path)):
        match node:
            case ast.ClassDef(name=name, body=body):
                yield name
                if not name.endswith(("Config", "Options")):
                    yield from (
                        n.target.id for n in body if isinstance(n, ast.AnnAssign) and isinstance(n.target, ast.Name)
                    )
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name):
                yield name
            case ast.arg(arg=name):
                yield name
            case ast.Attribute(attr=name, ctx=ast.Store()):
                yield name


def test_names_are_words_of_the_field():
    found = {f"{_name(path)}:{name}" for path in SOURCES for name in _named(path) if _forbidden(name)}
    assert found == KEYS_IN_WEIGHTS


@pytest.mark.parametrize(
    ("name", "forbidden"),
    [
        ("told_goal", True), ("GoalSeeker", True), ("BearRight", True), ("take_in_stage", True), ("sweep_width", True),
        ("plane_sweep", False), ("PlaneSweepConfig", False), ("bearing", False), ("camera_to_worlds", False),
        ("intake", False), ("thinning", False),
    ],
)  # fmt: skip
def test_a_word_is_found_in_a_name(name, forbidden):
    assert _forbidden(name) == forbidden


def test_no_room_is_crowded():
    entries = Counter(str(path.parent.relative_to(ROOT)) for path in SOURCES if path.stem != "__init__")
    rooms = {path.parent for path in SOURCES}
    entries.update(str(room.parent.relative_to(ROOT)) for room in rooms if room != ROOT / "scene4d")
    assert {room for room, count in entries.items() if count > MAX_ROOM} <= FULL_ROOMS


def test_no_files_import_in_a_circle():
    graph = grimp.build_graph("scene4d", cache_dir=None)  # what is imported for type checkers alone counts too
    imports = {module: graph.find_modules_directly_imported_by(module) for module in graph.modules}
    assert len(imports) > 300
    assert len(list(TopologicalSorter(imports).static_order())) == len(imports)  # CycleError names the circle


def test_no_two_modules_share_a_name():
    counts = Counter(path.stem for path in SOURCES)
    assert {name for name, count in counts.items() if count > 1} <= SHARED_FILE_NAMES


def test_types_are_ignored_seldom_and_with_a_reason():
    ignored = [
        (_name(path), reason)
        for path in SOURCES
        for reason in re.findall(r"# (?:type|pyright): ignore(?:\[[\w, -]*\])?(.*)", path.read_text())
    ]
    bare = Counter(name for name, reason in ignored if not re.search(r"\w", reason))
    assert not bare, "an ignored line says why"
    assert len(ignored) <= MAX_IGNORED


@pytest.mark.parametrize("path", SOURCES, ids=_name)
def test_file_names_mean_something(path):
    assert path.stem not in FORBIDDEN_NAMES and not path.stem.endswith("_v2")


@pytest.mark.parametrize("path", SOURCES, ids=_name)
def test_what_is_public_is_documented(path):
    tree = _tree(path)
    bare = [] if ast.get_docstring(tree) else ["module"]
    for node in tree.body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef) and not node.name.startswith("_"):
            bare += [] if ast.get_docstring(node) else [node.name]
    assert not bare


@pytest.mark.parametrize("path", SOURCES, ids=_name)
def test_nothing_unpickles(path):
    for node in ast.walk(_tree(path)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = {getattr(node, "module", None), *(alias.name for alias in node.names)}
            assert not names & {"pickle", "dill", "joblib", "shelve"}
        if isinstance(node, ast.Call):
            assert ast.unparse(node.func) != "torch.load"
            assert not any(k.arg == "allow_pickle" and ast.unparse(k.value) != "False" for k in node.keywords)


def test_videos_are_opened_in_one_place():
    """Elsewhere a name could be taken for a protocol, and a playlist for a video."""
    opened = {
        _name(path)
        for path in SOURCES
        for node in ast.walk(_tree(path))
        if (isinstance(node, ast.Call) and ast.unparse(node.func).startswith(("av.open", "av.container")))
        or (isinstance(node, ast.ImportFrom) and re.fullmatch(r"av(\.(?!error$).*)?", node.module or ""))
    }
    assert opened == {"scene4d/data/video/video_file.py"}


# The second opens tables of splats, which are no pictures, by the WebP decoder alone.
OPEN_PICTURES = ("scene4d/data/video/images.py", "scene4d/gaussians/formats/webp_table.py")


@pytest.mark.parametrize("path", [p for p in SOURCES if _name(p) not in OPEN_PICTURES], ids=_name)
def test_pictures_are_opened_in_one_place(path):
    """Where only the decoders that start no program are reached."""
    for node in ast.walk(_tree(path)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            modules = {getattr(node, "module", None) or "", *(alias.name for alias in node.names)}
            assert not {module.split(".")[0] for module in modules} & {"imageio", "cv2", "matplotlib", "skimage"}
            assert getattr(node, "module", None) != "PIL.Image", "a bare open() of it would not be seen"
        if isinstance(node, ast.Call):
            assert ast.unparse(node.func) not in ("Image.open", "PIL.Image.open")


@pytest.mark.parametrize("path", [*SOURCES, *NATIVE, *SCRIPTS], ids=_name)
def test_nothing_is_left_unfinished(path):
    assert not re.search(r"\b(TODO|FIXME|XXX)\b|NotImplementedError\(\)|not implemented yet", path.read_text())


def test_libraries_that_are_imported_are_dependencies():
    """Others are loaded by `scene4d.extras.optional`, which names their extra; some rooms live with theirs only."""
    known = {"torch", "numpy", "PIL", "av", "pyarrow", "safetensors", "rich", "kornia", "scene4d", "_typeshed"}
    extras = {"sim": {"mujoco", "metaworld"}, "env": {"gymnasium"}, "hdf5": {"h5py"}, "viewer": {"websockets"}}
    for path in SOURCES:
        allowed = known | sys.stdlib_module_names | set().union(*(extras.get(part, set()) for part in path.parts))
        for node in ast.walk(_tree(path)):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) and not node.level else []
            assert {name.split(".")[0] for name in names} <= allowed, f"{path}: {names}"


def test_one_version():
    import scene4d

    assert f'version = "{scene4d.__version__}"' in (ROOT / "pyproject.toml").read_text()
