"""The layer check on small trees made for it, and on this tree."""

import importlib.util
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def load(name):
    spec = importlib.util.spec_from_file_location(name, ROOT / "tools" / f"{name}.py")
    sys.modules[name] = module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


layers = load("check_layers")


@pytest.fixture
def tree(tmp_path):
    """A function that writes modules and gives the problems, without those of the documents."""
    def problems(write=True, **files):
        for name, text in {"__init__": "", **files}.items():
            path = tmp_path / "peft_stilts" / (name.replace("__init__", "@").replace("__", "/").replace("@", "__init__")
                                               + ".py")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text('"""One sentence."""\n' + text)
        (tmp_path / "tools").mkdir(exist_ok=True)
        return layers.check(tmp_path, write)
    return problems


def test_this_tree_has_no_upward_or_circular_import():
    assert layers.check_imports(layers.modules(ROOT)) == []


def test_downward_imports_are_fine(tree):
    assert tree(errors="", registry="from peft_stilts.errors import X", tasks__base="from peft_stilts import registry",
                tasks__squad="from .base import Task\nimport os.path") == []


@pytest.mark.parametrize("text", ["import peft_stilts.grid", "from peft_stilts.grid import run",
                                  "from ..grid import run",
                                  "def f():\n    from peft_stilts.grid.run import main"])
def test_an_upward_import_is_found_however_it_is_written(tree, text):
    found = tree(grid____init__="", grid__run="", tasks__base=text)
    assert len(found) == 1 and "peft_stilts/tasks/base.py" in found[0] and "stands above" in found[0], found


def test_order_within_a_layer(tree):
    assert tree(store="", spec="from peft_stilts.store import Store") == []
    assert "stands above" in tree(spec="", store="from peft_stilts import spec")[0]


def test_a_circle_is_told_once_as_its_path(tree):
    found = tree(tasks__a="from peft_stilts.tasks import b", tasks__b="from peft_stilts.tasks import c",
                 tasks__c="def late():\n    import peft_stilts.tasks.a")
    assert found == ["circular import: peft_stilts.tasks.a -> peft_stilts.tasks.b -> peft_stilts.tasks.c "
                     "-> peft_stilts.tasks.a"]


def test_unknown_modules(tree):
    assert "'extra' has no layer" in tree(extra="")[0]


def test_imports_of_what_is_not_there(tree):
    assert "peft_stilts.errrors, which does not exist" in tree(spec="import peft_stilts.errrors")[0]


def test_lengths(tree):
    long = "def f():\n" + "    pass\n" * 75
    found = tree(errors=long, train__loop=long, spec="#\n" * 400)
    assert [p for p in found if "function f has 76 lines, more than 60" in p] and len(found) == 2
    assert any("spec.py: 401 lines" in p for p in found)


def test_docstring_and_documents(tree, tmp_path):
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs/design.md").write_text(f"before\n{layers.BEGIN}old\n{layers.END}\nafter\n")
    assert len(tree(False, errors="")) == 2                     # both documents are out of date
    assert tree(True, errors="") == [] and tree(False, errors="") == []
    design = (tmp_path / "docs/design.md").read_text()
    assert design.startswith("before\n") and design.endswith("after\n") and "| 0 | `errors`" in design
    written = (tmp_path / "docs/map.md").read_text()
    assert "`peft_stilts/errors.py`](../peft_stilts/errors.py) | One sentence." in written
    (tmp_path / "peft_stilts/errors.py").write_text("x = 1\n")
    assert any("begin the docstring" in p for p in layers.check(tmp_path, True))
