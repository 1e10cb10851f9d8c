"""The doctor: every finding is there on any machine, offline is said, a dead hub costs seconds, no token is printed."""

import http.server
import threading
from importlib import metadata
from types import SimpleNamespace

import pytest

from peft_stilts import doctor as module
from peft_stilts.doctor import doctor, show
from peft_stilts.grid.hub import reach_hub


@pytest.fixture
def hub(monkeypatch):
    """A server on this machine that answers HEAD requests with 404."""
    class Answer(http.server.BaseHTTPRequestHandler):
        def do_HEAD(self):
            self.send_error(404)

        def log_message(self, *_):
            pass

    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with http.server.HTTPServer(("127.0.0.1", 0), Answer) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_findings_on_this_machine(tmp_path):
    found = {finding.topic: finding for finding in doctor(tmp_path / "not" / "there", hub=False)}
    assert {"precision", "kernels", "processor", "memory", "disk", "hub", "hub cache", "hub token",
            "versions"} < set(found)
    assert "offline mode" in found["hub"].value                         # the tests set it
    assert str(tmp_path) in found["disk"].value and not (tmp_path / "not").exists()
    assert all(finding.level in ("ok", "note", "warning") for finding in found.values())


def test_no_cuda_device_is_said_with_what_it_means(monkeypatch, tmp_path):
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    first = doctor(tmp_path, hub=False)[0]
    assert "no CUDA device" in first.value and "--scale auto means mini" in first.meaning and first.level == "note"


@pytest.mark.parametrize("gib, level", [(80, "ok"), (8, "note")])
def test_cuda_devices(monkeypatch, gib, level):
    import torch

    about = SimpleNamespace(name="Big", total_memory=gib * 2**30, major=9, minor=0)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: about)
    found = module._cuda()
    assert [f.topic for f in found] == ["device cuda:0", "device cuda:1"] and found[0].level == level
    assert f"{gib} GiB" in found[0].value


def test_the_hub_answers_or_not(hub):
    assert reach_hub(hub) == ""
    assert reach_hub("http://127.0.0.1:9") != ""
    assert reach_hub("nonsense") != ""


def test_a_token_is_never_printed(monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("HF_TOKEN", "hf_secretsecretsecret")
    monkeypatch.setenv("COLUMNS", "400")
    show(tmp_path, hub=False)
    text = capsys.readouterr().out
    assert "hub token" in text and "present" in text and "secret" not in text


def test_tested_versions_are_the_constraints():
    tested = module.tested_versions()
    assert set(module.LIBRARIES) <= set(tested) and "+" not in tested["torch"]
    assert module._versions({"torch": metadata.version("torch").partition("+")[0]}).level == "ok"
    changed = module._versions({"torch": "1.0"})
    assert changed.level == "note" and "torch" in changed.value and "tested: 1.0" in changed.value
    assert module._versions({}).level == "note"
