"""Rules of single primitives, on arrays by hand."""

import pytest

from bbo.compaction.tracing.flow import rules as flow
from bbo.compaction.tracing.flow.positions import Call, Place
from bbo.compaction.tracing.flow.shapes import blocks


def flow_of(name, operands, results, carried=None, **params):
    carried = carried or [(True,) * len(shape) for shape in operands]
    return flow.flow_of(name, Call(params, operands, results, carried))


def ties(found):
    return {(tie.result, tie.operand): tie.index.tolist() for tie in found.ties}


BLOCKS = [
    ((4,), (4,), [([0], [0])]),
    ((2, 3), (3, 2), [([0, 1], [0, 1])]),
    ((2, 3, 4), (6, 4), [([0, 1], [0]), ([2], [1])]),
    ((2, 12), (2, 3, 4), [([0], [0]), ([1], [1, 2])]),
    ((2, 1, 4), (2, 4), [([0], [0]), ([1], []), ([2], [1])]),
    ((2, 1, 4), (2, 4, 1), [([0], [0]), ([1, 2], [1]), ([], [2])]),
    ((4, 6, 5), (2, 2, 6, 5), [([0], [0, 1]), ([1], [2]), ([2], [3])]),
    ((4, 4, 2), (4, 2, 4), [([0], [0]), ([1, 2], [1, 2])]),
    ((), (1,), [([], [0])]),
    ((1, 1), (), [([0], []), ([1], [])]),
]


@pytest.mark.parametrize("old, new, expected", BLOCKS)
def test_blocks_of_a_reshape(old, new, expected):
    assert blocks(old, new) == expected


def test_what_is_not_known_is_fixed_by_its_name():
    found = flow_of("secret", [(2, 3)], [(2,)])
    reason = "it passes through secret, which is not understood"
    assert found.fixed_operands == [(Place(0, 0), reason), (Place(0, 1), reason)]
    assert (Place(0, 0), reason) in found.fixed_results and not found.ties


def test_new_positions_are_fixed_unless_they_can_be_left_out():
    part = flow_of("dynamic_slice", [(8, 3)], [(4, 3)], slice_sizes=(4, 3))
    assert part.fixed_results == [(Place(0, 0), "its positions are made by dynamic_slice")]
    filled = flow_of("broadcast_in_dim", [(3,)], [(8, 3)], broadcast_dimensions=(1,))
    assert not filled.fixed_results
    assert ties(filled) == {(Place(0, 1), Place(0, 0)): [[0], [1], [2]]}


def test_positions_that_vanish_are_fixed():
    reason = "a single one of them is picked out"
    for found in (
        flow_of("squeeze", [(1, 3)], [(3,)], dimensions=(0,)),
        flow_of("reshape", [(1, 3)], [(3,)], dimensions=None),
        flow_of("broadcast_in_dim", [(1, 3)], [(5, 3)], broadcast_dimensions=(0, 1)),
    ):
        assert found.fixed_operands == [(Place(0, 0), reason)]


def test_reshape_merges_with_what_carries_channels():
    found = flow_of("reshape", [(2, 3)], [(6,)], [(False, True)], dimensions=None)
    assert ties(found) == {(Place(0, 0), Place(0, 1)): [[0], [1], [2], [0], [1], [2]]}
    assert found.fixed_operands == [(Place(0, 0), "it is merged with channels")]
    mixed = flow_of("reshape", [(2, 3)], [(6,)], [(True, True)], dimensions=None)
    assert {reason for _, reason in mixed.fixed_operands} == {
        "a reshape from [2, 3] to [6] mixes axes"
    }


def test_reshape_splits_into_units_of_several():
    found = flow_of("reshape", [(6,)], [(3, 2)], dimensions=None)
    assert ties(found) == {(Place(0, 0), Place(0, 0)): [[0, 1], [2, 3], [4, 5]]}
    assert found.fixed_results == [(Place(0, 1), "it is a part of channels that were split")]


def test_padding_between_and_cutting_off():
    found = flow_of("pad", [(4,), ()], [(6,)], padding_config=((-1, 0, 1),))
    assert ties(found) == {(Place(0, 0), Place(0, 0)): [[-1], [1], [-1], [2], [-1], [3]]}


def test_bitcast_to_another_width_is_not_followed():
    assert flow_of("bitcast_convert_type", [(4,)], [(4,)]).ties
    assert flow_of("bitcast_convert_type", [(4,)], [(4, 2)]).fixed_operands
