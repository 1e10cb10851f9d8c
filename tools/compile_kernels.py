"""Compile every Triton kernel for sm_80 and sm_90, without a GPU, and print the resources that each one takes.

`python tools/compile_kernels.py` prints registers of a thread, shared memory of a block and spilled bytes of a thread,
read from the compiled code; exit status 1 if a kernel does not compile. The shapes are those of XLM-R Large.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import sys
from pathlib import Path


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter,
                                     allow_abbrev=False)
    parser.add_argument("--output", type=Path, metavar="FILE.json", help="also write the table as JSON")
    arguments = parser.parse_args()
    if os.environ.pop("TRITON_INTERPRET", "0") == "1":
        print("TRITON_INTERPRET is ignored: interpreted kernels are not compiled", file=sys.stderr)

    import triton

    from peft_stilts.kernels.fused.ahead import TARGETS, compile_variant, variants

    rows, failures = [], []
    print(f"{'kernel':<40} {'target':<7} {'registers':>9} {'shared memory':>13} {'spills':>6}")
    for variant in variants():
        for target in TARGETS:
            try:
                row = dataclasses.asdict(compile_variant(variant, target))
            except Exception as error:      # of whatever stage of the compiler
                failures.append({"kernel": variant.name, "target": f"sm_{target}", "error": str(error)})
                print(f"{variant.name:<40} sm_{target:<4} does not compile: {error}", flush=True)
                continue
            rows.append(row)
            print(f"{row['kernel']:<40} {row['target']:<7} {row['registers']:>9} {row['shared']:>13,} "
                  f"{row['spills']:>6}", flush=True)
    print(f"triton {triton.__version__}: {len(rows)} compiled, {len(failures)} not; "
          "shared memory of a block and spills of a thread in bytes")
    if arguments.output:
        told = {"triton": triton.__version__, "kernels": rows, "failures": failures}
        arguments.output.write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")
    return bool(failures)


if __name__ == "__main__":
    sys.exit(main())
