"""Checkpoints of a training: safetensors and JSON, written atomically, verified when read."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from peft_stilts.digest import canonical_json, key_of, sha256_file
from peft_stilts.errors import TrainingError
from peft_stilts.model.learner import Learner
from peft_stilts.model.vocabulary import whole_weights
from peft_stilts.store import sync

SHORTEST_SECONDS = 5.0
"""A checkpoint is written at most this often, and never so often that writing takes more than 1/20 of the time."""


@dataclass
class State:
    """Where a training stands after `step` optimizer steps; with weights and moments, all that going on needs.

    (Random numbers and the order of the data are drawn anew from the seed and the step's number.)
    `token_budget`: tokens a pack, as memory allowed. `looked`: step of the last look at the development data;
    `waited`: looks since the best. `skipped`: consecutive steps skipped by the fp16 scaler. `losses`: one a step,
    None where it was not finite.
    """

    token_budget: int
    step: int = 0
    features: int = 0
    tokens: int = 0
    seconds: float = 0.0
    looked: int = 0
    waited: int = 0
    best_score: float | None = None
    best_step: int | None = None
    best_sha256: str | None = None
    skipped: int = 0
    losses: list[float | None] = field(default_factory=list)


class Checkpoints:
    """The checkpoints of one training in `folder`: the newest `checkpoint-STEP/`, and `best-STEP.safetensors`.

    `purpose`: any JSON value that tells this training from others; a checkpoint of another purpose is not used.
    `say` gets a sentence when something is resumed from or passed over.
    """

    def __init__(
        self,
        folder: Path,
        purpose: Any,
        learner: Learner,
        optimizer: torch.optim.Optimizer,
        accelerator: Accelerator,
        say: Callable[[str], None],
    ):
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        for left in [*self.folder.glob("writing-*"), *self.folder.glob(".best-*")]:  # by a process that was killed
            shutil.rmtree(left) if left.is_dir() else left.unlink()
        self.learner, self.optimizer, self.scaler, self.say = learner, optimizer, accelerator.scaler, say
        self.purpose = key_of([purpose, {name: list(p.shape) for name, p in learner.trainable().items()}])
        self.latest: int | None = None
        self._written, self._cost = time.monotonic(), 0.0

    def due(self) -> bool:
        """Whether it is time for the next one: writing never takes more than 5 % of the training's time."""
        return time.monotonic() - self._written >= max(SHORTEST_SECONDS, 20 * self._cost)

    def save(self, state: State) -> None:
        """Write the checkpoint of `state`, then remove what it replaces. TrainingError when it cannot be written."""
        began = time.monotonic()
        final = self.folder / f"checkpoint-{state.step:09d}"
        if self.latest != state.step:
            scratch = self.folder / f"writing-{os.getpid()}"
            try:
                shutil.rmtree(scratch, ignore_errors=True)
                scratch.mkdir()
                tensors, numbers = self._parts()
                _save_tensors(tensors, scratch / "tensors.safetensors")
                record = {"purpose": self.purpose, "state": asdict(state), "scaler": self._scaler_state()}
                record |= {"numbers": numbers} if numbers else {}
                record["tensors_sha256"] = sha256_file(scratch / "tensors.safetensors")
                record = {"record": record, "sha256": key_of(record)}
                (scratch / "state.json").write_text(canonical_json(record), "utf-8")
                sync(scratch / "state.json")
                shutil.rmtree(final, ignore_errors=True)
                os.rename(scratch, final)
                sync(self.folder)
            except OSError as error:
                shutil.rmtree(scratch, ignore_errors=True)
                raise TrainingError(f"the checkpoint {final} cannot be written: {error}") from error
            self.latest = state.step
            self._clear(final, state.best_step)
        self._written = time.monotonic()
        self._cost = self._written - began

    def restore(self, state: State) -> State:
        """Load the newest sound checkpoint into learner and optimizer; returns its state, `state` if there is none."""
        for folder in sorted(self.folder.glob("checkpoint-*"), reverse=True):
            try:
                found, parts, scaler = self._read(folder)
            except (OSError, ValueError, KeyError, TypeError) as error:
                self.say(f"{folder} is not used: {error}")
                continue
            self._load(parts, scaler)
            self.latest = found.step
            self.say(f"resumed after step {found.step}, from {folder}")
            return found
        return state

    def save_best(self, step: int) -> str:
        """Write the trainable weights as the best so far, of step `step`, word embeddings whole; returns the file's
        SHA-256."""
        path = self.best_file(step)
        try:
            _save_tensors(_plain(whole_weights(self.learner)), path)
        except OSError as error:
            raise TrainingError(f"the best weights {path} cannot be written: {error}") from error
        return sha256_file(path)

    @torch.no_grad()
    def load_best(self, state: State) -> None:
        """Put the best weights back into the learner, which has its word embeddings whole; TrainingError when their
        file is not what was written."""
        path = self.best_file(state.best_step)
        if not path.is_file() or sha256_file(path) != state.best_sha256:
            raise TrainingError(f"the best weights {path} are gone or damaged; remove {self.folder} and train again.")
        tensors = load_file(path)
        for name, parameter in self.learner.trainable().items():
            parameter.copy_(tensors[name])

    def best_file(self, step: int | None) -> Path:
        return self.folder / f"best-{step}.safetensors"

    def last_good(self) -> str:
        """Words for error messages: which checkpoint the training can go on from."""
        return (
            "no checkpoint yet" if self.latest is None else f"last good checkpoint: step {self.latest} in {self.folder}"
        )

    def _parts(self) -> tuple[dict[str, torch.Tensor], dict[str, int | float]]:
        """Weights, and what the optimizer keeps of each by its own names: tensors, and plain numbers."""
        tensors, numbers = {}, {}
        for name, parameter in self.learner.trainable().items():
            tensors[f"weight/{name}"] = parameter
            for kind, value in self.optimizer.state.get(parameter, {}).items():
                (tensors if isinstance(value, torch.Tensor) else numbers)[f"{kind}/{name}"] = value
        return _plain(tensors), numbers

    def _scaler_state(self) -> dict[str, Any] | None:
        return self.scaler.state_dict() if self.scaler is not None else None

    def _read(self, folder: Path) -> tuple[State, dict[str, Any], dict | None]:
        """A checkpoint's parts; raises ValueError, KeyError, TypeError or OSError when it is unsound."""
        whole = json.loads((folder / "state.json").read_text("utf-8"))
        record = whole["record"]
        if key_of(record) != whole["sha256"]:
            raise ValueError("state.json is damaged")
        if record["purpose"] != self.purpose:
            raise ValueError("it is of another training")
        if sha256_file(folder / "tensors.safetensors") != record["tensors_sha256"]:
            raise ValueError("tensors.safetensors is damaged")
        state = State(**record["state"])
        if state.best_step is not None and sha256_file(self.best_file(state.best_step)) != state.best_sha256:
            raise ValueError(f"{self.best_file(state.best_step)} is damaged")
        return state, load_file(folder / "tensors.safetensors") | record.get("numbers", {}), record["scaler"]

    @torch.no_grad()
    def _load(self, parts: dict[str, Any], scaler: dict | None) -> None:
        states: dict[str, dict[str, Any]] = {}
        for kind, _, name in (path.partition("/") for path in parts):
            states.setdefault(name, {})[kind] = parts[f"{kind}/{name}"]
        names = {id(parameter): name for name, parameter in self.learner.trainable().items()}
        kept: dict[int, dict[str, Any]] = {}
        groups = self.optimizer.param_groups
        places = [(g, i, p) for g, group in enumerate(groups) for i, p in enumerate(group["params"])]
        for number, (group, place, parameter) in enumerate(places):
            state = states[names[id(parameter)]]
            parameter.copy_(state.pop("weight"))
            if state and hasattr(self.optimizer, "init_state"):  # bitsandbytes: into its buffers, which may be paged
                self.optimizer.init_state(groups[group], parameter, group, place)
                _fill(self.optimizer.state[parameter], state)
            elif state:
                kept[number] = state
        if kept:
            self.optimizer.load_state_dict({**self.optimizer.state_dict(), "state": kept})
        if scaler is not None:
            self.scaler.load_state_dict(scaler)

    def _clear(self, kept: Path, best_step: int | None) -> None:
        for path in self.folder.glob("checkpoint-*"):
            if path != kept:
                shutil.rmtree(path, ignore_errors=True)
        for path in self.folder.glob("best-*.safetensors"):
            if path != self.best_file(best_step):
                path.unlink(missing_ok=True)


def _fill(state: dict[str, Any], values: dict[str, Any]) -> None:
    """Put `values` into the tensors and numbers of `state`; KeyError for one that is not there."""
    for kind, value in values.items():
        if isinstance(state[kind], torch.Tensor):
            state[kind].copy_(value)
        else:
            state[kind] = value


def _plain(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The tensors on the CPU, each with memory of its own (bitsandbytes' qmaps share theirs; safetensors refuses)."""
    plain: dict[str, torch.Tensor] = {}
    known = set()
    for name, value in tensors.items():
        value = value.detach().cpu().contiguous()
        plain[name] = value.clone() if value.data_ptr() in known else value
        known.add(value.data_ptr())
    return plain


def _save_tensors(tensors: dict[str, torch.Tensor], path: Path) -> None:
    """Write and flush a safetensors file under its final name only when it is whole."""
    scratch = path.with_name(f".{path.name}-{os.getpid()}")
    try:
        save_file(tensors, scratch)
        sync(scratch)
        os.replace(scratch, path)
    except SafetensorError as error:  # its own kind for 'no space left' and the like
        raise OSError(str(error)) from error
    finally:
        scratch.unlink(missing_ok=True)
