"""From a converted model to an executable for one engine."""

from poprt.compiler.compiler import Compiler
from poprt.compiler.options import CompilerOptions
from poprt.executable import Executable

__all__ = ["Compiler", "CompilerOptions", "Executable"]
