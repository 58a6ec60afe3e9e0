"""The notebooks run from top to bottom, with settings that learn nothing, and have been run with real ones."""

import re
from pathlib import Path

import pytest
from pages import ROOT

SHORT = {"train_and_dream": "240", "inside_the_world_model": "", "on_the_device": "480"}
"""How long they train here, instead of as long as they say; the second one looks at the first one's run."""
NOTEBOOKS = [ROOT / "notebooks" / f"{name}.ipynb" for name in SHORT]


def test_these_are_all():
    assert sorted((ROOT / "notebooks").glob("*.ipynb")) == sorted(NOTEBOOKS)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_outputs_are_kept_and_small(path):
    nbformat = pytest.importorskip("nbformat", reason="pip install -e '.[docs]'")
    cells = [cell for cell in nbformat.read(path, 4).cells if cell.cell_type == "code"]
    shown = [cell for cell in cells if re.search(r"plt\.show\(\)|^\s*print\(", cell.source, flags=re.MULTILINE)]
    assert len(shown) >= 4 and all(cell.outputs for cell in shown)
    assert not any(output.output_type == "error" for cell in cells for output in cell.outputs)
    assert path.stat().st_size < 300_000


@pytest.mark.parametrize("paths", [NOTEBOOKS[:2], NOTEBOOKS[2:]], ids=lambda paths: paths[0].stem)
def test_they_run(paths, tmp_path, monkeypatch):
    nbclient = pytest.importorskip("nbclient", reason="pip install -e '.[docs]'")
    import nbformat

    if paths == NOTEBOOKS[2:]:
        pytest.importorskip("gymnax", reason="pip install -e '.[gymnax]'")
    monkeypatch.setenv("XLA_FLAGS", "--xla_backend_optimization_level=0 --xla_cpu_use_fusion_emitters=false")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    for path in paths:
        notebook = nbformat.read(path, 4)
        (parameters,) = [cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", ())]
        assert '"../' in parameters.source
        source = re.sub(r"\d{4,}", SHORT[path.stem], parameters.source)
        parameters.source = source.replace('"../', f'"{ROOT}/')
        nbclient.NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(tmp_path)}}).execute()
    if paths == NOTEBOOKS[:2]:
        assert Path(tmp_path, "pendulum.msgpack").stat().st_size > 10_000
