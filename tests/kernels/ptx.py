"""Run the PTX that Triton makes of a kernel, on NumPy: what a card would execute, and whether its threads race.

Only what Triton writes for this project's kernels is understood; anything else raises. All programs of a grid take each
instruction together, in arrays (programs, threads), until a branch parts them; the threads of one program must agree at
every branch. Instructions are those of NVIDIA's "Parallel Thread Execution ISA"; what a card computes approximately
(`ex2.approx`, `div.full`), or sums in an order of its own (`mma`), is rounded correctly here.

Memory is the tensors' own, and every access is checked: that it lies in a tensor which the kernel was given, that it is
aligned, and that it meets nothing that another thread wrote or read in the same launch without a barrier between.
"""

import re
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch

from benchmarks.host import StandIn

WARP = 32
UNIT = 2  # bytes that are watched together: no type of the kernels is smaller
NOBODY, SEVERAL = -1, -2  # instead of a thread or a program
BITS = {"pred": np.bool_, "b16": np.uint16, "b32": np.uint32, "b64": np.uint64}
TYPES = BITS | {
    "u16": np.uint16, "s16": np.int16, "u32": np.uint32, "s32": np.int32, "u64": np.uint64, "s64": np.int64,
    "f16": np.float16, "bf16": np.uint16, "f32": np.float32, "tf32": np.float32,
}  # fmt: skip
# All that Triton 3.9 writes for the kernels; what is not among it is not known to be right here.
KNOWN = frozenset(
    re.findall(
        r"\S+",
        """
        abs.f32 add.f32 add.s32 add.s64 and.b16 and.b32 and.b64 and.pred bar.sync bar.warp.sync bfe.s32 bfe.u32
        bra bra.uni cvt.f32.bf16 cvt.f32.f16 cvt.rn.bf16.f32 cvt.rn.bf16x2.f32 cvt.rn.f16.f32 cvt.rn.f16x2.f32
        cvt.rna.tf32.f32 cvt.s64.s32 cvt.u16.u32 cvt.u32.u16 cvt.u32.u64 cvt.u64.u32 div.full.f32 div.s32
        ex2.approx.ftz.f32 fma.rn.f32 ld.global.b16 ld.global.b32 ld.global.v2.b32 ld.global.v4.b32 ld.param.b32
        ld.param.b64 ld.param.s32 ld.shared.b32 ld.shared.v2.b32 ld.shared.v4.b32
        ldmatrix.sync.aligned.m8n8.x4.shared.b16 ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 mad.lo.s32
        mad.lo.s64 mad.wide.s32 mad.wide.u32 max.f32 max.s32 min.s32
        mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32
        mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 mov.b16 mov.b32 mov.b64 mov.pred mov.u16 mov.u32
        mul.f32 mul.hi.u32 mul.lo.s32 mul.lo.s64 mul.wide.s32 mul.wide.u16 mul.wide.u32 neg.f32 neg.s32 not.b32
        or.b16 or.b32 or.b64 or.pred prmt.b32 rem.s32 ret selp.b32 selp.f32 setp.eq.b32 setp.gt.f32 setp.gt.s32
        setp.lt.f32 setp.lt.s32 setp.lt.u32 setp.lt.u64 setp.ne.b32 setp.ne.b64 setp.neu.f32 setp.num.f32
        shfl.sync.bfly.b32 shfl.sync.idx.b32 shl.b16 shl.b32 shl.b64 shr.s32 shr.u16 shr.u32 st.global.b16 st.global.b32
        st.global.v2.b32 st.shared.b16 st.shared.b32 st.shared.v2.b32 st.shared.v4.b32
        stmatrix.sync.aligned.m8n8.x4.shared.b16 sub.f32 sub.s32 sub.s64 xor.b32
        """,
    )
)
STATEMENT = re.compile(r"(?:@(?P<negated>!)?(?P<guard>%p\d+) )?(?P<name>[a-z][\w.:]*) ?(?P<operands>.*)")


def fused(a, b, c):
    """a b + c of float32: the product exact, the sum rounded to float64 and then to float32."""
    return (a.astype(np.float64) * b + c).astype(np.float32)


# Instructions that are one function of their operands; of a number and none, `fmin` and `fmax` are the number.
OF_EACH = {
    "abs": np.abs, "add": np.add, "and": np.bitwise_and, "fma": fused, "max": np.fmax, "min": np.fmin,
    "neg": np.negative, "not": np.invert, "or": np.bitwise_or, "rem": np.fmod, "sub": np.subtract,
    "xor": np.bitwise_xor,
}  # fmt: skip


class Race(AssertionError):
    """Two threads meet at a place in memory, one of them writes, and no barrier says which is first."""


@dataclass(frozen=True)
class Instruction:
    """`@!guard name.modifiers operands;`"""

    name: str
    modifiers: tuple[str, ...]
    operands: tuple
    guard: str | None
    negated: bool
    line: str


@dataclass(frozen=True)
class Code:
    """A kernel: instructions, which of them a label stands before, parameters, and types of registers by letter."""

    instructions: list[Instruction]
    labels: dict[str, int]
    parameters: list[str]
    registers: dict[str, str]


def parse(text):
    """The only kernel of a PTX module."""
    text = re.sub(r"//.*", "", text)
    head, _, body = text[text.index(".entry") :].partition("{")
    body = body[: body.index("\n}")]
    registers = {letters: kind for kind, letters in re.findall(r"\.reg \.(\w+)\s+%([a-z]+)<", body)}
    body = re.sub(r"^\s*\.(reg|loc|pragma)\b.*$", "", body, flags=re.MULTILINE)
    instructions, labels = [], {}
    for statement in re.split(r";|(?<=:)\s", body):
        statement = " ".join(statement.split())
        if statement.endswith(":"):
            labels[statement[:-1]] = len(instructions)
        elif statement:
            found = STATEMENT.fullmatch(statement)
            if found is None or found["name"] not in KNOWN or (found["guard"] and found["name"] == "ret"):
                raise NotImplementedError(statement)
            name, *modifiers = re.split(r"[.:]+", found["name"])
            operands = tuple(map(operand, re.findall(r"\{[^}]*\}|\[[^\]]*\]|[^\s,]+", found["operands"])))
            negated = found["negated"] is not None
            instructions.append(Instruction(name, tuple(modifiers), operands, found["guard"], negated, statement))
    return Code(instructions, labels, re.findall(r"\.param .*?(\w+_param_\d+)", head), registers)


def operand(text):
    """A name, an immediate's bits, a tuple of operands, or an address: a list of a base and an offset."""
    if text[0] == "{":
        return tuple(operand(t.strip()) for t in text[1:-1].split(","))
    if text[0] == "[":
        base, _, offset = text[1:-1].replace(" ", "").partition("+")
        return [base, int(offset or 0)]
    if text.startswith("0f"):
        return int(text[2:], 16)
    return int(text, 0) if re.fullmatch(r"-?(0x[0-9a-fA-F]+|\d+)", text) else text


class Memory:
    """A tensor's memory, or the shared memory of all programs; who wrote and who read last is known of each unit."""

    def __init__(self, units, base):
        self.units, self.base = units, base
        self.writer, self.reader = np.full(len(units), NOBODY), np.full(len(units), NOBODY)
        self.writing, self.reading = np.full((2, len(units)), NOBODY), np.full((2, len(units)), NOBODY)

    def load(self, places, size, who, when):
        """(m, size) bytes as units: places (m,) in bytes from the base, by threads `who` (m,), at (program, phase)."""
        at, who, when = self.watch(places, size, who, when)
        self.meets(self.writer, self.writing, at, who, when, "read after a write")
        shared = self.concerns(self.reader, self.reading, at, who, when)
        program = np.where((self.reader[at] != NOBODY) & (self.reading[0, at] != when[0]), SEVERAL, when[0])
        self.reader[at] = who
        self.reading[:, at] = program, np.broadcast_to(when[1], at.shape)
        self.reader[at[shared | (self.reader[at] != who)]] = SEVERAL  # before, or at once
        self.reading[0, at[self.reading[0, at] != program]] = SEVERAL
        return self.units[at]

    def store(self, places, values, who, when):
        """Write (m, units)."""
        at, who, when = self.watch(places, values.shape[-1] * UNIT, who, when)
        self.meets(self.writer, self.writing, at, who, when, "write after a write")
        self.meets(self.reader, self.reading, at, who, when, "write after a read")
        if len(np.unique(at)) < at.size:
            raise Race("several threads write at once")
        self.writer[at] = who
        self.writing[:, at] = np.broadcast_to(when[0], at.shape), np.broadcast_to(when[1], at.shape)
        self.units[at] = values

    def watch(self, places, size, who, when):
        """The units of each access, and the others as their columns."""
        if (places % size).any():
            raise AssertionError(f"an access of {size} bytes is not aligned")
        return places[:, None] // UNIT + np.arange(size // UNIT), who[:, None], [w[:, None] for w in when]

    @staticmethod
    def concerns(last, at_time, at, who, when):
        """Where another thread was last, and no barrier since."""
        program, phase = at_time[:, at]
        other = (program != when[0]) | (((last[at] != who) | (who == SEVERAL)) & (phase == when[1]))
        return (last[at] != NOBODY) & other

    def meets(self, last, at_time, at, who, when, what):
        if self.concerns(last, at_time, at, who, when).any():
            raise Race(what)


class Machine:
    """Some programs of a launch, which have taken the same way so far."""

    def __init__(self, code, programs, threads, arguments, shared, memories):
        self.code, self.threads, self.memories, self.shared_size = code, threads, memories, shared
        self.programs = np.arange(programs)
        self.phase = np.zeros(programs, int)  # barriers passed
        self.arguments = dict(zip(code.parameters, arguments, strict=True))
        self.registers = {}
        self.shared = Memory(np.full(programs * shared // UNIT, 0x7FFF, np.uint16), 0)  # NaN, of every type
        self.next = 0

    def run(self):
        """To the end, of these programs and those that part from them."""
        waiting = [self]
        while waiting:
            machine = waiting.pop()
            while machine.next < len(machine.code.instructions):
                instruction = machine.code.instructions[machine.next]
                machine.next += 1
                try:
                    with np.errstate(all="ignore"):
                        parted = machine.step(instruction)
                except Exception as error:
                    error.add_note(f"at: {instruction.line}")
                    raise
                waiting += parted or ()

    def step(self, i):
        """Take one instruction; the programs that part, if some do."""
        if i.name in OF_EACH:
            return self.typed(i, OF_EACH[i.name])
        return getattr(self, f"do_{i.name}")(i)

    # Registers

    @cached_property
    def shape(self):
        return len(self.programs), self.threads

    def get(self, name, kind):
        """An operand (programs, threads), or (1,) if it is immediate, of that type."""
        dtype = np.dtype(TYPES[kind])
        if name == "%tid.x":
            return np.broadcast_to(np.arange(self.threads, dtype=dtype), self.shape)
        if name == "%ctaid.x":
            return np.broadcast_to(self.programs.astype(dtype)[:, None], self.shape)
        if name == "global_smem":
            name = 0
        bits = np.dtype(f"u{dtype.itemsize}") if dtype != np.bool_ else dtype
        if isinstance(name, int):
            return np.array([name & (1 << 8 * dtype.itemsize) - 1], np.uint64).astype(bits).view(dtype)
        return self.registers[name].astype(bits, copy=False).view(dtype)

    def set(self, instruction, name, value):
        """Write a register, where the guard holds; an integer that is shorter is extended by its own sign."""
        if name == "_":  # a part of a register that nobody wants
            return
        bits = np.dtype(BITS[self.code.registers[name.strip("%0123456789")]])
        if value.dtype.kind == "f":
            value = value.view(f"u{value.dtype.itemsize}")
        value = np.broadcast_to(value.astype(bits), self.shape)
        active = self.active(instruction)
        if active is not None:
            unset = np.zeros((), bits) if bits == np.bool_ else np.asarray(0x7FFF7FFF7FFF7FFF).astype(bits)  # NaN
            value = np.where(active, value, self.registers.get(name, unset))
        self.registers[name] = value

    def active(self, instruction):
        """The threads whose guard holds; None without one."""
        if instruction.guard is None:
            return None
        return self.registers[instruction.guard] ^ instruction.negated

    # Flow

    def do_bra(self, i):
        target = self.code.labels[i.operands[-1]]
        if i.guard is None:
            self.next = target
            return []
        jumping = self.active(i)
        if (jumping != jumping[:, :1]).any():
            raise AssertionError("threads of one program part")
        jumping = jumping[:, 0]
        if jumping.all():
            self.next = target
        elif jumping.any():
            other = self.part(jumping)
            self.__dict__ = self.part(~jumping).__dict__
            other.next = target
            return [other]
        return []

    def part(self, chosen):
        """Some of the programs."""
        part = object.__new__(Machine)
        part.__dict__ = {k: v for k, v in self.__dict__.items() if k != "shape"}
        part.programs, part.phase = self.programs[chosen], self.phase[chosen]
        part.registers = {name: value[chosen] for name, value in self.registers.items()}
        return part

    def do_ret(self, i):
        self.next = len(self.code.instructions)

    def do_bar(self, i):
        self.phase = self.phase + 1

    # Memory

    def do_ld(self, i):
        kind = i.modifiers[-1]
        if i.modifiers[0] == "param":
            value = self.arguments[i.operands[1][0]]
            self.set(i, i.operands[0], np.array([value]).astype(TYPES[kind]))
            return
        targets = i.operands[0] if isinstance(i.operands[0], tuple) else (i.operands[0],)
        size = np.dtype(TYPES[kind]).itemsize
        values = self.access(i, i.operands[1], size * len(targets))
        for target, value in zip(targets, np.split(values, len(targets), axis=-1), strict=True):
            self.set(i, target, np.ascontiguousarray(value).view(f"u{size}")[..., 0])

    def do_st(self, i):
        kind = i.modifiers[-1]
        sources = i.operands[1] if isinstance(i.operands[1], tuple) else (i.operands[1],)
        values = [np.broadcast_to(self.get(source, kind), self.shape)[..., None] for source in sources]
        values = np.concatenate(values, axis=-1)
        self.access(i, i.operands[0], values.dtype.itemsize * len(sources), values.view(np.uint16))

    def access(self, i, address, size, values=None, together=False):
        """Units (programs, threads, size / 2) of memory; store `values` if given.

        together: whether it is one access of all threads of a warp, rather than one of each.
        """
        base, offset = address
        shared = "shared" in i.modifiers
        places = self.get(base, "u32" if shared else "u64").astype(np.int64) + offset
        places = np.broadcast_to(places, self.shape)
        active = self.active(i)
        active = np.ones(places.shape, bool) if active is None else np.broadcast_to(active, places.shape)
        program = np.broadcast_to(self.programs[:, None], places.shape)
        who = program * self.threads + np.arange(places.shape[-1])
        if together:
            who = np.full_like(who, SEVERAL)
        phase = np.broadcast_to(self.phase[:, None], places.shape)
        if shared:
            if (places[active] + size > self.shared_size).any() or (places[active] < 0).any():
                raise AssertionError("an access beyond the shared memory of a program")
            places = places + program * self.shared_size
        out = np.zeros((*places.shape, size // UNIT), np.uint16)
        for memory in (self.shared,) if shared else self.memories:
            inside = active & (places >= memory.base) & (places + size <= memory.base + UNIT * len(memory.units))
            if not inside.any():
                continue
            at = places[inside] - memory.base, who[inside], (program[inside], phase[inside])
            if values is None:
                out[inside] = memory.load(at[0], size, *at[1:])
            else:
                memory.store(at[0], values[inside], *at[1:])
            active = active & ~inside
        if active.any():
            raise AssertionError(f"an access beyond all tensors, of {active.sum()} threads")
        return out

    def do_ldmatrix(self, i):
        """Four matrices of 8 x 8; the threads of eight lanes hold the addresses of a matrix's rows."""
        if self.threads != WARP:
            raise NotImplementedError(i.line)
        matrices = self.access(i, i.operands[1], 16, together=True).reshape(-1, 4, 8, 8)
        if "trans" in i.modifiers:
            matrices = matrices.swapaxes(2, 3)
        values = np.ascontiguousarray(matrices).reshape(-1, 4, WARP, 2).view(np.uint32)
        for m, target in enumerate(i.operands[0]):
            self.set(i, target, values[:, m, :, 0])

    def do_stmatrix(self, i):
        if self.threads != WARP:
            raise NotImplementedError(i.line)
        values = np.stack([np.broadcast_to(self.get(v, "b32"), self.shape) for v in i.operands[1]], axis=1)
        matrices = np.ascontiguousarray(values)[..., None].view(np.uint16).reshape(-1, 4, 8, 8)
        self.access(i, i.operands[0], 16, matrices.reshape(-1, WARP, 8), together=True)

    # Between threads

    def do_shfl(self, i):
        """Modes `bfly` and `idx`, of a whole warp."""
        target, source, step, clamp, members = i.operands
        if (clamp, members) != (31, -1):
            raise NotImplementedError(i.line)
        lanes = np.broadcast_to(np.arange(self.threads), self.shape)
        step = np.broadcast_to(self.get(step, "u32"), self.shape).astype(int)
        within = {"bfly": lanes % WARP ^ step, "idx": step % WARP}[i.modifiers[1]]
        values = np.broadcast_to(self.get(source, "b32"), self.shape)
        self.set(i, target, np.take_along_axis(values, lanes // WARP * WARP + within, axis=1))

    def do_mma(self, i):
        """D = A B + C of a warp, A (16, k) and B (k, 8), spread over threads as the ISA's figures show."""
        m, n, k = 16, 8, {"m16n8k16": 16, "m16n8k8": 8}[i.modifiers[2]]
        kind = i.modifiers[-2]
        if self.threads != WARP:
            raise NotImplementedError(i.line)
        group, member = np.divmod(np.arange(WARP), 4)
        each = 4 // np.dtype(TYPES[kind]).itemsize  # numbers of a register
        A, B, C = (np.zeros((len(self.programs), *shape)) for shape in ((m, k), (k, n), (m, n)))
        for r, register in enumerate(i.operands[1]):
            for j, values in enumerate(self.numbers(register, kind)):
                A[:, group + 8 * (r % 2), member * each + j + r // 2 * k // 2] = values
        for r, register in enumerate(i.operands[2]):
            for j, values in enumerate(self.numbers(register, kind)):
                B[:, member * each + j + r * k // 2, group] = values
        places = [(group + 8 * (r // 2), member * 2 + r % 2) for r in range(4)]
        for (row, column), register in zip(places, i.operands[3], strict=True):
            C[:, row, column] = self.get(register, "f32")
        D = (A @ B + C).astype(np.float32)
        for (row, column), register in zip(places, i.operands[0], strict=True):
            self.set(i, register, D[:, row, column])

    def numbers(self, register, kind):
        """The one or two numbers of 32 bits."""
        bits = np.broadcast_to(self.get(register, "b32"), self.shape)
        if kind == "tf32":
            return [(bits & ~np.uint32(0x1FFF)).view(np.float32)]
        halves = [(bits >> shift & 0xFFFF).astype(np.uint16) for shift in (0, 16)]
        return [half.view(np.float16) if kind == "f16" else widened(half) for half in halves]

    # Arithmetic

    def do_mov(self, i):
        target, source = i.operands
        kind = i.modifiers[-1]
        if isinstance(source, tuple):  # the parts of a register, the lowest first
            part = f"b{int(kind[1:]) // len(source)}"
            values = [np.broadcast_to(self.get(v, part), self.shape)[..., None] for v in source]
            self.set(i, target, np.concatenate(values, axis=-1).view(TYPES[kind])[..., 0])
        elif isinstance(target, tuple):
            whole = np.broadcast_to(self.get(source, kind), self.shape)[..., None]
            parts = np.ascontiguousarray(whole).view(f"u{whole.itemsize // len(target)}")
            for n, part in enumerate(target):
                self.set(i, part, parts[..., n])
        else:
            self.set(i, target, self.get(source, kind))

    def typed(self, i, function):
        """Write a function of the operands, all of the instruction's type."""
        self.set(i, i.operands[0], function(*(self.get(o, i.modifiers[-1]) for o in i.operands[1:])))

    def do_mul(self, i):
        self.typed(i, lambda a, b: product(i, a, b))

    def do_mad(self, i):
        a, b, c = i.operands[1:]
        kind = i.modifiers[-1]
        sum_of = product(i, self.get(a, kind), self.get(b, kind))
        self.set(i, i.operands[0], sum_of + self.get(c, sum_of.dtype.kind.replace("i", "s") + str(8 * sum_of.itemsize)))

    def do_div(self, i):
        def towards_zero(a, b):
            return np.trunc(a.astype(np.float64) / b).astype(a.dtype)  # exact, of 32 bits

        self.typed(i, np.divide if i.modifiers[-1] == "f32" else towards_zero)

    def do_ex2(self, i):
        def exp2(a):
            flushed = np.where(np.abs(a) < np.finfo(np.float32).tiny, 0, a)
            power = np.exp2(flushed.astype(np.float64)).astype(np.float32)
            return np.where(power < np.finfo(np.float32).tiny, np.float32(0), power)

        self.typed(i, exp2)

    def do_shl(self, i):
        self.shift(i, np.left_shift)

    def do_shr(self, i):
        self.shift(i, np.right_shift)

    def shift(self, i, function):
        value, steps = self.get(i.operands[1], i.modifiers[-1]), self.get(i.operands[2], "u32")
        if (steps >= 8 * value.itemsize).any():
            raise NotImplementedError(i.line)
        self.set(i, i.operands[0], function(value, steps.astype(value.dtype)))

    def do_bfe(self, i):
        """Some bits of a number, extended by zeros or by the highest of them."""
        value, first, count = i.operands[1:]
        kept = self.get(value, i.modifiers[-1])
        left = 8 * kept.itemsize - first - count
        if left < 0:
            raise NotImplementedError(i.line)
        self.set(i, i.operands[0], kept << kept.dtype.type(left) >> kept.dtype.type(left + first))

    def do_prmt(self, i):
        """Any four of the eight bytes of two registers."""
        a, b, chosen = (np.broadcast_to(self.get(o, "b32"), self.shape) for o in i.operands[1:])
        eight = np.concatenate([np.ascontiguousarray(v)[..., None].view(np.uint8) for v in (a, b)], axis=-1)
        codes = chosen[..., None] >> np.arange(0, 16, 4, dtype=np.uint32) & 15
        if (codes >= 8).any():
            raise NotImplementedError(i.line)
        self.set(i, i.operands[0], np.take_along_axis(eight, codes.astype(int), axis=-1).view(np.uint32)[..., 0])

    def do_setp(self, i):
        def both_are_numbers(a, b):
            return ~(np.isnan(a) | np.isnan(b))

        compare = {
            "eq": np.equal,
            "ne": np.not_equal,
            "neu": np.not_equal,  # or unordered, which is NumPy's too
            "lt": np.less,
            "gt": np.greater,
            "num": both_are_numbers,
        }
        self.typed(i, compare[i.modifiers[0]])

    def do_selp(self, i):
        a, b, chosen = i.operands[1:]
        kind = i.modifiers[-1]
        self.set(i, i.operands[0], np.where(self.get(chosen, "pred"), self.get(a, kind), self.get(b, kind)))

    def do_cvt(self, i):
        *_, to, of = i.modifiers
        values = [self.get(o, of) for o in i.operands[1:]]
        if to in ("bf16x2", "f16x2"):  # the first operand is the upper half
            upper, lower = (narrowed(v, to[:-2]).astype(np.uint32) for v in values)
            self.set(i, i.operands[0], upper << np.uint32(16) | lower)
        elif to in ("bf16", "f16"):
            self.set(i, i.operands[0], narrowed(values[0], to))
        elif to == "tf32":
            rounded = values[0].view(np.uint32) + np.uint32(0x1000) & ~np.uint32(0x1FFF)
            self.set(i, i.operands[0], np.where(np.isfinite(values[0]), rounded, values[0].view(np.uint32)))
        elif of == "bf16":
            self.set(i, i.operands[0], widened(values[0]))
        else:
            self.set(i, i.operands[0], values[0].astype(TYPES[to]))


def product(i, a, b):
    """What `mul` and `mad` make of two numbers: the low or high half of the integer, or all of it, or a float."""
    if "wide" in i.modifiers:
        wide = np.dtype(f"{a.dtype.kind}{2 * a.itemsize}")
        return a.astype(wide) * b.astype(wide)
    if "hi" in i.modifiers:
        wide = np.dtype(f"{a.dtype.kind}{2 * a.itemsize}")
        return (a.astype(wide) * b.astype(wide) >> wide.type(8 * a.itemsize)).astype(a.dtype)
    return a * b


def widened(bits):
    """bfloat16 as float32."""
    return (bits.astype(np.uint32) << np.uint32(16)).view(np.float32)


def narrowed(values, kind):
    """float32 rounded to even, as the bits of a half."""
    if kind == "f16":
        return values.astype(np.float16).view(np.uint16)
    bits = values.view(np.uint32)
    rounded = (bits + np.uint32(0x7FFF) + (bits >> np.uint32(16) & np.uint32(1))) >> np.uint32(16)
    return np.where(np.isnan(values), np.uint32(0x7FFF), rounded).astype(np.uint16)


class Card(StandIn):
    """A card that runs what is launched, on the memory of CPU tensors."""

    def launcher_cls(self, source, metadata):
        from triton.runtime.cache import get_cache_manager

        path = get_cache_manager(metadata.hash).get_file(f"{metadata.name}.ptx")
        with open(path) as file:
            code = parse(file.read())
        names = source.fn.arg_names

        def launch(x, y, z, stream, function, packed, launch_metadata, enter, leave, *arguments):
            self.launches += 1
            assert (y, z) == (1, 1)
            given = [v for name, v in zip(names, arguments, strict=True) if source.signature[name] != "constexpr"]
            storages = {v.untyped_storage().data_ptr(): v.untyped_storage() for v in given if torch.is_tensor(v)}
            memories = []
            for base, storage in storages.items():
                units = torch.empty(0, dtype=torch.int16).set_(storage, 0, (storage.nbytes() // UNIT,))
                memories.append(Memory(units.numpy().view(np.uint16), base))
            values = [v.data_ptr() if torch.is_tensor(v) else v for v in given]
            values += [0] * (len(code.parameters) - len(values))  # scratch memory, of which no kernel has any
            try:
                Machine(code, x, WARP * metadata.num_warps, values, metadata.shared, memories).run()
            except Exception as error:
                error.add_note(f"in {metadata.name}")
                raise

        return launch
