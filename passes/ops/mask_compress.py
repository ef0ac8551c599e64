"""MaskCompress: what Compress keeps, in an extent that does not depend on values."""

from __future__ import annotations

#: PopRT puts it in the place of a Compress, whose extent the IPU cannot know. That leaves one meaning: the extent
#: stays, what the condition holds for comes first in its order, and zeros fill the rest.
BODY = """
MaskCompress <axis : int = 0> (x, condition) => (y)
{
    keep = Cast <to = 9> (condition)
    drop = Not (keep)
    first = Compress <axis : int = @axis> (x, keep)
    others = Compress <axis : int = @axis> (x, drop)
    others_shape = Shape (others)
    zeros = ConstantOfShape (others_shape)
    zeros_like = CastLike (zeros, x)
    y = Concat <axis : int = @axis> (first, zeros_like)
}
"""
