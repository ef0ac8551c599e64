"""Loops of multiply-adds in registers, in LLVM's language: one for each instruction that a CPU may have for them.

Each is a function ``peak(turns, sums, operand)``. It loads registers of sums and two equal operands, adds the operands'
products to every register of sums, turn by turn, and stores the sums: from 0 and an operand of ones each sum becomes
``turns * depth``. What it begins with comes from memory, so that no compiler can know the end without the way.
"""

from __future__ import annotations

from dataclasses import dataclass, field

_LOOP = """{declarations}
define void @peak(i64 %turns, ptr %sums, ptr %operand) {{
first:
  {first}
  br label %loop
loop:
  %turn = phi i64 [ 0, %first ], [ %next, %loop ]
  {turn}
  %next = add i64 %turn, 1
  %done = icmp eq i64 %next, %turns
  br i1 %done, label %last, label %loop
last:
  {last}
  ret void
}}
"""


@dataclass(frozen=True)
class Form:
    """An instruction that multiplies and adds, and the loop that does nothing else.

    Attributes:
        name: what a table calls it.
        precision: of what it multiplies: "fp32", "bf16" or "int8". Sums have 32 bits.
        features: that the CPU must have, as LLVM calls them.
        lanes: sums in a register.
        depth: products that an instruction adds to each sum.
        registers: of sums: enough to hide the instruction's latency, few enough for the CPU to have them.
        code: the loop.
    """

    name: str
    precision: str
    features: frozenset[str]
    lanes: int
    depth: int
    registers: int
    code: str = field(repr=False)

    @property
    def flops(self) -> int:
        """Operations of one turn of the loop: two for each multiply-add."""
        return 2 * self.registers * self.lanes * self.depth


def _vectors(name: str, precision: str, features: str, call: str, depth: int, operands: str = "") -> Form:
    """An instruction on vectors.

    Args:
        name: it begins with the number of bits.
        features: with spaces between them.
        call: LLVM's name for it; it takes the sums first, or last for float32.
        operands: type of a register of operands, where it is not that of the sums.
    """
    bits = int(name.split("-")[0])
    lanes = bits // 32
    # Two or four instructions begin in a cycle and take four to six. AVX2 has 16 registers, Arm's cores have 32.
    registers = 24 if bits == 128 else 12
    sums = f"<{lanes} x {'i32' if precision == 'int8' else 'float'}>"
    operands = operands or sums

    def arguments(left: str, right: str, total: str) -> str:
        factors, added = f"{operands} {left}, {operands} {right}", f"{sums} {total}"
        return f"{factors}, {added}" if precision == "fp32" else f"{added}, {factors}"

    every = range(registers)
    code = _code(
        [f"declare {sums} @{call}({arguments('', '', '')})"],
        [f"%{factor} = load {operands}, ptr %operand, align 4" for factor in ("left", "right")]
        + [f"%p{i} = getelementptr {sums}, ptr %sums, i64 {i}" for i in every]
        + [f"%s{i} = load {sums}, ptr %p{i}, align 4" for i in every],
        [f"%a{i} = phi {sums} [ %s{i}, %first ], [ %b{i}, %loop ]" for i in every]
        + [f"%b{i} = call {sums} @{call}({arguments('%left', '%right', f'%a{i}')})" for i in every],
        [f"store {sums} %b{i}, ptr %p{i}, align 4" for i in every],
    )
    return Form(name, precision, frozenset(features.split()), lanes, depth, registers, code)


def _tiles(name: str, precision: str, features: str, call: str, depth: int) -> Form:
    """An instruction on the tiles of AMX: 16 rows of 64 bytes. Tiles 6 and 7 are the operands."""
    shapes = bytes([1] + 15 * [0] + 8 * [64, 0] + 16 * [0] + 8 * [16] + 8 * [0])  # palette, bytes of a row, rows
    config = "".join(f"\\{byte:02x}" for byte in shapes)
    every, tile, row = range(4), "i8 {}, ptr {}, i64 64", 16 * 64
    code = _code(
        [
            f'@config = private constant [64 x i8] c"{config}", align 64',
            "declare void @llvm.x86.ldtilecfg(ptr)",
            "declare void @llvm.x86.tilerelease()",
            "declare void @llvm.x86.tileloadd64(i8, ptr, i64)",
            "declare void @llvm.x86.tilestored64(i8, ptr, i64)",
            f"declare void @{call}(i8, i8, i8)",
        ],
        ["call void @llvm.x86.ldtilecfg(ptr @config)"]
        + [f"%p{i} = getelementptr i8, ptr %sums, i64 {i * row}" for i in every]
        + [f"call void @llvm.x86.tileloadd64({tile.format(i, f'%p{i}')})" for i in every]
        + [f"call void @llvm.x86.tileloadd64({tile.format(i, '%operand')})" for i in (6, 7)],
        [f"call void @{call}(i8 {i}, i8 6, i8 7)" for i in every],
        [f"call void @llvm.x86.tilestored64({tile.format(i, f'%p{i}')})" for i in every]
        + ["call void @llvm.x86.tilerelease()"],
    )
    return Form(name, precision, frozenset(features.split()), 256, depth, len(every), code)


def _code(declarations: list[str], first: list[str], turn: list[str], last: list[str]) -> str:
    lines = {"first": first, "turn": turn, "last": last}
    return _LOOP.format(
        declarations="\n".join(declarations), **{block: "\n  ".join(each) for block, each in lines.items()}
    )


_X86, _ARM = "llvm.x86.avx512", "llvm.aarch64.neon"
FORMS = (
    _vectors("512-bit FMA", "fp32", "avx512f", "llvm.fma.v16f32", 1),
    _vectors("256-bit FMA", "fp32", "avx fma", "llvm.fma.v8f32", 1),
    _vectors("128-bit FMA", "fp32", "neon", "llvm.fma.v4f32", 1),
    _vectors("512-bit VDPBF16PS", "bf16", "avx512bf16", f"{_X86}bf16.dpbf16ps.512", 2, "<16 x i32>"),
    _vectors("256-bit VDPBF16PS", "bf16", "avx512bf16 avx512vl", f"{_X86}bf16.dpbf16ps.256", 2, "<8 x i32>"),
    _tiles("AMX TDPBF16PS", "bf16", "amx-tile amx-bf16", "llvm.x86.tdpbf16ps", 32),
    _vectors("128-bit BFDOT", "bf16", "bf16 neon", f"{_ARM}.bfdot.v4f32.v8bf16", 2, "<8 x bfloat>"),
    _vectors("128-bit BFMMLA", "bf16", "bf16 neon", f"{_ARM}.bfmmla", 4, "<8 x bfloat>"),
    _vectors("512-bit VPDPBUSD", "int8", "avx512vnni", f"{_X86}.vpdpbusd.512", 4),
    _vectors("256-bit VPDPBUSD", "int8", "avx512vnni avx512vl", f"{_X86}.vpdpbusd.256", 4),
    _vectors("256-bit VPDPBUSD (VEX)", "int8", "avxvnni", f"{_X86}.vpdpbusd.256", 4),
    _tiles("AMX TDPBUSD", "int8", "amx-tile amx-int8", "llvm.x86.tdpbusd", 64),
    _vectors("128-bit SDOT", "int8", "dotprod", f"{_ARM}.sdot.v4i32.v16i8", 4, "<16 x i8>"),
    _vectors("128-bit SMMLA", "int8", "i8mm", f"{_ARM}.smmla.v4i32.v16i8", 8, "<16 x i8>"),
)
