"""How a packed model says how it is packed."""

#: The ``metadata_props`` key: a JSON object with the fields of ``poprt.executable.PackingSpec`` (``ragged`` excepted),
#: ``shape_agnostic`` (nothing inside depends on the declared extents), ``packed_flops`` and ``total_flops``.
METADATA_KEY = "poprt.packing"

#: The input that holds the lengths of the samples, int32 [max_valid_num, segments].
UNPACK_INFO = "unpack_info"
