"""transformers' Trainer as a contestant: padding to the longest allowed, or at its best; with PEFT's LoRA as well.

`padded`: every batch padded to 384 (questions) or 256 (pairs) tokens, as XTREME's and jiant's scripts do, and Trainer's
defaults. `grouped`: features of like length in a step, padded to the longest of their micro-batch, fused AdamW. Both
with torch's scaled_dot_product_attention, which is transformers' own choice. To predict: `padded`, `dynamic` (to the
longest of a batch, in the data's order) and `sorted` (the same, sorted by length).
"""

from __future__ import annotations

import functools
import gc
import tempfile

import numpy as np
import torch
from peft import LoraConfig, TaskType, get_peft_model
from torch import nn
from transformers import (
    Trainer,
    TrainerCallback,
    TrainingArguments,
    XLMRobertaForQuestionAnswering,
    XLMRobertaForSequenceClassification,
)

from benches.contestant import Turns, tell
from benches.lengths import LIMITS
from benches.ours import lora_settings
from benches.workload import TASKS, Job, features, passage, plan
from peft_stilts.data.encode import Features
from peft_stilts.machine import peak_memory, reset_peak_memory
from peft_stilts.model import stack as stacks
from peft_stilts.model.encoder import random_encoder
from peft_stilts.model.heads import new_head

MODELS = {"qa": (XLMRobertaForQuestionAnswering, "qa_outputs", TaskType.QUESTION_ANS),
          "pairs": (XLMRobertaForSequenceClassification, "classifier", TaskType.SEQ_CLS)}
"""Kind of features -> the model with its head, the head's name, and what PEFT calls the task."""
LABELS = {"qa": {"start": "start_positions", "end": "end_positions"}, "pairs": {"class": "labels"}}
MAPS = r".*encoder\.layer\.\d+\..*\.(query|key|value|dense)"
PADDING = 1


def new_model(job: Job) -> nn.Module:
    """The model of a peer, with the weights (and the first A of LoRA) that ours begins with."""
    kind, head_name, task_type = MODELS[job.task]
    form, labels = TASKS[job.task]
    config = job.config
    config.num_labels = labels
    model = kind(config)
    encoder, head = random_encoder(job.config, job.seed), new_head(form, job.config, labels, job.seed)
    model.roberta.load_state_dict(encoder.model.state_dict())
    getattr(model, head_name).load_state_dict(getattr(head, head_name).state_dict())
    if job.method == "full":
        return model
    settings = lora_settings(job)
    model = get_peft_model(model, LoraConfig(r=settings.rank, lora_alpha=settings.alpha, target_modules=MAPS,
                                             lora_dropout=settings.dropout, task_type=task_type))
    stack = stacks.lora(encoder, [], settings, job.task, job.seed)
    here = dict(model.named_parameters())
    found = {name for name in here if ".lora_" in name}
    for name, value in stack.named_parameters():
        if f".{stack.trained}." in name:
            other = name.removeprefix("model.").replace("base_model.model.", "base_model.model.roberta.", 1)
            other = other.replace(f".{stack.trained}.", ".default.")
            here[other].data.copy_(value.data)
            found.remove(other)
    if found:
        raise AssertionError(f"{len(found)} LoRA weights of the peer have no counterpart, such as {min(found)}")
    return model


def rows(job: Job, data: Features, order: list[int]) -> list[dict]:
    """The features as Trainer's data set, in `order`."""
    return [{"input_ids": data.input_ids[i], **{new: int(data.labels[old][i])
                                                for old, new in LABELS[job.task].items()}} for i in order]


def collate(batch: list[dict], longest: int | None) -> dict[str, torch.Tensor]:
    """A batch padded to `longest` tokens, or to its own longest."""
    size = longest or max(len(row["input_ids"]) for row in batch)
    ids = np.full((len(batch), size), PADDING, dtype=np.int64)
    mask = np.zeros((len(batch), size), dtype=np.int64)
    for place, row in enumerate(batch):
        ids[place, :len(row["input_ids"])] = row["input_ids"]
        mask[place, :len(row["input_ids"])] = 1
    named = {name: torch.tensor([row[name] for row in batch]) for name in batch[0] if name != "input_ids"}
    return {"input_ids": torch.from_numpy(ids), "attention_mask": torch.from_numpy(mask), **named}


class Watched(Trainer):
    """Trainer that keeps the loss of each micro-batch, for the parity pass. Timed runs use Trainer itself."""

    def compute_loss(self, model, inputs, *args, **kwargs):
        loss = super().compute_loss(model, inputs, *args, **kwargs)
        self.losses.append(loss.detach())
        return loss


class Steps(TrainerCallback):
    """Counts the optimizer steps and the real tokens in them."""

    def __init__(self, turns: Turns, model: nn.Module):
        self.turns, self.tokens = turns, 0
        self.hook = model.register_forward_pre_hook(self._count, with_kwargs=True)

    def _count(self, model: nn.Module, args: tuple, kwargs: dict) -> None:
        self.tokens = self.tokens + kwargs["attention_mask"].sum()      # a tensor: nothing waits for a GPU

    def on_step_end(self, *args, **kwargs) -> None:
        self.turns.step(self.tokens)


def without_padding(model: nn.Module) -> None:
    """For the parity pass: no padding token takes part in the softmax over places. transformers' loss lets it, as the
    scripts do that pad to 384; so its loss, otherwise, depends on how much padding there is."""
    kept: dict[str, torch.Tensor] = {}

    def remember(module, args, kwargs):
        kept["padding"] = kwargs["attention_mask"] == 0

    def hide(module, args, output):
        return output.masked_fill(kept["padding"][..., None], torch.finfo(output.dtype).min)

    model.register_forward_pre_hook(remember, with_kwargs=True)
    next(module for name, module in model.named_modules() if name.endswith("qa_outputs")).register_forward_hook(hide)


def plan_once(job: Job) -> None:
    """On a GPU, for those whose batches differ in length: no attention of cuDNN's, which plans anew for each length.
    (Few steps would be nothing but plans; a long training soon has them all.)"""
    if job.who != "padded":
        torch.backends.cuda.enable_cudnn_sdp(False)


def arguments(job: Job, folder: str, size: int, steps: int) -> TrainingArguments:
    """Trainer's arguments: as the tasks of a benchmark need them, all else its defaults."""
    best = {} if job.who == "padded" else {"optim": "adamw_torch_fused"}
    return TrainingArguments(
        output_dir=folder, per_device_train_batch_size=size, gradient_accumulation_steps=max(1, job.per_step // size),
        per_device_eval_batch_size=size, max_steps=steps, learning_rate=job.lr, weight_decay=0.01,
        lr_scheduler_type="linear", warmup_steps=0, max_grad_norm=1.0, train_sampling_strategy="sequential",
        use_cpu=not torch.cuda.is_available(), bf16=job.precision == "bf16", report_to="none", save_strategy="no",
        logging_strategy="no", eval_strategy="no", dataloader_num_workers=0, dataloader_pin_memory=False,
        remove_unused_columns=False, disable_tqdm=True, seed=job.seed,
        label_names=list(LABELS[job.task].values()), **best)


def new_trainer(job: Job, model: nn.Module, folder: str, size: int, steps: int, data: list[dict],
                turns: Turns | None = None, watch: bool = False) -> Trainer:
    """A Trainer of the job's features. Their order is the sampler's: see `workload.plan`."""
    kind = Watched if watch else Trainer
    longest = LIMITS[job.task] if job.who == "padded" else None
    counted = [Steps(turns, model)] if turns else []
    trainer = kind(model=model, args=arguments(job, folder, size, steps), train_dataset=data,
                   data_collator=functools.partial(collate, longest=longest), callbacks=counted)
    # XLM-R's heads take Trainer's keyword `num_items_in_batch` and ignore it, so that Trainer (5.23) would add up the
    # means of micro-batches that have a key `labels`, instead of dividing them by their number.
    trainer.loss_is_scaled_for_ga = False
    trainer.losses = []
    return trainer


def train(job: Job) -> dict:
    """The training of `job`, in turns; what it came to."""
    plan_once(job)
    model, steps = new_model(job), plan(job)
    order = steps.grouped if job.who == "grouped" else steps.plain
    data = rows(job, features(job, steps.lengths), [i for step in order for i in step])
    if job.same_order and job.task == "qa":
        without_padding(model)
    turns = Turns([job.warm, *[job.steps] * job.rounds])
    with tempfile.TemporaryDirectory() as folder:
        trainer = new_trainer(job, model, folder, job.size, job.total, data, turns, job.same_order)
        tell({"ready": True})
        gc.collect()        # PEFT's wrappers refer to one another
        reset_peak_memory()
        turns.wait()
        trainer.train()
    parts = torch.tensor([float(loss) for loss in trainer.losses], dtype=torch.float64)
    return {"peak_bytes": peak_memory(), "losses": parts.view(-1, max(1, job.per_step // job.size)).mean(1).tolist(),
            "attention": model.config._attn_implementation, "optimizer": str(trainer.args.optim)}


def sweep(job: Job) -> dict:
    """A training of one step for each of `job.sizes` features a micro-batch, one a turn; the first turn warms up."""
    plan_once(job)
    model, steps = new_model(job), plan(job)
    order = steps.grouped if job.who == "grouped" else steps.plain
    data = rows(job, features(job, steps.lengths), order[0])
    tell({"ready": True})
    for size in (job.sizes[0], *job.sizes):       # the first one twice: it warms up
        turns = Turns([1])
        with tempfile.TemporaryDirectory() as folder:
            trainer = new_trainer(job, model, folder, size, 1, data, turns)
            turns.wait()
            trainer.train()
        trainer.callback_handler.callbacks.clear()
        model._forward_pre_hooks.clear()
        model._forward_pre_hooks_with_kwargs.clear()
    return {}


def predict(job: Job) -> dict:
    """A pass over the job's features a turn by Trainer.predict, with `job.size` features a batch; a sweep: a pass over
    them for each of `job.sizes`, after one that warms up."""
    plan_once(job)
    model, made = new_model(job), features(job, passage(job))
    order = np.argsort(-made.lengths, kind="stable") if job.who == "sorted" else np.arange(len(made))
    data, tokens = rows(job, made, order.tolist()), int(made.lengths.sum())
    sizes = [job.sizes[0], *job.sizes] if job.sizes else [job.size] * (job.warm + job.rounds)
    turns = Turns([1] * len(sizes))
    with tempfile.TemporaryDirectory() as folder:
        trainers = {size: new_trainer(job, model, folder, size, 1, data) for size in set(sizes)}
        tell({"ready": True})
        gc.collect()        # PEFT's wrappers refer to one another
        reset_peak_memory()
        turns.wait()
        for turn, size in enumerate(sizes):
            found = trainers[size].predict(data).predictions
            if job.out and turn == 0:
                save(job, found, made, order)
            turns.step((turn + 1) * tokens)
    return {"peak_bytes": peak_memory()}


def save(job: Job, found, made: Features, order: np.ndarray) -> None:
    """Write the logits in the order of the features, each on its own tokens: as ours writes them."""
    logits: list = [None] * len(made)
    for place, i in enumerate(order):
        logits[i] = (np.stack([part[place, :len(made.input_ids[i])] for part in found], axis=1)
                     if job.task == "qa" else found[place])
    np.savez(job.out, *logits)
