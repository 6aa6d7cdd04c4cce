"""Tables whose rows depend on every element of the row before, and what they must compute."""

from __future__ import annotations

import functools

import llvmlite.binding as llvm
import numpy as np

from skipjack.codegen.compile_object import compile_text
from skipjack.codegen.jit import Library

_MIX = """
define void @mix(ptr %args, i64 %from, i64 %to, ptr %scratch) nounwind {
entry:
  %src = load ptr, ptr %args
  %dst.p = getelementptr i64, ptr %args, i64 1
  %dst = load ptr, ptr %dst.p
  %n.p = getelementptr i64, ptr %args, i64 2
  %n = load i64, ptr %n.p
  %any = icmp slt i64 %from, %to
  br i1 %any, label %loop, label %out
loop:
  %i = phi i64 [ %from, %entry ], [ %i1, %loop ]
  %i1 = add i64 %i, 1
  %wraps = icmp eq i64 %i1, %n
  %j = select i1 %wraps, i64 0, i64 %i1
  %a.p = getelementptr i64, ptr %src, i64 %i
  %a = load i64, ptr %a.p
  %b.p = getelementptr i64, ptr %src, i64 %j
  %b = load i64, ptr %b.p
  %a3 = mul i64 %a, 3
  %sum = add i64 %a3, %b
  store i64 %sum, ptr %scratch
  %kept = load i64, ptr %scratch
  %d.p = getelementptr i64, ptr %dst, i64 %i
  store i64 %kept, ptr %d.p
  %more = icmp slt i64 %i1, %to
  br i1 %more, label %loop, label %out
out:
  ret void
}
"""


@functools.cache
def _mix() -> Library:
    code = compile_text(_MIX, llvm.get_process_triple(), llvm.get_host_cpu_name(), "")
    return Library(code, ["mix"])


class Chain:
    """rows rows that write x[i] * 3 + x[i + 1] to and fro between two buffers of n words."""

    def __init__(self, rows: int, n: int, seed: int = 0) -> None:
        self.start = np.random.default_rng(seed).integers(-(1 << 60), 1 << 60, n)
        self.buffers = [self.start.copy(), np.zeros(n, np.int64)]
        there, back = (b.ctypes.data for b in self.buffers)
        self._args = np.array([[there, back, n], [back, there, n]], np.int64)
        address = _mix().address("mix")
        starts = [self._args.ctypes.data, self._args.ctypes.data + 24]
        self.table = np.array([(address, starts[i % 2], n, i > 0) for i in range(rows)], np.int64).reshape(rows, 4)
        self.rows = rows

    def reset(self) -> None:
        self.buffers[0][:] = self.start
        self.buffers[1][:] = -1

    @functools.cached_property
    def expected(self) -> np.ndarray:
        x = self.start.copy()
        for _ in range(self.rows):
            x = x * 3 + np.roll(x, -1)
        return x

    def check(self) -> None:
        """The last buffer written holds what the chain means."""
        np.testing.assert_array_equal(self.buffers[self.rows % 2], self.expected)
