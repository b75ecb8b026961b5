import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def run(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *command], cwd=ROOT, capture_output=True, text=True)


def test_imports_run_down_only() -> None:
    pytest.importorskip("importlinter")
    result = run("-c", "from importlinter.cli import lint_imports as run; import sys; sys.exit(run(no_cache=True))")
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.parametrize("module", ["mutoscope", "mutoscope.core.config", "mutoscope.apps.cli"])
def test_import_is_quick_because_torch_comes_later(module: str) -> None:
    result = run("-c", f"import sys, {module}; assert not sys.modules.keys() & {{'torch', 'numpy', 'av', 'scipy'}}")
    assert result.returncode == 0, result.stderr


def test_public_face_is_what_all_lists() -> None:
    result = run("-c", "import mutoscope; print([name for name in mutoscope.__all__ if not getattr(mutoscope, name)])")
    assert result.stdout == "[]\n", result.stderr
    result = run("-c", "import mutoscope; mutoscope.something_else")
    assert "module 'mutoscope' has no attribute 'something_else'" in result.stderr
