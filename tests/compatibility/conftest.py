"""The command in an empty folder, as the tests of the command have it."""

from tests.poprt_cli.conftest import poprt as poprt  # a fixture
