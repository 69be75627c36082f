"""Tables, curves and tests from the noisy sum of a statistics study; post-processing only.

Intervals cover the noise and the chance of who the patients are. What is summed and how much noise
is added is decided in ``flo.privacy``; pages and files are the callers'.
"""
