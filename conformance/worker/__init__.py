"""What runs in a framework's own interpreter: the standard library and NumPy only.

Nothing here may import from outside ``conformance.worker``: the interpreter of a managed environment has
no click, no Hypothesis and not even an installed ``conformance``. Kept to Python 3.9 syntax, because old
framework releases need old interpreters.
"""
