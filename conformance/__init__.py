"""rnn-conformance: tells whether two RNN implementations compute the same thing, and if not, what is wrong."""

__version__ = "0.1.0"
