"""Speed and memory, beside what a user would pick instead: `python tools/bench.py train|evaluate|mine|kernels|scaling`.

train     optimizer steps beside transformers' Trainer, padded and at its best, in full and with LoRA; same loss curves
evaluate  predictions beside Trainer.predict, padded, to the batch's longest, and sorted by length; same logits
mine      nearest neighbours and margins beside faiss and sentence-transformers; same pairs
kernels   bytes that the fused ops and their eager versions move; times on a CUDA machine
scaling   time against tokens, memory against steps, examples and languages
large     steps of an XLM-R Large beside the estimates of --plan_only; step: one method, in this process
bundle    a SQuAD adapter of an XLM-R Large: its size as a bundle, seconds to export, verify and load it
memory    which card an XLM-R Large would fit (arithmetic)
lengths   counts again what tools/benches/lengths.json holds

Contestants take turns, so that a machine that slows down slows all of them; figures are medians with the minimum and
the maximum over the rounds, of the machine at hand and of this run. Nothing here is a test.
"""

from __future__ import annotations

import argparse
import importlib
import os
from pathlib import Path

CHOICES = {"task": ("qa", "pairs"), "method": ("full", "lora"),
           "kernels": ("auto", "triton", "compile", "eager"), "precision": ("fp32", "bf16")}


def count(text: str) -> int:
    """A whole number from 1; ValueError for anything else."""
    if int(text) < 1:
        raise ValueError
    return int(text)


def counts(text: str) -> tuple[int, ...]:
    """Whole numbers from 1 with commas between."""
    return tuple(map(count, text.split(",")))


def names(*choices: str):
    """A reader of some of the choices with commas between, each once; ArgumentTypeError for others."""

    def read(text: str) -> tuple[str, ...]:
        found = tuple(text.split(","))
        if set(found) - set(choices) or len(set(found)) < len(found):
            raise argparse.ArgumentTypeError(f"{text!r}; it must be some of {', '.join(choices)}, with commas between")
        return found

    return read


def folder(text: str) -> Path:
    """A folder that is there."""
    if not Path(text).is_dir():
        raise argparse.ArgumentTypeError(f"{text!r} is not a folder")
    return Path(text)


def json_file(text: str) -> Path:
    """A file that is to be written, in a folder that is there."""
    path = Path(text)
    if path.suffix != ".json" or not path.resolve().parent.is_dir():
        raise argparse.ArgumentTypeError(f"{text!r}; it must be a name that ends in .json, in a folder that exists")
    return path


def common(parser: argparse.ArgumentParser, repeats: str = "") -> None:
    """The flags of every benchmark that writes a file; `repeats` names what --repeats counts where there is one."""
    parser.add_argument("--output", type=json_file, metavar="FILE.json", help="write every number here, with versions "
                        "and machine, and a figure beside it (FILE.png) where there is one")
    parser.add_argument("--quick", action="store_true", help="small shapes and few steps: shows that all works, says "
                        "nothing about speed")
    parser.add_argument("--threads", type=count, default=2, help="threads of torch and others (%(default)s)")
    if repeats:
        parser.add_argument("--repeats", type=count, default=3, help=f"{repeats} (%(default)s)")


def shaped(parser: argparse.ArgumentParser) -> None:
    """The flags of benchmarks with an encoder."""
    parser.add_argument("--task", type=names(*CHOICES["task"]), default=CHOICES["task"], metavar="qa,pairs",
                        help="lengths of question-answering windows (mean 188, at most 384), of sentence pairs (mean "
                        "37, at most 256), or both (the default)")
    parser.add_argument("--kernels", type=names(*CHOICES["kernels"]), default=("auto",), metavar="auto,...",
                        help="kernels of ours: auto, triton, compile, eager; several are compared (auto)")
    parser.add_argument("--precision", choices=CHOICES["precision"], default="fp32", help="of every contestant where "
                        "it is timed; parity is always in fp32 (%(default)s)")
    parser.add_argument("--tokens_per_pack", "--tokens-per-pack", type=counts, default=(4096,), metavar="N,...",
                        help="tokens in a forward pass of ours; the fastest of several is found by a sweep (4096)")
    parser.add_argument("--layers", type=count, default=4, help="layers of width 1024 (%(default)s; XLM-R Large: 24)")
    parser.add_argument("--lengths_from", "--lengths-from", type=folder, metavar="FOLDER", help="count lengths in a "
                        "folder that holds xquad/xquad.en.json, americasnli/*/*.tsv and xcopa/*/*.jsonl, instead of "
                        "taking the counts in tools/benches/lengths.json")
    parser.add_argument("--words_in_use", "--words-in-use", type=count, default=50000, help="words of the 250,002 that "
                        "occur in the training data, an assumption (%(default)s)")
    parser.add_argument("--seed", type=int, default=1, help="of weights, features and orders (%(default)s)")


def against(parser: argparse.ArgumentParser, peers: tuple[str, ...], told: str) -> None:
    """The flags of benchmarks beside Trainer."""
    parser.add_argument("--micro_batch", "--micro-batch", type=counts, metavar="N,...", help="features in a forward "
                        "pass of the peers; by default the fastest is found by a sweep, as for several given")
    parser.add_argument("--peers", type=names(*peers), default=peers, metavar=",".join(peers),
                        help=f"{told} (all by default)")


def parser() -> argparse.ArgumentParser:
    """The command line."""
    whole = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter,
                                    allow_abbrev=False)
    parts = whole.add_subparsers(dest="bench", required=True, metavar="BENCH")

    def add(name: str, told: str) -> argparse.ArgumentParser:
        return parts.add_parser(name, help=told, description=told, allow_abbrev=False)

    one = add("train", "Optimizer steps of ours and of transformers' Trainer.")
    common(one)
    shaped(one)
    one.add_argument("--method", type=names(*CHOICES["method"]), default=CHOICES["method"], metavar="full,lora",
                     help="full, lora or both (the default)")
    against(one, ("padded", "grouped"), "Trainer padded to the maximum, Trainer at its best")
    one.add_argument("--rounds", type=count, default=3, help="turns that each contestant takes (%(default)s)")
    one.add_argument("--steps", type=count, default=2, help="optimizer steps in a turn (%(default)s)")
    one.add_argument("--parity", choices=("small", "full", "none"), default="small", help="model of the parity pass: "
                     "2 layers of width 256 (the default), the one that is timed, or no such pass")
    one.add_argument("--profile", action="store_true", help="where the time of a step of ours goes")

    one = add("evaluate", "Predictions of ours and of Trainer.predict.")
    common(one)
    shaped(one)
    one.add_argument("--method", type=names(*CHOICES["method"]), default=("full",), metavar="full,lora",
                     help="the bare encoder (full, the default), one with an adapter (lora), or both")
    against(one, ("padded", "dynamic", "sorted"), "Trainer.predict padded to the maximum, to the batch's longest, and "
            "that after sorting by length")
    one.add_argument("--rounds", type=count, default=3, help="passes that each contestant makes (%(default)s)")
    one.add_argument("--features", type=count, default=96, help="features in a pass (%(default)s)")

    one = add("scaling", "Time against tokens; memory against steps, examples and languages.")
    common(one, "runs of each point")
    shaped(one)
    one.add_argument("--method", type=names(*CHOICES["method"]), default=("full",), metavar="full,lora", help="(full)")

    common(add("mine", "Nearest neighbours and margins of ours, faiss and sentence-transformers."), "runs of each")
    common(add("kernels", "Bytes moved by fused and eager ops; times on a CUDA machine."), "runs of each op, on CUDA")
    one = add("lengths", "Count lengths, as tools/benches/lengths.json holds them.")
    one.add_argument("--lengths_from", "--lengths-from", type=folder, required=True, metavar="FOLDER")
    one.add_argument("--output", type=json_file, metavar="FILE.json")
    one = add("memory", "Which card an XLM-R Large would fit: arithmetic, nothing measured.")
    one.add_argument("--output", type=json_file, metavar="FILE.json")
    add("contestant", "What the others start for each contestant; it reads a job from its standard input.")
    _steps(add("large", "Steps of an XLM-R Large, each method in a process of its own."))
    _steps(add("step", "Steps of an XLM-R Large by one method, in this process."))
    add("bundle", "Size of a bundle, and seconds to export, verify and load it.").add_argument(
        "--layers", type=count, default=24, help="24 is XLM-R Large; fewer for a quick try")
    return whole


def _steps(one: argparse.ArgumentParser) -> None:
    """The flags of `large` and `step`."""
    one.add_argument("--method", type=names(*CHOICES["method"], "qlora"), default=CHOICES["method"],
                     metavar="full,lora", help="some of full, lora and qlora (full,lora)")
    one.add_argument("--features", type=count, default=8, help="features in the optimizer step (%(default)s)")
    one.add_argument("--length", type=count, default=185, help="mean tokens of a feature; lengths are drawn around "
                     "it, at most 384 (%(default)s, as SQuAD v1.1's windows)")
    one.add_argument("--tokens_per_pack", "--tokens-per-pack", type=count, default=1536,
                     help="tokens in one forward pass (%(default)s)")
    one.add_argument("--precision", choices=CHOICES["precision"], default="fp32", help="(%(default)s)")
    one.add_argument("--kernels", choices=CHOICES["kernels"], default="auto", help="(%(default)s)")
    one.add_argument("--gradient_checkpointing", "--gradient-checkpointing", action="store_true", help="keep each "
                     "layer's input alone for the backward pass")
    one.add_argument("--layers", type=count, default=24, help="24 is XLM-R Large; fewer for a quick try")
    one.add_argument("--steps", type=count, default=1, help="optimizer steps; with several, the median of all but "
                     "the first is told, which warms up (%(default)s)")


def main() -> None:
    whole = parser()
    arguments = whole.parse_args()
    if arguments.bench == "contestant":
        from benches.contestant import serve

        return serve()
    if arguments.bench in ("large", "step", "bundle"):
        if arguments.bench == "step" and len(arguments.method) > 1:
            whole.error("step measures one method: give --method full or --method lora")
        from benches import large

        return getattr(large, arguments.bench)(arguments)
    if "threads" in arguments:
        for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
            os.environ[name] = str(arguments.threads)
    module = importlib.import_module(f"benches.{arguments.bench}")
    found = module.run(arguments)
    if arguments.output is not None:
        from benches import report

        if arguments.bench in ("lengths", "memory"):
            return report.write_plain(arguments.output, found)
        report.write(arguments.bench, arguments, found, getattr(module, "draw", report.draw_seconds))


if __name__ == "__main__":
    main()
