"""Published and finished models at work: they answer the hospital's record system.

`clients.prediction` says what a model answers and which version may; here is how a request comes in
and its answer goes out.
"""
