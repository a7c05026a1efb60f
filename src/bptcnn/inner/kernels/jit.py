"""From emitted kernels to machine code in this process."""

from __future__ import annotations

import ctypes

import llvmlite.binding as llvm
from llvmlite import ir


class Code:
    """Compiled kernels.

    Args:
        module: the kernels.

    Example:
        >>> from bptcnn.inner.kernels.shape import Vectors
        >>> from bptcnn.inner.kernels.vectors import Kernel
        >>> module = ir.Module()
        >>> Kernel(module, "nothing", Vectors(4, 16)).finish()
        >>> Code(module).address("nothing") != 0
        True
    """

    def __init__(self, module: ir.Module) -> None:
        machine = _machine()
        compiled = llvm.parse_assembly(str(module))
        # Kernels are emitted as they shall run. Only variables are brought into registers and addresses tidied up: the
        # compiler's full pipeline takes ten times as long for code that is no faster.
        passes = llvm.create_new_module_pass_manager()
        passes.add_sroa_pass()
        passes.add_simplify_cfg_pass()
        passes.add_instruction_combine_pass()
        passes.add_loop_rotate_pass()
        passes.run(compiled, llvm.create_pass_builder(machine, llvm.PipelineTuningOptions()))
        self._engine = llvm.create_mcjit_compiler(compiled, machine)
        self._engine.finalize_object()

    def address(self, name: str) -> int:
        """Where a kernel's code begins."""
        return int(self._engine.get_function_address(name))

    def call(self, name: str, *arguments: int) -> None:
        """Run a kernel once, without the interpreter's lock.

        Args:
            name: of the kernel.
            arguments: addresses and numbers, as the kernel expects them.
        """
        places = (ctypes.c_int64 * len(arguments))(*arguments)
        ctypes.CFUNCTYPE(None, ctypes.c_void_p)(self.address(name))(ctypes.addressof(places))


def _machine() -> llvm.TargetMachine:
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    # Full-width vectors also where the compiler would rather not heat the chip: convolutions are long runs of them.
    features = f"{llvm.get_host_cpu_features().flatten()},-prefer-256-bit"
    # A new one for each module: the compiler that is given one keeps it.
    target = llvm.Target.from_default_triple()
    return target.create_target_machine(cpu=llvm.get_host_cpu_name(), features=features, opt=3)
