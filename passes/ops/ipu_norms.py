"""Normalisations that PopRT writes into a graph.

FastNorm takes the place of a group norm of one group, which takes the place of a layer norm: it is one, over the last
axis. GroupNormalization is that of PopART: x [N, C, ...], one scale and one shift a channel [C], and as many groups as
``num_groups`` says. Both need LayerNormalization.
"""

from __future__ import annotations

#: The opset that the bodies need.
LEAST_OPSET = 17

FAST_NORM = """
FastNorm <epsilon : float = 0.00001> (x, scale, shift) => (y)
{
    y = LayerNormalization <axis = -1, epsilon : float = @epsilon> (x, scale, shift)
}
"""

#: [N, C, ...] -> [N, groups, K], normalised over K, -> [N, C, ...] -> [N, C, K'], scaled -> [N, C, ...].
GROUP_NORMALIZATION = """
GroupNormalization <num_groups : int = 1, epsilon : float = 0.00001> (x, scale, shift) => (y)
{
    rest = Constant <value_ints = [-1]> ()
    last = Constant <value_ints = [1]> ()
    groups_number = Constant <value_int : int = @num_groups> ()
    groups = Reshape (groups_number, last)
    shape = Shape (x)
    samples = Shape <start = 0, end = 1> (x)
    channels = Shape <start = 0, end = 2> (x)
    group_shape = Concat <axis = 0> (samples, groups, rest)
    grouped = Reshape (x, group_shape)
    size = Shape <start = 2, end = 3> (grouped)
    one = Constant <value_float = 1.0> ()
    ones = Expand (one, size)
    ones_like = CastLike (ones, x)
    normalised = LayerNormalization <axis = -1, epsilon : float = @epsilon> (grouped, ones_like)
    channel_shape = Concat <axis = 0> (channels, rest)
    by_channel = Reshape (normalised, channel_shape)
    scale_column = Unsqueeze (scale, last)
    shift_column = Unsqueeze (shift, last)
    scaled = Mul (by_channel, scale_column)
    shifted = Add (scaled, shift_column)
    y = Reshape (shifted, shape)
}
"""
