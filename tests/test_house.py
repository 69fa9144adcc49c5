"""The arrows between the rooms (DESIGN.md, section 2), and a few rules of the house, read from the source without running it.

A new file is a decision: give it a line in the tables below.
"""

import ast
import functools
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

pytestmark = pytest.mark.core

ROOT = Path(__file__).parents[1]

GROUND = {"core", "allowed", "grammar", "task", "film_reviews"}
MIDDLE = GROUND | {"tokenizers", "prompts", "language_models", "constraints", "responders", "scorers", "episodes", "toy"}
FACES = MIDDLE | {"env", "vector"}
TOP = FACES | {"wrappers", "recording", "oracle", "suite"}

# Who may import whom inside textgym: room -> the rooms that it may import. A package (scorers) is one room.
TEXTGYM: dict[str, set[str]] = {
    "core": set(),
    "grammar": {"core"},
    "allowed": {"core"},
    "task": {"core", "allowed"},
    "film_reviews": {"core", "grammar", "task"},
    **dict.fromkeys(("tokenizers", "prompts", "language_models", "responders", "episodes"), GROUND),
    **dict.fromkeys(("constraints", "scorers"), GROUND | {"language_models"}),
    "toy": GROUND | {"tokenizers", "prompts", "episodes"},  # the token tasks are text tasks
    "env": {"core"},
    "laws": set(),  # it judges strangers, through Gymnasium alone
    "vector": {"core"},
    **dict.fromkeys(("wrappers", "oracle", "suite"), FACES),
    "recording": FACES | {"__init__"},  # for the version, inside a function
    "__init__": TOP,
    "commands": TOP | {"__init__", "laws"},
    "__main__": TOP | {"__init__", "laws", "commands"},
}

ALGORITHMS = {"sft", "policy_gradient", "a2c", "ppo"}
MAY_IMPORT_TEXTGYM = {"__main__", "adapters", "report", "recipes"}
# Inside agents: the rooms whose arrows the design draws. What is not listed may not import an algorithm, or what stands on top of them.
AGENTS: dict[str, set[str]] = {
    "rollout": set(),
    "choices": set(),
    "timing": set(),
    "losses": set(),
    "kl": {"rollout", "choices"},
    "prompting": {"rollout"},
    "conformance": set(),  # it judges strangers, by arithmetic of its own
    "advantages": {"rollout", "choices"},
}
ON_TOP = MAY_IMPORT_TEXTGYM | {"__init__"}
NO_TORCH = {"rollout", "choices", "kl", "prompting", "advantages"}  # pure NumPy

GLOBAL_SEEDS = {"np.random.seed", "numpy.random.seed", "random.seed", "torch.manual_seed", "torch.seed", "torch.cuda.manual_seed", "torch.cuda.manual_seed_all"}
NUMPY_RANDOM = {"default_rng", "Generator", "SeedSequence", "BitGenerator", "PCG64", "PCG64DXSM", "Philox", "SFC64", "MT19937"}
TORCH_DRAWS = {f"torch.{name}" for name in ("rand", "randn", "randint", "randperm", "multinomial", "normal", "bernoulli")}
SEEDING = "agents/policies/seeding.py"


@functools.cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


def sources(*folders: str) -> list[Path]:
    return sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def room(path: Path) -> str:
    return path.relative_to(ROOT).with_suffix("").parts[1]


def is_room(package: str, part: str) -> bool:
    return (ROOT / package / f"{part}.py").exists() or (ROOT / package / part).is_dir()


def targets(path: Path, node: ast.stmt) -> Iterator[str]:
    """The absolute dotted names that an import statement reaches for; `from . import x` reaches for package.x."""
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        package = list(path.relative_to(ROOT).parts[:-1])
        prefix = package[: len(package) - node.level + 1] if node.level else []
        module = ".".join([*prefix, *([node.module] if node.module else [])])
        yield from (f"{module}.{alias.name}" for alias in node.names)


def imports(path: Path) -> Iterator[tuple[str, str, int]]:
    """(top-level package, room in it or "", line) of every import in a file, at any depth, those for type checking included."""
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            for target in targets(path, node):
                parts = target.split(".")
                inner = parts[1] if len(parts) > 1 else ""
                ours = parts[0] in ("textgym", "agents")
                yield parts[0], (inner if is_room(parts[0], inner) else "__init__") if ours else inner, node.lineno


def dotted(node: ast.expr) -> str:
    if isinstance(node, ast.Attribute):
        return f"{dotted(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else "?"


def report(broken: list[str]) -> None:
    assert not broken, "\n".join(["The house has rules (tests/test_house.py, DESIGN.md section 2):", *dict.fromkeys(broken)])


def test_there_is_something_to_read():
    assert len(sources("textgym")) > 2
    assert len(sources("agents")) > 2


def test_every_room_of_textgym_is_in_the_table():
    report([f"{name(path)}: not in the table TEXTGYM; say there what it may import" for path in sources("textgym") if room(path) not in TEXTGYM])


def test_arrows_of_textgym():
    broken = []
    for path in sources("textgym"):
        for package, inner, line in imports(path):
            if package == "textgym" and inner != room(path) and inner not in TEXTGYM.get(room(path), set()):
                broken.append(f"{name(path)}:{line} imports textgym.{inner}, which {room(path)} may not")
    report(broken)


def test_textgym_imports_none_of_the_others():
    others = {"agents", "benchmarks", "tests"}
    report([f"{name(path)}:{line} imports {package}" for path in sources("textgym") for package, _, line in imports(path) if package in others])


def test_only_the_ends_of_agents_import_textgym():
    broken = []
    for path in sources("agents"):
        for package, _, line in imports(path):
            if package == "textgym" and room(path) not in MAY_IMPORT_TEXTGYM:
                broken.append(f"{name(path)}:{line} imports textgym; meet it through Gymnasium")
            if package in ("benchmarks", "tests"):
                broken.append(f"{name(path)}:{line} imports {package}")
    report(broken)


def test_agents_uses_relative_imports_inside():
    """Another well-known package is called agents: an absolute import could find that one."""
    broken = []
    for path in sources("agents"):
        for node in ast.walk(tree(path)):
            absolute = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            absolute += [node.module or ""] if isinstance(node, ast.ImportFrom) and not node.level else []
            broken += [f"{name(path)}:{node.lineno} imports {target}" for target in absolute if target.split(".")[0] == "agents"]
    report(broken)


def test_arrows_of_agents():
    broken = []
    for path in sources("agents"):
        here = room(path)
        for package, inner, line in imports(path):
            if package != "agents" or inner == here or here in ON_TOP:
                continue
            if here in AGENTS and inner not in AGENTS[here]:
                broken.append(f"{name(path)}:{line} imports agents.{inner}; {here} may import {sorted(AGENTS[here])}")
            elif inner in ALGORITHMS:
                broken.append(f"{name(path)}:{line} imports the algorithm {inner}; algorithms stand alone")
            elif inner in ON_TOP:
                broken.append(f"{name(path)}:{line} imports agents.{inner}, which stands above it")
    report(broken)


def test_the_estimators_are_pure_numpy():
    report(
        [
            f"{name(path)}:{line} imports torch"
            for path in sources("agents")
            if room(path) in NO_TORCH
            for package, _, line in imports(path)
            if package == "torch"
        ]
    )


def test_autoreset_is_one_files_business():
    allowed = {"textgym/vector.py", "agents/play.py"}
    report([name(path) for path in sources("textgym", "agents") if name(path) not in allowed and "AutoresetMode" in path.read_text(encoding="utf-8")])


def draws(path: Path) -> Iterator[str]:
    """Every call in a file that seeds or reads a global generator."""
    for node in ast.walk(tree(path)):
        if not isinstance(node, ast.Call):
            continue
        called = dotted(node.func)
        generator = any(keyword.arg == "generator" for keyword in node.keywords)
        owner, _, attribute = called.rpartition(".")
        if (
            (called in GLOBAL_SEEDS and name(path) != SEEDING)
            or (owner in ("np.random", "numpy.random") and attribute not in NUMPY_RANDOM)
            or (owner == "random" and attribute not in ("Random", "SystemRandom"))
            or (called in TORCH_DRAWS and not generator and not name(path).startswith("agents/policies/"))  # weight initialisation, inside `seeded`
        ):
            yield f"{name(path)}:{node.lineno} calls {called}"


def test_no_global_generators():
    report([found for path in sources("textgym", "agents") for found in draws(path)])


def test_where_the_global_seed_is_set_it_is_put_back():
    path = ROOT / SEEDING
    if path.exists() and "manual_seed" in path.read_text(encoding="utf-8"):
        assert "fork_rng" in path.read_text(encoding="utf-8")


def test_functions_fit_on_a_page():
    broken = []
    for path in sources("textgym", "agents", "benchmarks"):
        for node in ast.walk(tree(path)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.end_lineno and node.end_lineno - node.lineno >= 60:
                broken.append(f"{name(path)}:{node.lineno} {node.name} is {node.end_lineno - node.lineno + 1} lines long, and 60 are the limit")
    report(broken)


def test_no_paths_of_one_machine():
    """A tracked text file never names a folder that exists on its author's machine only."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode:
        pytest.skip("not a git checkout: nothing is tracked")
    pattern = re.compile(r"(?<![\w.:/}~-])/(home|root|work|Users|mnt|scratch)/\w|\b[A-Z]:\\Users\\")
    broken = []
    for path in (ROOT / part for part in listed.stdout.split("\0") if part):
        try:
            lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
        except UnicodeDecodeError:
            continue  # not text
        broken += [f"{name(path)}:{number} {line.strip()[:80]}" for number, line in enumerate(lines, 1) if pattern.search(line)]
    report(broken)


LIGHT = """
import sys
import gymnasium
import textgym
gymnasium.make("TextGen-v0").reset(seed=0)
heavy = {"torch", "transformers", "stable_baselines3", "pandas", "matplotlib", "scipy", "agents"} & set(sys.modules)
sys.exit(f"loaded {sorted(heavy)}" if heavy else 0)
"""


def test_making_an_environment_loads_no_torch():
    done = subprocess.run([sys.executable, "-c", LIGHT], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_importing_the_policies_loads_none_of_the_librarys_models():
    """They take as long as all the rest, and most commands need none, or only later."""
    pytest.importorskip("torch")
    code = "import sys, agents.policies; sys.exit('transformers.modeling_utils' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
