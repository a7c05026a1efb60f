"""From LLVM's language to machine code, by a compiler in a process of its own.

The compiler takes some 85 MB, which a process that trains for days would hold to its end, and where it meets what the
cores can't do it ends the process that it is in.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence

from bptcnn.errors import UnsupportedError

LONGEST_REASON = 200
"""Characters."""


def compiled(texts: Sequence[str]) -> list[bytes]:
    """Compile modules, by this file as a program: it needs LLVM and nothing that takes long to import.

    Args:
        texts: modules in LLVM's language.

    Returns:
        An object file (ELF, position-independent) of each.

    Raises:
        UnsupportedError: the compiler gave up.

    Example:
        >>> [program] = compiled(["define void @nothing() { ret void }"])
        >>> program[1:4]
        b'ELF'
    """
    search = os.pathsep.join(path for path in sys.path if path)
    try:
        done = subprocess.run(
            [sys.executable, "-S", __file__],
            input=json.dumps(list(texts)).encode(),
            capture_output=True,
            env={**os.environ, "PYTHONPATH": search},
        )
    except OSError:  # who may start no process has the compiler in this one
        return compiled_here(texts)
    if done.returncode:
        reason = " ".join(done.stderr.decode(errors="replace").split())[-LONGEST_REASON:]
        raise UnsupportedError(f"the compiler of its kernels failed with status {done.returncode}: {reason}")
    return [bytes.fromhex(digits) for digits in json.loads(done.stdout)]


def compiled_here(texts: Sequence[str]) -> list[bytes]:
    """As :func:`compiled`, by the compiler in this process, where it stays.

    Args:
        texts: modules in LLVM's language.
    """
    import llvmlite.binding as llvm

    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    architecture, *_ = llvm.get_default_triple().split("-")
    # Full-width vectors also where the compiler would rather not heat the chip: convolutions are long runs of them.
    features = f"{llvm.get_host_cpu_features().flatten()},-prefer-256-bit"
    if architecture in {"aarch64", "arm64"}:
        features += ",+reserve-x18"  # not every system leaves it to us
    target = llvm.Target.from_triple(f"{architecture}-unknown-linux-gnu")
    machine = target.create_target_machine(
        cpu=llvm.get_host_cpu_name(), features=features, opt=3, reloc="pic", codemodel="small"
    )
    objects = []
    for text in texts:
        module = llvm.parse_assembly(text)
        module.triple, module.data_layout = machine.triple, str(machine.target_data)
        # Kernels are emitted as they shall run. Only variables are brought into registers and addresses tidied up: the
        # compiler's full pipeline takes ten times as long for code that is no faster.
        passes = llvm.create_new_module_pass_manager()
        passes.add_sroa_pass()
        passes.add_simplify_cfg_pass()
        passes.add_instruction_combine_pass()
        passes.add_loop_rotate_pass()
        passes.run(module, llvm.create_pass_builder(machine, llvm.PipelineTuningOptions()))
        objects.append(machine.emit_object(module))
    return objects


if __name__ == "__main__":
    json.dump([program.hex() for program in compiled_here(json.load(sys.stdin))], sys.stdout)
