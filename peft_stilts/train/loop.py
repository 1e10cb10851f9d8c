"""The training loop: every training in the project runs through `train`."""

from __future__ import annotations

import dataclasses
import functools
import math
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from torch.utils.checkpoint import checkpoint

from peft_stilts.data.pack import Packable, make_pack, plan_packs
from peft_stilts.data.sample import PROPORTIONAL, Mixing, Schedule
from peft_stilts.digest import derived_seed
from peft_stilts.errors import TrainingError
from peft_stilts.machine import KeptMemory, peak_memory, reset_peak_memory
from peft_stilts.model.learner import Learner
from peft_stilts.model.vocabulary import Vocabulary
from peft_stilts.spec import TrainingSettings
from peft_stilts.train.checkpoint import Checkpoints, State
from peft_stilts.train.optim import clip, decay_, free_memory, is_out_of_memory, make_optimizer, rate

MOST_SKIPS = 30
"""fp16 steps in a row that the gradient scaler may skip; from its first scale, 2^16, 16 halvings reach 1."""
SHORTEST_JUDGED = 50
"""Trainings of fewer steps are not judged by whether their loss fell."""
TOLD = ("features", "tokens", "seconds", "token_budget", "best_score", "best_step")
"""What a training's record takes from its state as it is."""


@dataclasses.dataclass(frozen=True)
class TrainingRecord:
    """What a training was and cost. `features` and `tokens` as trained on, repeats counted; `seconds` over all
    resumes; `token_budget` tokens a pack as memory allowed in the end; `best_score`, `best_step` None without
    selection; `first_loss`, `last_loss` means over the first and last tenth of the steps of the most frequent task."""

    steps: int
    features: int
    tokens: int
    seconds: float
    peak_memory_bytes: int
    token_budget: int
    best_score: float | None
    best_step: int | None
    first_loss: float
    last_loss: float
    trainable_parameters: int


def train(
    learner: Learner,
    features: Mapping[str, Packable],
    settings: TrainingSettings,
    *,
    seed: int,
    folder: Path,
    mixing: Mixing = PROPORTIONAL,
    select: Callable[[], float] | None = None,
    precision: str = "fp32",
    progress: Callable[[int, int, int, float], None] = lambda step, total, tokens, loss: None,
    say: Callable[[str], None] = lambda sentence: None,
) -> TrainingRecord:
    """Train `learner` in place, and leave it with the weights to keep, in evaluation mode.

    `features`: of each task of the learner, with the labels of its head; `mixing` says how they share the steps. With
    `settings.keep` 'best', `select()` (higher is better; it sees the learner in evaluation mode) chooses the weights
    and stops the training. `folder` holds the checkpoints: a training that was ended there goes on, bit for bit.
    `precision`: fp32, bf16 or fp16, with float32 weights always.
    `progress` is told (steps done, steps in all, tokens so far, loss) after each step; `say` gets what else happens.
    Raises TrainingError as its docstring says, and KeyboardInterrupt after a checkpoint.
    """
    reset_peak_memory()
    accelerator = _accelerator(precision)
    lengths = {task: [len(ids) for ids in part.input_ids] for task, part in features.items()}
    group = {task: head.group for task, head in learner.heads.items()}
    counts = {task: len(sizes) // group[task] for task, sizes in lengths.items()}
    order = Schedule(counts, settings.features_per_step, settings.epochs, seed, mixing)
    learner.to(accelerator.device)
    everything = (ids for part in features.values() for ids in part.input_ids)
    words = Vocabulary(learner, everything, functools.partial(decay_, settings=settings), precision != "fp16", say)
    optimizer = make_optimizer(learner, settings)
    learner, optimizer = accelerator.prepare(learner, optimizer)
    _checkpoint_layers(learner, settings.gradient_checkpointing)
    purpose = [settings.told(), dataclasses.asdict(mixing), seed, precision, lengths]
    checkpoints = Checkpoints(folder, purpose, learner, optimizer.optimizer, accelerator, say)
    state = checkpoints.restore(State(token_budget=settings.tokens_per_pack))
    for step in range(state.step):
        words.stepped(settings.lr * rate(step, order.total, settings))
    parameters = list(learner.trainable().values())
    looks = (settings.select_every_steps or order.steps_per_epoch) if select and settings.keep == "best" else 0
    before, kept_memory = time.monotonic() - state.seconds, KeptMemory()
    whole = True  # `state` tells of the weights as they are
    learner.train()
    try:
        while True:
            if looks and state.step > state.looked and (state.step % looks == 0 or state.step == order.total):
                learner.eval()
                score = float(select())
                learner.train()
                if state.best_score is None or score > state.best_score:
                    checksum = checkpoints.save_best(state.step)
                    state.best_score, state.best_step, state.best_sha256, state.waited = score, state.step, checksum, -1
                state.looked, state.waited = state.step, state.waited + 1
            state.seconds = time.monotonic() - before
            if state.step >= order.total or (looks and state.waited >= settings.patience):
                break
            if checkpoints.due():
                checkpoints.save(state)
            task, items = order.at(state.step)
            loss = _gradients(accelerator, learner, optimizer, task, features[task], items, state, seed, say)
            seen = (features[task].input_ids[i * group[task] + j] for i in items for j in range(group[task]))
            norm = clip(accelerator, parameters, settings.max_grad_norm, words, seen)
            loss, norm = torch.stack([loss, norm.to(loss)]).tolist()  # the step's one wait for the device
            factor = rate(state.step, order.total, settings)
            _judge(loss, norm, state, accelerator, f"step {state.step + 1} of {order.total}, learning rate "
                   f"{settings.lr * factor:.3g}; {checkpoints.last_good()}")  # fmt: skip
            whole = False
            for options in optimizer.param_groups:
                options["lr"] = options["peak"] * factor
            _update(optimizer)
            words.stepped(settings.lr * factor)
            kept_memory.stepped()
            state.step += 1
            state.features += len(items) * group[task]
            state.tokens += sum(lengths[task][i * group[task] + j] for i in items for j in range(group[task]))
            state.losses.append(loss if math.isfinite(loss) else None)
            whole = True
            progress(state.step, order.total, state.tokens, loss)
    except KeyboardInterrupt:
        if whole:
            checkpoints.save(state)
        raise
    usual = max((task for task in counts if task != mixing.extra), key=order.steps_of)
    losses = [loss for step, loss in enumerate(state.losses) if loss is not None and order.task(step) == usual]
    first, last = _ends(losses, state, settings, checkpoints)
    words.restore()
    if state.best_step is not None:
        checkpoints.load_best(state)
    _checkpoint_layers(learner, False)
    learner = accelerator.unwrap_model(learner, keep_fp32_wrapper=False).eval()
    learner.__dict__.pop("forward", None)  # accelerate leaves a bound method there, which would keep the learner alive
    return TrainingRecord(
        **{name: getattr(state, name) for name in TOLD},
        steps=state.step,
        peak_memory_bytes=peak_memory(),
        first_loss=first,
        last_loss=last,
        trainable_parameters=sum(parameter.numel() for parameter in learner.trainable().values()),
    )


def _checkpoint_layers(learner: Learner, on: bool) -> None:
    """Have the encoder's layers keep nothing but their input for the backward pass and compute the rest again, random
    numbers included; or not.

    What transformers' gradient_checkpointing_enable sets, which besides makes the embeddings' output require a gradient
    for good and is called otherwise in later versions.
    """
    for layer in learner.stack.encoder.encoder.layer:
        layer.gradient_checkpointing = on
        layer._gradient_checkpointing_func = functools.partial(checkpoint, use_reentrant=False)


def _gradients(
    accelerator: Accelerator,
    learner: Learner,
    optimizer: torch.optim.Optimizer,
    task: str,
    features: Packable,
    items: list[int],
    state: State,
    seed: int,
    say: Callable[[str], None],
) -> torch.Tensor:
    """Gradients of what `optimizer` trains: of the mean loss over the `items` of `task`, in packs of
    `state.token_budget` tokens; returns that loss, detached.

    When memory runs out the budget is halved, in `state`, and the step begun again with the same random numbers.
    TrainingError when a pack of one item does not fit.
    """
    head = learner.heads[task]
    group = head.group
    sizes = {i: sum(map(len, features.input_ids[i * group : (i + 1) * group])) for i in items}
    while True:
        plan = plan_packs(sizes, items, state.token_budget)
        packs = [
            make_pack(features, [i * group + j for i in part for j in range(group)], learner.stack.padding_idx)
            for part in plan
        ]
        counted = max(1, sum(head.count(pack) for pack in packs))
        optimizer.zero_grad()
        torch.manual_seed(derived_seed("dropout", seed, state.step))
        try:
            loss = torch.zeros((), device=accelerator.device)
            for pack in packs:
                part = learner(pack.to(accelerator.device), task) / counted
                accelerator.backward(part)
                loss = loss + part.detach()
            return loss
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
        optimizer.zero_grad()
        free_memory()
        largest = max(len(pack.input_ids) for pack in packs)
        if all(len(part) == 1 for part in plan):
            raise TrainingError(
                f"one feature of {largest} tokens does not fit in memory in training. Use a smaller max_length or "
                "model, or method lora."
            )
        state.token_budget = max(1, min(largest, state.token_budget) // 2)
        say(f"out of memory at step {state.step + 1}: going on with {state.token_budget} tokens a pack")


def _update(optimizer: torch.optim.Optimizer) -> None:
    """One optimizer step. Its moments are made in the first one: TrainingError when memory does not hold them."""
    try:
        optimizer.step()
    except (RuntimeError, MemoryError) as error:
        if is_out_of_memory(error):
            raise TrainingError(
                "the optimizer's moments do not fit in memory (8 bytes a trained parameter). Use method lora or a "
                "smaller model."
            ) from error
        raise


def _judge(loss: float, norm: float, state: State, accelerator: Accelerator, where: str) -> None:
    """TrainingError for a loss or gradient that is not finite; in fp16 the scaler may skip MOST_SKIPS in a row."""
    if math.isfinite(loss) and math.isfinite(norm):
        state.skipped = 0
        return
    state.skipped += 1
    if accelerator.scaler is None or state.skipped > MOST_SKIPS:
        raise TrainingError(
            f"training failed: loss {loss}, gradient norm {norm} at {where}. "
            "Try a smaller learning rate, or precision fp32."
        )


def _ends(
    losses: list[float], state: State, settings: TrainingSettings, checkpoints: Checkpoints
) -> tuple[float, float]:
    """Means over the first and the last tenth of the losses (at least one step). TrainingError where they are of
    SHORTEST_JUDGED steps or more and did not fall."""
    known = losses or [math.nan]
    tenth = max(1, len(known) // 10)
    first, last = sum(known[:tenth]) / tenth, sum(known[-tenth:]) / tenth
    if len(losses) >= SHORTEST_JUDGED and not last < first:
        raise TrainingError(
            f"training collapsed: the loss was {first:.4g} over the first tenth of {state.step} steps and {last:.4g} "
            f"over the last ({checkpoints.last_good()}). Try a learning rate below {settings.lr:g}, or another seed."
        )
    return first, last


def _accelerator(precision: str) -> Accelerator:
    """One process, one device, float32 weights. TrainingError under a launcher that started several."""
    if precision == "fp16" and not torch.cuda.is_available():
        raise TrainingError("precision fp16 needs a CUDA device; use fp32 here.")
    AcceleratorState._reset_state()  # accelerate keeps one precision a process; trainings may differ
    accelerator = Accelerator(
        mixed_precision="no" if precision == "fp32" else precision, cpu=not torch.cuda.is_available()
    )
    if accelerator.num_processes != 1:
        raise TrainingError(
            f"training was launched as {accelerator.num_processes} processes; one process trains one stage. "
            "Start it with plain python, and divide the stages among machines instead."
        )
    return accelerator
