"""The walk over the plan, in jitted code: rows of (kernel, arguments, units, barrier) run by every thread of a team.

A control block of 64-bit words, one cache line per contended word, holds the job and the synchronisation state.
"""

from __future__ import annotations

import functools
import platform

import llvmlite.binding as llvm

from skipjack.codegen.compile_object import compile_text
from skipjack.codegen.jit import Library
from skipjack.runtime.platform import FUTEX_WAIT, FUTEX_WAKE

GENERATION, ARRIVALS, RELEASED = 0, 8, 16
TABLE, ROWS, SCRATCH, SCRATCH_STRIDE, THREADS, YIELD, STOP, STAMPS = 24, 25, 26, 27, 28, 29, 30, 31
SLEEPERS, FUTEX, FUTEX_NUMBER, SPINS = 32, 33, 34, 35
EPOCHS = 40
ROW_WORDS = 4
_SPINS_BEFORE_YIELD = 4000

_PAUSE = {
    "x86": ("declare void @llvm.x86.sse2.pause()", "call void @llvm.x86.sse2.pause()"),
    "arm": ("declare void @llvm.aarch64.hint(i32)", "call void @llvm.aarch64.hint(i32 1)"),
}


def control_words(threads: int) -> int:
    """Length of a control block; every thread has a line for its epoch."""
    return EPOCHS + 8 * threads


_TEXT = """
{declare}
declare i64 @llvm.readcyclecounter()

define internal void @barrier(ptr %c, i64 %tid) nounwind {{
entry:
  %nthreads.p = getelementptr i64, ptr %c, i64 {THREADS}
  %nthreads = load i64, ptr %nthreads.p
  %lane = mul i64 %tid, 8
  %slot = add i64 %lane, {EPOCHS}
  %epoch.p = getelementptr i64, ptr %c, i64 %slot
  %old = load i64, ptr %epoch.p
  %epoch = add i64 %old, 1
  store i64 %epoch, ptr %epoch.p
  %arrivals.p = getelementptr i64, ptr %c, i64 {ARRIVALS}
  %released.p = getelementptr i64, ptr %c, i64 {RELEASED}
  %before = atomicrmw add ptr %arrivals.p, i64 1 acq_rel
  %now = add i64 %before, 1
  %full = mul i64 %epoch, %nthreads
  %last = icmp eq i64 %now, %full
  br i1 %last, label %release, label %wait
release:
  store atomic i64 %epoch, ptr %released.p release, align 8
  ret void
wait:
  %n = phi i64 [ 0, %entry ], [ %n1, %again ]
  %seen = load atomic i64, ptr %released.p acquire, align 8
  %done = icmp sge i64 %seen, %epoch
  br i1 %done, label %out, label %spin
spin:
  {pause}
  %n1 = add i64 %n, 1
  %long = icmp sgt i64 %n1, {YIELD_AFTER}
  br i1 %long, label %sleepy, label %again
sleepy:
  %yield.p = getelementptr i64, ptr %c, i64 {YIELD}
  %yield = load ptr, ptr %yield.p
  %can = icmp ne ptr %yield, null
  br i1 %can, label %doyield, label %again
doyield:
  %r = call i32 %yield()
  br label %again
again:
  br label %wait
out:
  ret void
}}

define void @walk(ptr %c, i64 %tid) nounwind {{
entry:
  %table.p = getelementptr i64, ptr %c, i64 {TABLE}
  %table = load ptr, ptr %table.p
  %rows.p = getelementptr i64, ptr %c, i64 {ROWS}
  %rows = load i64, ptr %rows.p
  %scratch.p = getelementptr i64, ptr %c, i64 {SCRATCH}
  %scratch0 = load ptr, ptr %scratch.p
  %stride.p = getelementptr i64, ptr %c, i64 {SCRATCH_STRIDE}
  %stride = load i64, ptr %stride.p
  %off = mul i64 %stride, %tid
  %scratch = getelementptr i8, ptr %scratch0, i64 %off
  %nthreads.p = getelementptr i64, ptr %c, i64 {THREADS}
  %nthreads = load i64, ptr %nthreads.p
  %stamps.p = getelementptr i64, ptr %c, i64 {STAMPS}
  %stamps0 = load ptr, ptr %stamps.p
  %first = icmp eq i64 %tid, 0
  %stamps = select i1 %first, ptr %stamps0, ptr null
  %timed = icmp ne ptr %stamps, null
  %single = icmp eq i64 %nthreads, 1
  %tid1 = add i64 %tid, 1
  %any = icmp sgt i64 %rows, 0
  br i1 %any, label %row, label %done
row:
  %i = phi i64 [ 0, %entry ], [ %i1, %next ]
  %base = mul i64 %i, {ROW_WORDS}
  %r = getelementptr i64, ptr %table, i64 %base
  br i1 %timed, label %stamp, label %sync
stamp:
  %t = call i64 @llvm.readcyclecounter()
  %stamp.p = getelementptr i64, ptr %stamps, i64 %i
  store i64 %t, ptr %stamp.p
  br label %sync
sync:
  br i1 %single, label %share1, label %maybe
maybe:
  %flag.p = getelementptr i64, ptr %r, i64 3
  %flag = load i64, ptr %flag.p
  %must = icmp ne i64 %flag, 0
  br i1 %must, label %meet, label %shareN
meet:
  call void @barrier(ptr %c, i64 %tid)
  br label %shareN
shareN:
  %unitsN.p = getelementptr i64, ptr %r, i64 2
  %unitsN = load i64, ptr %unitsN.p
  %a = mul i64 %unitsN, %tid
  %lo = udiv i64 %a, %nthreads
  %b = mul i64 %unitsN, %tid1
  %hi = udiv i64 %b, %nthreads
  %some = icmp slt i64 %lo, %hi
  br i1 %some, label %call, label %next
share1:
  %units1.p = getelementptr i64, ptr %r, i64 2
  %units1 = load i64, ptr %units1.p
  %some1 = icmp sgt i64 %units1, 0
  br i1 %some1, label %call, label %next
call:
  %from = phi i64 [ %lo, %shareN ], [ 0, %share1 ]
  %to = phi i64 [ %hi, %shareN ], [ %units1, %share1 ]
  %f = load ptr, ptr %r
  %args.p = getelementptr i64, ptr %r, i64 1
  %args = load ptr, ptr %args.p
  call void %f(ptr %args, i64 %from, i64 %to, ptr %scratch)
  br label %next
next:
  %i1 = add i64 %i, 1
  %more = icmp slt i64 %i1, %rows
  br i1 %more, label %row, label %done
done:
  br i1 %timed, label %laststamp, label %out
laststamp:
  %tl = call i64 @llvm.readcyclecounter()
  %sl.p = getelementptr i64, ptr %stamps, i64 %rows
  store i64 %tl, ptr %sl.p
  br label %out
out:
  ret void
}}

define internal void @futex(ptr %c, i64 %operation, i64 %value) nounwind {{
  %f.p = getelementptr i64, ptr %c, i64 {FUTEX}
  %f = load ptr, ptr %f.p
  %number.p = getelementptr i64, ptr %c, i64 {FUTEX_NUMBER}
  %number = load i64, ptr %number.p
  %r = call i64 %f(i64 %number, ptr %c, i64 %operation, i64 %value, ptr null, ptr null, i64 0)
  ret void
}}

define internal void @post(ptr %c) nounwind {{
entry:
  %gen.p = getelementptr i64, ptr %c, i64 {GENERATION}
  %old = atomicrmw add ptr %gen.p, i64 1 seq_cst
  %sleepers.p = getelementptr i64, ptr %c, i64 {SLEEPERS}
  %sleepers = load atomic i64, ptr %sleepers.p seq_cst, align 8
  %any = icmp ne i64 %sleepers, 0
  br i1 %any, label %wake, label %out
wake:
  call void @futex(ptr %c, i64 {FUTEX_WAKE}, i64 1073741824)
  br label %out
out:
  ret void
}}

define void @run(ptr %c) nounwind {{
entry:
  %nthreads.p = getelementptr i64, ptr %c, i64 {THREADS}
  %nthreads = load i64, ptr %nthreads.p
  %single = icmp eq i64 %nthreads, 1
  br i1 %single, label %alone, label %team
alone:
  call void @walk(ptr %c, i64 0)
  ret void
team:
  call void @post(ptr %c)
  call void @walk(ptr %c, i64 0)
  call void @barrier(ptr %c, i64 0)
  ret void
}}

define void @stop(ptr %c) nounwind {{
  %stop.p = getelementptr i64, ptr %c, i64 {STOP}
  store atomic i64 1, ptr %stop.p seq_cst, align 8
  call void @post(ptr %c)
  ret void
}}

define void @work(ptr %c, i64 %tid, i64 %start) nounwind {{
entry:
  %gen.p = getelementptr i64, ptr %c, i64 {GENERATION}
  %stop.p = getelementptr i64, ptr %c, i64 {STOP}
  %sleepers.p = getelementptr i64, ptr %c, i64 {SLEEPERS}
  %spins.p = getelementptr i64, ptr %c, i64 {SPINS}
  %spins = load i64, ptr %spins.p
  br label %look
look:
  %seen = phi i64 [ %start, %entry ], [ %seen, %pause ], [ %seen, %awake ], [ %gen, %job ]
  %n = phi i64 [ 0, %entry ], [ %n1, %pause ], [ 0, %awake ], [ 0, %job ]
  %gen = load atomic i64, ptr %gen.p acquire, align 8
  %fresh = icmp ne i64 %gen, %seen
  br i1 %fresh, label %check, label %bored
bored:
  %n1 = add i64 %n, 1
  %tired = icmp sgt i64 %n1, %spins
  br i1 %tired, label %sleep, label %pause
pause:
  {pause}
  br label %look
check:
  %stop = load atomic i64, ptr %stop.p acquire, align 8
  %stopping = icmp ne i64 %stop, 0
  br i1 %stopping, label %leave, label %job
job:
  call void @walk(ptr %c, i64 %tid)
  call void @barrier(ptr %c, i64 %tid)
  br label %look
sleep:
  %s1 = atomicrmw add ptr %sleepers.p, i64 1 seq_cst
  br label %doze
doze:
  %now = load atomic i64, ptr %gen.p seq_cst, align 8
  %same = icmp eq i64 %now, %seen
  br i1 %same, label %wait, label %awake
wait:
  %low = and i64 %seen, 4294967295
  call void @futex(ptr %c, i64 {FUTEX_WAIT}, i64 %low)
  br label %doze
awake:
  %s2 = atomicrmw sub ptr %sleepers.p, i64 1 seq_cst
  br label %look
leave:
  ret void
}}
"""


def source() -> str:
    """The LLVM text of the walker for this machine."""
    declare, pause = _PAUSE["arm" if platform.machine().lower() in ("arm64", "aarch64") else "x86"]
    return _TEXT.format(
        declare=declare,
        pause=pause,
        YIELD_AFTER=_SPINS_BEFORE_YIELD,
        GENERATION=GENERATION,
        ARRIVALS=ARRIVALS,
        RELEASED=RELEASED,
        TABLE=TABLE,
        ROWS=ROWS,
        SCRATCH=SCRATCH,
        SCRATCH_STRIDE=SCRATCH_STRIDE,
        THREADS=THREADS,
        YIELD=YIELD,
        STOP=STOP,
        STAMPS=STAMPS,
        SLEEPERS=SLEEPERS,
        FUTEX=FUTEX,
        FUTEX_NUMBER=FUTEX_NUMBER,
        SPINS=SPINS,
        FUTEX_WAIT=FUTEX_WAIT,
        FUTEX_WAKE=FUTEX_WAKE,
        EPOCHS=EPOCHS,
        ROW_WORDS=ROW_WORDS,
    )


@functools.cache
def library() -> Library:
    """The walker, compiled in this process: its text is ours and fixed, so LLVM cannot meet a surprise."""
    code = compile_text(source(), llvm.get_process_triple(), llvm.get_host_cpu_name(), "")
    return Library(code, ["walk", "run", "stop", "work"])
