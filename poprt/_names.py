"""Keys under which scripts find things in a model's metadata and in the blobs of an executable."""

from poprt_format.host_concat import HOST_CONCAT_KEY

#: What a model says of the inputs that were joined (pass ``apply_host_concat_split``).
sHostConcatRunnerConfig = HOST_CONCAT_KEY  # noqa: N816  (scripts import it by this name)
