"""What is read off the text of a TPU program, on one small enough to count by hand."""

import re

from experiments.scale.tpu_program import estimated_cycles, off_chip, off_chip_bytes

# A table of 50 rows of 128 bytes, of which 8 are gathered; a loop of 5 turns; a copy in parts.
PROGRAM = """HloModule jit_step, is_scheduled=true

%fused (param_0: u8[50,128], param_1: s32[8]) -> u8[8,128] {
  %param_0 = u8[50,128]{1,0:T(8,128)(4,1)} parameter(0)
  %param_1 = s32[8]{0:T(128)S(1)} parameter(1)
  ROOT %gather.1 = u8[8,128]{1,0:T(8,128)(4,1)} gather(%param_0, %param_1), offset_dims={1}
}

%body (turn: (s32[], f32[8,128])) -> (s32[], f32[8,128]) {
  %turn = (s32[]{:T(128)}, f32[8,128]{1,0:T(8,128)}) parameter(0)
  %count = s32[]{:T(128)S(6)} get-tuple-element(%turn), index=0
  %held = f32[8,128]{1,0:T(8,128)} get-tuple-element(%turn), index=1
  %negated = f32[8,128]{1,0:T(8,128)} negate(%held), CYCLES100
  ROOT %next = (s32[]{:T(128)}, f32[8,128]{1,0:T(8,128)}) tuple(%count, %negated)
}

%condition (turn: (s32[], f32[8,128])) -> pred[] {
  %limit = s32[]{:T(128)} constant(5)
  %turn.1 = (s32[]{:T(128)}, f32[8,128]{1,0:T(8,128)}) parameter(0)
  %count.1 = s32[]{:T(128)} get-tuple-element(%turn.1), index=0
  ROOT %less = pred[]{:T(512)} compare(%count.1, %limit), direction=LT
}

ENTRY %main (table: u8[50,128], rows: s32[8], x: f32[8,100]) -> f32[8,128] {
  %table = u8[50,128]{1,0:T(8,128)(4,1)} parameter(0)
  %rows = s32[8]{0:T(128)S(1)} parameter(1)
  %x = f32[8,100]{1,0:T(8,128)} parameter(2)
  %taken = u8[8,128]{1,0:T(8,128)(4,1)S(1)} fusion(%table, /*index=1*/%rows), calls=%fused, CYCLES30
  %copy-start = (X{S1}, X, u32[]{:S(2)}) copy-start(%x)
  %copy-done = X{S1} copy-done(%copy-start)
  %slice-start = ((X), X{S1}, s32[]{:S(2)}) slice-start(%x), slice={[0:8], [0:100]}
  %slice-done = X{S1} slice-done(%slice-start)
  %wide = f32[8,128]{1,0:T(8,128)} pad(%copy-done), CYCLES7
  %begin = (s32[]{:T(128)}, f32[8,128]{1,0:T(8,128)}) tuple(%zero, %wide)
  %loop = (s32[]{:T(128)}, f32[8,128]{1,0:T(8,128)}) while(%begin), condition=%condition, body=%body
  ROOT %end = f32[8,128]{1,0:T(8,128)} get-tuple-element(%loop), index=1
}
"""
PROGRAM = PROGRAM.replace("X{S1}", "f32[8,100]{1,0:T(8,128)S(1)}").replace(
    "X", "f32[8,100]{1,0:T(8,128)}"
)
PROGRAM = re.sub(r"CYCLES(\d+)", r'backend_config={"estimated_cycles":"\1"}', PROGRAM)
BLOCK = 4 * 8 * 128


def test_an_array_takes_whole_tiles_and_counts_off_the_chip_alone():
    assert off_chip("f32[8,100]{1,0:T(8,128)}") == off_chip("f32[8,100]{0,1:T(128,8)}") == BLOCK
    assert off_chip("f32[100,8]{0,1:T(8,128)}") == BLOCK
    assert off_chip("f32[3,1,8]{2,1,0:T(8,128)}") == 3 * BLOCK
    assert off_chip("bf16[5]{0:T(1024)(128)(2,1)}") == 2048
    assert off_chip("f32[]{:T(128)}") == 512 and off_chip("pred[7]") == 7
    assert off_chip("(f32[8,100]{1,0:T(8,128)S(1)}, u32[]{:S(2)})") == 0


def test_bytes_are_those_of_what_is_read_and_written():
    gathered, copied, part, padded = 8 * 128, BLOCK, BLOCK, BLOCK
    assert off_chip_bytes(PROGRAM) == gathered + copied + part + padded + 5 * 2 * BLOCK


def test_a_table_that_is_read_whole_counts_whole():
    whole = PROGRAM.replace("gather(%param_0", "reduce(%param_0")
    assert off_chip_bytes(whole) - off_chip_bytes(PROGRAM) == (56 - 8) * 128


def test_cycles_of_a_loop_count_for_each_turn():
    assert estimated_cycles(PROGRAM) == 30 + 7 + 5 * 100
    unknown = PROGRAM.replace("constant(5)", "parameter(1)")
    assert estimated_cycles(unknown) == 30 + 7 + 100
