"""What a hospital's own answers and outcomes show of a model at work. It sends nothing, and leaves
to ``flo.clients.serving`` to count answers and to ``flo.clients.prediction`` which version answers.
"""
