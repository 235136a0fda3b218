"""The shipped pytest suite: ``pytest --pyargs conformance -k gru_hidden_none``."""
