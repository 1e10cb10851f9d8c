"""The code in a card: run as it stands, with transformers and PEFT alone, it computes what our own stack does."""

import json
import os
import re
import shlex
import subprocess
import sys

import numpy as np
import torch
from safetensors.torch import load_file

from peft_stilts.data.pack import make_pack
from peft_stilts.model.adapter_io import load_head
from peft_stilts.model.encoder import load_encoder
from peft_stilts.model.stack import lora
from peft_stilts.share.card import card

CASES = {
    "lora-1": ("lora", [("squad", "stack")]),
    "lora-2": ("lora", [("squad", "stack"), ("mnli", "stack")]),
    "rslora-3": ("rslora", [("squad", "stack"), ("panx", "stack"), ("hellaswag", "stack")]),
    "dora-3": ("dora", [("mnli", "stack"), ("squad", "stack"), ("hellaswag", "stack")]),
    "merge-each": ("lora", [("squad", "stack"), ("mnli", "merge"), ("panx", "merge")]),
    "merge-two": ("dora", [("squad", "stack"), ("mnli", "stack"), ("panx", "merge")]),
    "merge-then-stack": ("rslora", [("squad", "stack"), ("mnli", "merge"), ("hellaswag", "stack")]),
    "qlora-2": ("qlora", [("hellaswag", "stack"), ("mnli", "stack")]),
    "no-head": ("lora", [("a+b", "stack"), ("no_head", "stack")]),
}
RUNNER = """
import json, os, sys, torch
import bitsandbytes.nn.modules
bitsandbytes.nn.modules.has_avx512bf16 = lambda: False       # the same arithmetic on every CPU
from safetensors.torch import save_file
cases, ids, out = json.load(open(sys.argv[1])), json.loads(sys.argv[2]), {}
for name, (folder, code) in cases.items():
    os.chdir(folder)
    made = {}
    exec(compile(code, name, "exec"), made)
    with torch.no_grad():
        for place, row in enumerate(ids):
            told = made["model"](input_ids=torch.tensor([row]))
            value = torch.stack([told.start_logits, told.end_logits], -1) if "start_logits" in told else (
                told.logits if "logits" in told else told.last_hidden_state)
            out[f"{name}|{place}"] = value[0].contiguous()
assert "peft_stilts" not in sys.modules
save_file(out, sys.argv[3])
"""


def test_the_code_for_peft_alone_computes_what_our_stack_does(cards, encoder_folder, tmp_path, monkeypatch):
    """Every block of every card, run as it stands (but for the base's folder) in a process without peft_stilts."""
    monkeypatch.setattr("bitsandbytes.nn.modules.has_avx512bf16", lambda: False)
    rng = np.random.default_rng(5)
    ids = [rng.integers(5, 60, n).astype(np.int32) for n in (7, 12, 3, 9)]
    pack = make_pack(type("Features", (), {"input_ids": ids, "labels": {}})(), range(4), 1)
    wanted, cases = {}, {}
    for name, (method, stages) in CASES.items():
        bundle = cards.make_bundle(encoder_folder, tmp_path / name, stages, method=method)
        code = cards.blocks(card(bundle))
        tasks = sorted(bundle.heads, key=bundle.depth_of, reverse=True) or [None]
        order = tasks[:1] + [task for task in bundle.heads if task != tasks[0]]      # as in the card
        assert len(code) == len(order)
        for task, block in zip(order, code):
            key = f"{name}|{task}"
            assert "peft_stilts" not in block
            cases[key] = (str(bundle.folder), block.replace("path/to/the/encoder", str(encoder_folder)))
            depth = len(stages) if task is None else bundle.depth_of(task)
            encoder = cards.encoder_of(encoder_folder, method == "qlora")
            stack = lora(encoder, bundle.adapter_folders[:depth], None).eval()
            with torch.no_grad():
                states = stack(pack)
                if task:
                    head = load_head(bundle.head_folder(task), encoder.config, task, cards.FORMS[task][0]).eval()
                    states = head.logits(states, pack)
            wanted[key] = states.reshape(-1) if task in ("mnli", "hellaswag") else states
    (tmp_path / "cases.json").write_text(json.dumps(cases))
    environment = os.environ | {"PYTHONPATH": "", "PYTHONWARNINGS": "ignore"}
    done = subprocess.run([sys.executable, "-c", RUNNER, tmp_path / "cases.json",
                           json.dumps([row.tolist() for row in ids]), tmp_path / "out.safetensors"],
                          capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    found = load_file(tmp_path / "out.safetensors")
    assert len(wanted) == 21
    for key, expected in wanted.items():
        together = torch.cat([found[f"{key}|{place}"] for place in range(len(ids))])
        torch.testing.assert_close(together, expected, atol=2e-5, rtol=1e-4, msg=lambda text, key=key: f"{key}: {text}")


def test_the_adapters_of_those_cases_all_matter(cards, encoder_folder, tmp_path):
    """That the comparison could fail: leaving out the line that lets the second adapter act changes the states."""
    bundle = cards.make_bundle(encoder_folder, tmp_path / "two", [("squad", "stack"), ("mnli", "stack")])
    ids = [np.arange(5, 15, dtype=np.int32)]
    pack = make_pack(type("Features", (), {"input_ids": ids, "labels": {}})(), range(1), 1)
    with torch.no_grad():
        one, both = (lora(load_encoder(encoder_folder), bundle.adapter_folders[:n], None).eval()(pack) for n in (1, 2))
    assert (one - both).abs().max() > 0.05


def test_code_for_a_hub_id_pins_the_revisions_and_is_python(cards, shared_bundle):
    text = card(shared_bundle, "ada/squad-mnli")
    for block in cards.blocks(text):
        compile(block, "card", "exec")
        assert 'folder = snapshot_download("ada/squad-mnli")' in block
        assert f'base, revision = "FacebookAI/xlm-roberta-base", "{cards.COMMIT}"' in block
    assert "peft_stilts.load('ada/squad-mnli', task='mnli')" in text
    commands = re.search(r"```bash\n(.*?)\n```", text, re.DOTALL)[1].splitlines()
    assert [shlex.split(line)[2:5] for line in commands] == [
        ["peft_stilts", "evaluate", "ada/squad-mnli"], ["peft_stilts", "recipe", "none"]]
    assert "--targets xquad" in commands[0]         # SQuAD's head is there, and xquad was scored
    assert "--scale" not in commands[0] and commands[1].endswith(" --scale base")


def test_commands_for_a_base_that_is_not_on_the_hub_ask_for_it(cards, encoder_folder, tmp_path):
    text = card(cards.make_bundle(encoder_folder, tmp_path / "x", [("squad", "stack")]))
    assert "task='squad', base='path/to/the/encoder')" in text
    commands = re.search(r"```bash\n(.*?)\n```", text, re.DOTALL)[1].splitlines()
    assert all(line.endswith(" --scale path/to/the/encoder") for line in commands)
