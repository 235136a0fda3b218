"""An adapter whose framework is missing."""

import a_framework_that_is_not_installed  # noqa: F401
