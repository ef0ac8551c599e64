"""What a text model says of itself: the member ``text.json`` of its executable."""

from __future__ import annotations

import dataclasses
import json
import reprlib
from dataclasses import dataclass, field

from poprt.errors import DamagedExecutableError
from poprt.executable import TEXT, Manifest
from poprt.manifest_schema import read_record

EMBEDDING, CLASSIFICATION, RERANKING = "embedding", "sequence-classification", "reranking"
TOKEN_CLASSIFICATION, QUESTION_ANSWERING = "token-classification", "question-answering"
#: What a text model may be for.
TASKS = (EMBEDDING, CLASSIFICATION, RERANKING, TOKEN_CLASSIFICATION, QUESTION_ANSWERING)
#: Tasks whose answer has one value a token; the others have one row a text.
BY_TOKEN = (TOKEN_CLASSIFICATION, QUESTION_ANSWERING)
#: What may be applied to logits.
ACTIVATIONS = ("none", "sigmoid", "softmax")
_SIDES = ("left", "right")


@dataclass(frozen=True)
class TextFacts:
    """What a text model is for, and how texts become its inputs.

    Attributes:
        name: what the folder calls the model.
        task: one of :data:`TASKS`.
        outputs: the graph's outputs that hold the answer, in the task's order: one, or start and end logits.
        max_length: most tokens of a text or of a pair, special ones included.
        labels: name of each logit; empty for embeddings and question answering.
        activation: what makes scores of logits by default, one of :data:`ACTIVATIONS`.
        prompts: name -> text that is put before an input.
        default_prompt: the prompt of an input without one; "" is none.
        pooling: how token vectors become one, for people; "" where nothing is pooled.
        normalised: whether embeddings have length 1.
        similarity: how embeddings are compared: "cosine", "dot", ...; "" where the folder does not say.
        dimension: length of an embedding; 0 for other tasks.
        dimensions: shorter lengths to which an embedding may be cut, ascending; empty where the model declares none.
        strip, lower: whether a text loses the blanks around it, or its capitals, before it is tokenised.
        truncation_side: from which side a text that is too long is cut.
        type_ids: whether the tokenizer's type ids are fed; otherwise zeros.
        question_first: whether a question stands before its context.
        unk_token, cls_token: as in the tokenizer; "" where it has none.
    """

    name: str
    task: str
    outputs: tuple[str, ...]
    max_length: int
    labels: tuple[str, ...] = ()
    activation: str = "none"
    prompts: dict[str, str] = field(default_factory=dict)
    default_prompt: str = ""
    pooling: str = ""
    normalised: bool = False
    similarity: str = ""
    dimension: int = 0
    strip: bool = False
    lower: bool = False
    truncation_side: str = "right"
    type_ids: bool = True
    question_first: bool = True
    unk_token: str = ""
    cls_token: str = ""
    dimensions: tuple[int, ...] = ()

    def to_json(self) -> bytes:
        """The contents of the member."""
        return json.dumps(dataclasses.asdict(self), indent=1, sort_keys=True).encode()


def read_facts(data: bytes, manifest: Manifest) -> TextFacts:
    """The facts that a member holds, after a look whether they fit the executable.

    Raises:
        DamagedExecutableError: they are no JSON, a field is not of its type, or says what cannot be.
    """
    try:
        body = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise DamagedExecutableError(f"member {TEXT!r} is no JSON: {error}") from error
    facts = read_record(TextFacts, body, TEXT)
    for name, words in (("task", TASKS), ("activation", ACTIVATIONS), ("truncation_side", _SIDES)):
        if getattr(facts, name) not in words:
            raise DamagedExecutableError(f"{TEXT} field {name!r} is {getattr(facts, name)!r}, expected one of {words}")
    _check_outputs(facts, manifest)
    return facts


def _check_outputs(facts: TextFacts, manifest: Manifest) -> None:
    packing = manifest.packing
    if packing is None:
        raise DamagedExecutableError(f"it has a {TEXT}, and is not packed")
    if not 0 < facts.max_length <= packing.width:
        raise DamagedExecutableError(f"{TEXT} field 'max_length' is {facts.max_length}, expected 1 to {packing.width}")
    layout = "tokens" if facts.task in BY_TOKEN else "sample"
    shapes = {spec.name: spec.shape for spec in manifest.outputs}
    count = 2 if facts.task == QUESTION_ANSWERING else 1
    if len(facts.outputs) != count or any(packing.outputs.get(name) != layout for name in facts.outputs):
        raise DamagedExecutableError(
            f"{TEXT} field 'outputs' is {facts.outputs}, expected {count} of one row a {layout}"
        )
    widths = {shapes[name][-1] for name in facts.outputs}
    expected = facts.dimension if facts.task == EMBEDDING else len(facts.labels)
    if facts.task != QUESTION_ANSWERING and widths != {expected}:
        raise DamagedExecutableError(f"{TEXT}: it names {expected} values a row, the output has {max(widths)}")
    if list(facts.dimensions) != sorted({size for size in facts.dimensions if 0 < size < facts.dimension}):
        raise DamagedExecutableError(
            f"{TEXT} field 'dimensions' is {reprlib.repr(facts.dimensions)}, expected ascending sizes below "
            f"{facts.dimension}"
        )
    if facts.default_prompt and facts.default_prompt not in facts.prompts:
        raise DamagedExecutableError(f"{TEXT} field 'default_prompt' is {facts.default_prompt!r}, which is no prompt")
