"""The examples that are whole applications: one of several modules, one on the web."""

import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
from starlette.testclient import TestClient

from flowmesh.cli import main
from flowmesh.testing import BACKENDS
from flowmesh.testing.virtual import Backend

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.mark.parametrize("backend", BACKENDS)
def test_shop(backend: Backend, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """`flowmesh run` finds the parts beside the file; every order is registered, charged or rejected, and thanked for."""
    for name in ("app", "billing", "desk", "letters"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.setattr(sys, "path", list(sys.path))
    code = main(["run", str(EXAMPLES / "shop" / "app.py"), "--backend", backend])
    for name in ("app", "billing", "desk", "letters"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    printed = capsys.readouterr().out
    assert code == 0
    assert sorted(line for line in printed.splitlines() if line.startswith("thank you")) == [
        "thank you, ada, for 12.00",
        "thank you, ada, for 30.00",
        "thank you, bob, for 4.50",
    ]
    assert "an amount of -1.00" in printed


def test_no_module_of_the_shop_imports_the_mesh() -> None:
    """Parts know each other; only the application itself knows the mesh."""
    for path in (EXAMPLES / "shop").glob("*.py"):
        assert ("Mesh" in path.read_text()) == (path.stem == "app"), path
        assert "from app" not in path.read_text()


@pytest.mark.parametrize("backend", BACKENDS)
def test_web(backend: Backend, example: Callable[[str], ModuleType], monkeypatch: pytest.MonkeyPatch) -> None:
    """Requests tell and ask the mesh of the application that serves them; what they told is handled before it has ended."""
    web = example("web")
    monkeypatch.setitem(sys.modules, "web", web)
    with TestClient(web.app, backend=backend) as client:
        assert client.get("/texts/ada").json() == 0
        for words in ("to be", "or not to be"):
            response = client.post("/texts/ada", json=words)
            assert (response.status_code, bool(response.json())) == (202, True)
        assert client.get("/texts/ada").json() == 6
        assert client.get("/texts/bob").json() == 0
        client.post("/texts/bob", json="that is the question")
    assert web.counts == {"ada": 6, "bob": 4}
    assert web.mesh.report.exit_code == 0


@pytest.mark.parametrize("backend", BACKENDS)
def test_web_when_it_is_full(backend: Backend, example: Callable[[str], ModuleType], monkeypatch: pytest.MonkeyPatch) -> None:
    """A full mailbox is a 503: the client is told, and nothing waits in the server."""
    web = example("web")
    monkeypatch.setitem(sys.modules, "web", web)
    with TestClient(web.app, backend=backend) as client:
        assert client.portal is not None
        web.count.pause()
        client.portal.call(web.mesh.exchange("").publish_many, [(web.Text("ada", "x"), "count")] * 1000)
        assert client.post("/texts/ada", json="one more").status_code == 503
        client.portal.call(web.count.mailbox.purge)
