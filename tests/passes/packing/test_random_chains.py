"""Random chains of operators: wherever the pass puts its crossings, each sample gets its own numbers."""

from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from tests.passes.packing.packs import around, assert_each_is_right, packed, run_declared, run_ragged, samples

#: ``[layout of {i}]``, then steps: a layout of the result {o}, and lines; {n} is unique. A layout names the axes.
#: No step may let padding reach a sample in a padded batch, since then the model itself gives no certain answer.
STEPS = """
[bsh]
bsh   {o} = Relu ({i})
bsh   {o} = MatMul ({i}, W1)
bsh   {o} = Softmax <axis = -1> ({i})
bsh   {o} = Add ({i}, x)
bsh   {o} = Tanh ({i})
sbh   {o} = Transpose <perm = [1, 0, 2]> ({i})
bhs   {o} = Transpose <perm = [0, 2, 1]> ({i})
bsnd  k{n} = Constant <value_ints = [0, 0, 4, 2]> ()  {o} = Reshape ({i}, k{n})
(bs)h k{n} = Constant <value_ints = [-1, 8]> ()  {o} = Reshape ({i}, k{n})
bsh   {o} = LayerNormalization <axis = -1> ({i}, V, V1)
bsh   {o} = CumSum ({i}, scalar_one)
b1h   m{n} = Mul ({i}, column)  {o} = ReduceSum (m{n}, one)
bsh   s{n} = Shape <start = 1, end = 2> ({i})  p{n} = Slice (P, zero, s{n}, one)  {o} = Add ({i}, p{n})
bsh   s{n} = Shape <start = 1, end = 2> ({i})  c{n} = Squeeze (s{n}, zero)
       r{n} = Range (scalar_zero, c{n}, scalar_one)  t{n} = Gather (T, r{n})  {o} = Mul ({i}, t{n})
bsh   m{n} = Mul ({i}, column)  t{n} = Transpose <perm = [0, 2, 1]> (m{n})  q{n} = MatMul (t{n}, {i})
       {o} = MatMul ({i}, q{n})
bsh   low{n} = Constant <value_ints = [-9223372036854775808]> ()  f{n} = Slice ({i}, last, low{n}, one, last)
       g{n} = MatMul (f{n}, W1)  {o} = Slice (g{n}, last, low{n}, one, last)
bsh   pads{n} = Constant <value_ints = [0, 1, 0, 0, -1, 0]> ()  {o} = Pad ({i}, pads{n})
bsh   d{n} = ReduceMean <axes = [2]> ({i})  {o} = Sub ({i}, d{n})
bsh   a{n}, c{n} = Split <axis = 2> ({i})  {o} = Concat <axis = 2> (c{n}, a{n})
bsh   z{n} = Shape ({i})  u{n} = ConstantOfShape (z{n})  {o} = Add ({i}, u{n})
bsh   {o} = local.Twice ({i})
[sbh]
bsh   {o} = Transpose <perm = [1, 0, 2]> ({i})
sbh   {o} = MatMul ({i}, W1)
sbh   {o} = Sigmoid ({i})
bhs   {o} = Transpose <perm = [1, 2, 0]> ({i})
sbh   k{n} = Constant <value_ints = [-1, 8]> ()  f{n} = Reshape ({i}, k{n})  g{n} = Gemm (f{n}, W1, V)
       z{n} = Shape ({i})  {o} = Reshape (g{n}, z{n})
sbh   {o} = CumSum ({i}, scalar_zero)
[bhs]
bsh   {o} = Transpose <perm = [0, 2, 1]> ({i})
bhs   {o} = MatMul (W1, {i})
bhs   {o} = Conv ({i}, K1)
bhs   {o} = Softmax <axis = 1> ({i})
bhs   m{n} = Mul ({i}, keep3)  {o} = Conv <pads = [1, 1]> (m{n}, K3)
[bsnd]
bsh   k{n} = Constant <value_ints = [0, 0, 8]> ()  {o} = Reshape ({i}, k{n})
bsnd  {o} = Exp ({i})
bnsd  {o} = Transpose <perm = [0, 2, 1, 3]> ({i})
bsnd  k{n} = Transpose <perm = [0, 1, 3, 2]> ({i})  p{n} = MatMul ({i}, k{n})  {o} = MatMul (p{n}, {i})
[bnsd]
bsnd  {o} = Transpose <perm = [0, 2, 1, 3]> ({i})
bnsd  {o} = Neg ({i})
bnsd  k{n} = Transpose <perm = [0, 1, 3, 2]> ({i})  r{n} = MatMul ({i}, k{n})  a{n} = Add (r{n}, drop4)
       w{n} = Softmax (a{n})  {o} = MatMul (w{n}, {i})
[(bs)h]
bsh   z{n} = Shape (x)  {o} = Reshape ({i}, z{n})
(bs)h {o} = Gemm ({i}, W1, V)
(bs)h {o} = Relu ({i})
[b1h]
bsh   {o} = Add ({i}, x)
b1h   {o} = MatMul ({i}, W1)
bsh   z{n} = Shape (x)  {o} = Expand ({i}, z{n})
"""
HOME = {
    "bsh": "y = Identity ({i})",
    "sbh": "y = Transpose <perm = [1, 0, 2]> ({i})",
    "bhs": "y = Transpose <perm = [0, 2, 1]> ({i})",
    "bsnd": "home = Constant <value_ints = [0, 0, 8]> ()  y = Reshape ({i}, home)",
    "bnsd": "y = Transpose <perm = [0, 2, 1, 3]> ({i})",
    "(bs)h": "home = Shape (x)  y = Reshape ({i}, home)",
    "b1h": "y = Identity ({i})",
}
BEFORE = (
    "keep3 = Unsqueeze (keep, one)  keep4 = Unsqueeze (keep3, one)  yes = Constant <value_float = 1.0> ()  "
    "low = Constant <value_float = -1e9> ()  no4 = Sub (yes, keep4)  drop4 = Mul (no4, low)  "
)
FUNCTIONS = '<domain: "local", opset_import: ["" : 17]> Twice (a) => (t) { t = Add (a, a) }'


def read_steps():
    """Layout -> its steps, each the lines and the layout of the result."""
    steps = {}
    for line in STEPS.strip().splitlines():
        if line.startswith("["):
            layout_steps = steps[line.strip("[]")] = []
        elif line.startswith(" "):
            layout_steps[-1] = (layout_steps[-1][0] + line, layout_steps[-1][1])
        else:
            layout, text = line.split(maxsplit=1)
            layout_steps.append((text, layout))
    return steps


READ = read_steps()


@st.composite
def chains(draw):
    """Lines of up to eight steps; each goes on from one of the last three tensors; two branches may be added."""
    lines, tensors = [], [("x", "bsh")]
    for number in range(draw(st.integers(1, 8))):
        back = draw(st.sampled_from([1, 1, 1, 2, 3]))
        name, layout = tensors[-min(back, len(tensors))]
        step, result = draw(st.sampled_from(READ[layout]))
        output = f"v{number}"
        lines.append(step.format(i=name, o=output, n=number))
        same = [other for other, kind in tensors if kind == result]
        if same and draw(st.booleans()):
            lines.append(f"{output}_sum = Add ({output}, {draw(st.sampled_from(same))})")
            output = f"{output}_sum"
        scaled = f"{output}_small"  # so that no chain grows beyond what fp32 tells apart
        lines.append(f"{scaled} = Tanh ({output})")
        tensors.append((scaled, result))
    name, layout = tensors[-1]
    return BEFORE + "\n".join([*lines, HOME[layout].format(i=name)])


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(chains(), st.lists(st.integers(1, 9), min_size=1, max_size=6), st.integers(0, 9))
def test_any_chain_gives_each_sample_its_own_numbers(body, lengths, seed):
    assume(sum(lengths) <= 36)
    model = around(body, functions=FUNCTIONS if "local." in body else "")
    samples_given = samples(lengths, seed)
    assert_each_is_right(run_declared(packed(model), samples_given), model, samples_given)
    assert_each_is_right(run_ragged(model, samples_given), model, samples_given)
